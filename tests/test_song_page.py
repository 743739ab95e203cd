"""`pianist song`: facts, jumps out of reach, suggestions, the roll as a page and the sound."""

import json
import pathlib
import re
import wave

import mido
import numpy as np
import pytest
from test_song import load, note, write

import pianist
from piano.config import ArrangementConfig
from piano.jumps import find_jumps, most_at_once
from piano.song import LONGEST_SONG_SECONDS
from report import song_page
from report.song_facts import find_facts
from report.song_page import ShowSongConfig, show_song

EXAMPLES = sorted((pathlib.Path(__file__).parent.parent / "example_midis").glob("*.mid"))


def facts_of(path, **flags):
    return find_facts(path, ArrangementConfig(**flags)).to_json()


def meter(numerator, denominator, wait=0):
    fields = {"numerator": numerator, "denominator": denominator}
    return [("time_signature", fields, wait)]


# --- What a file holds and what is played --------------------------------------------------


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_pieces(tmp_path, path):
    answer = show_song(ShowSongConfig(path, out=tmp_path))
    messages = [message for message in mido.MidiFile(path) if message.type == "note_on"]
    pitches = [message.note for message in messages if message.velocity]
    holds, plays = answer["holds"], answer["plays"]
    assert holds["notes"] == plays["notes"] == len(pitches)
    assert holds["seconds"] == pytest.approx(mido.MidiFile(path).length, abs=0.01)
    assert plays["notes_per_second"] == pytest.approx(len(pitches) / plays["seconds"], abs=0.01)
    assert answer["findings"] == answer["jumps"] == answer["suggestions"] == []
    folder = tmp_path / path.stem.replace("_", " ")
    assert answer["files"] == [str(folder / "roll.html"), str(folder / "sound.wav")]
    page = (folder / "roll.html").read_text()
    assert len(re.findall(r"<title>[A-G]#?\d, [\d.]+ to [\d.]+ s</title></rect>", page)) == len(
        pitches
    )
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "")
    with wave.open(str(folder / "sound.wav")) as sound:
        seconds = sound.getnframes() / sound.getframerate()
        samples = np.frombuffer(sound.readframes(sound.getnframes()), np.int16)
    assert seconds == pytest.approx(plays["seconds"] + 1, abs=0.01)
    assert np.abs(samples).max() > 1000
    # As text, as JSON, and in the file's README.
    assert f"most notes at once                 {plays['most_notes_at_once']}" in song_page.text(
        answer
    )
    assert json.loads(json.dumps(answer)) == answer


def test_bars_tempi_and_tracks(tmp_path):
    path = write(
        tmp_path / "a.mid",
        [*meter(3, 4), ("set_tempo", {"tempo": 600_000}, 0), ("set_tempo", {"tempo": 300_000}, 480),
         *meter(2, 4, 960)],
        note(60) * 7,
        [("note_on", {"note": 36, "velocity": 9, "channel": 9}, 0)],
    )  # fmt: skip
    holds = facts_of(path)["holds"]
    assert holds["tracks"] == [
        {"track": 1, "name": "", "channels": [], "instruments": [], "notes": 0},
        {"track": 2, "name": "", "channels": [1], "instruments": ["Acoustic Grand Piano"],
         "notes": 7},
        {"track": 3, "name": "", "channels": [10], "instruments": ["percussion"], "notes": 1},
    ]  # fmt: skip
    assert (holds["bars"], holds["time_signatures"]) == (3, ["3/4", "2/4"])
    assert (holds["tempo_changes"], holds["beats_per_minute"]) == (1, [100.0, 200.0])
    assert holds["seconds"] == pytest.approx(0.6 + 6 * 0.3)


def test_what_is_left_out_has_every_bar_and_time(tmp_path):
    path = write(tmp_path / "a.mid", note(10) + note(60) * 7 + note(120))
    answer = show_song(ShowSongConfig(path, out=tmp_path))
    assert answer["findings"] == [
        {
            "what": "note(s) off the keyboard left out",
            "places": [{"bar": 1, "seconds": 0.0}, {"bar": 3, "seconds": 4.0}],
        }
    ]
    words = "2 note(s) off the keyboard left out: bar 1, 0.00 s; bar 3, 4.00 s"
    assert words in song_page.text(answer)
    assert "bar 1, 0.00 s; bar 3, 4.00 s" in (tmp_path / "a/roll.html").read_text()


def test_many_places_are_shown_in_part_and_listed_in_full(tmp_path):
    path = write(tmp_path / "a.mid", note(10) * 20 + note(60))
    answer = show_song(ShowSongConfig(path, out=tmp_path))
    assert "; 12 more" in song_page.text(answer)
    assert len(answer["findings"][0]["places"]) == 20
    assert (tmp_path / "a/roll.html").read_text().count(" s; bar ") == 19


def test_what_is_played_of_a_part(tmp_path):
    """Bars of the file at their time in what is played, also stretched and trimmed."""
    path = write(tmp_path / "a.mid", note(60) * 8 + note(62, wait=480) * 4 + note(64) * 4)
    config = ArrangementConfig(bars="3-5", trim_silence=True, stretch_factor=2.0)
    facts = find_facts(path, config)
    # The part begins at 4 s with half a second of rest.
    assert facts.song is not None
    assert facts.song.origin == pytest.approx(4.5)
    assert list(facts.bar_lines()) == [(4, pytest.approx(3)), (5, pytest.approx(7))]
    assert str(facts.place(3.0)) == "bar 4, 6.00 s"
    assert facts.to_json()["plays"]["title"] == "a bars 3-5"


def test_a_song_too_long_is_described_with_parts_of_it(tmp_path):
    path = write(tmp_path / "a.mid", note(60) * (int(LONGEST_SONG_SECONDS) * 2 + 4))
    answer = show_song(ShowSongConfig(path, out=tmp_path / "out"))
    assert answer["plays"] is None
    assert "longer than the limit of 600 s" in answer["cannot_be_played"]
    assert answer["files"] == []
    assert not (tmp_path / "out").exists()
    assert answer["suggestions"][0]["flag"] == "--bars 1-5"
    assert "cannot be played: a lasts 602 s" in song_page.text(answer)
    part = show_song(ShowSongConfig(path, tmp_path, ArrangementConfig(bars="1-5")))
    assert part["plays"]["notes"] == 20


def test_a_file_without_music_has_no_bar_lines(tmp_path):
    """Bars of a millionth of a second."""
    path = write(tmp_path / "a.mid", [("set_tempo", {"tempo": 1}, 0), *meter(1, 64)],
                 note(60, ticks=2**27), ticks_per_beat=1)  # fmt: skip
    facts = find_facts(path, ArrangementConfig())
    assert list(facts.bar_lines()) == []


def test_a_name_of_dots_stays_in_its_folder(tmp_path):
    path = write(tmp_path / "...mid", note(60))
    answer = show_song(ShowSongConfig(path, out=tmp_path / "out"))
    assert answer["files"][0] == str(tmp_path / "out" / "song" / "roll.html")


def test_without_fluidsynth_there_is_no_sound_and_that_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("piano.recording.what_is_missing_for_sound", lambda: "no sound: it is not")
    answer = show_song(ShowSongConfig(EXAMPLES[0], out=tmp_path))
    assert [pathlib.Path(path).name for path in answer["files"]] == ["roll.html"]
    assert "no sound: it is not" in capsys.readouterr().err


def test_html_in_names_is_only_text(tmp_path):
    path = write(tmp_path / "<b>.mid", note(60))
    show_song(ShowSongConfig(path, out=tmp_path))
    page = (tmp_path / "<b>" / "roll.html").read_text()
    assert "<b>" not in page
    assert "&lt;b&gt;" in page


def test_the_answer_is_readable():
    assert pianist.readable({"file": "a", "holds": {"notes": 3, "tracks": []}, "plays": None,
                             "cannot_be_played": "x", "findings": [], "suggestions": [],
                             "files": []}).splitlines() == [
        "a holds", "  notes                              3", "cannot be played: x",
    ]  # fmt: skip


# --- Suggestions -------------------------------------------------------------------------


def suggestions_of(path):
    found = facts_of(path)["suggestions"]
    for one in found:
        flag, value = one["flag"].split()
        part = load(path, **{flag[2:]: value})
        assert len(part.midi.seq.notes) == one["notes"]
        assert part.midi.seq.total_time == pytest.approx(one["seconds"], abs=1.0)
        assert 5 <= one["seconds"] <= 15
    return {one["why"]: one["flag"] for one in found}


def test_suggestions_are_whole_bars_of_a_score(tmp_path):
    dense = [event for _ in range(20) for event in note(60, ticks=240) + note(64, ticks=240)]
    path = write(tmp_path / "a.mid", note(60) * 40 + dense + note(60, ticks=1920) * 10)
    assert suggestions_of(path) == {
        "the opening": "--bars 1-5", "few notes": "--bars 16-20", "many notes": "--bars 11-15",
    }  # fmt: skip


def test_suggestions_are_seconds_of_a_performance(tmp_path):
    random = np.random.default_rng(0)
    lengths = random.integers(200, 700, 80).tolist()
    path = write(tmp_path / "a.mid", [event for ticks in lengths for event in note(60, ticks)])
    assert all(re.fullmatch(r"--excerpt [\d.]+:[\d.]+", f) for f in suggestions_of(path).values())


def test_a_short_piece_needs_no_suggestions(tmp_path):
    assert suggestions_of(write(tmp_path / "a.mid", note(60) * 30)) == {}


# --- Jumps -------------------------------------------------------------------------------


def melody(*pitches, every=0.25, length=0.24):
    return [(i * every, i * every + length, pitch) for i, pitch in enumerate(pitches)]


@pytest.mark.parametrize(
    "notes",
    [
        melody(60),
        melody(60, 72, 60, 72),
        # Two octaves apart, and each hand stays where it is.
        melody(48, 84, 48, 84),
        melody(60, 62, 64) + melody(36, 38, 40),
        # Three octaves, with time enough.
        melody(48, 84, 108, 48, every=2.0, length=0.5),
        # A span of 14 semitones is no jump of the hand as a whole.
        melody(60, 74),
    ],
)
def test_what_hands_can_make(notes):
    assert find_jumps(notes) == []


def test_what_hands_cannot_make():
    (jump,) = find_jumps(melody(30, 60, 100, every=0.1, length=0.1))
    assert jump.available == 0
    assert jump.seconds in (pytest.approx(0.1), pytest.approx(0.2))
    low, high = (
        melody(30, 30, 30, 30, every=0.2, length=0.2),
        melody(70, 90, 70, 90, every=0.2, length=0.12),
    )
    assert [(one.hand, one.semitones) for one in find_jumps(low + high)] == []
    high = melody(70, 100, 70, 100, every=0.2, length=0.2)
    assert [(one.hand, one.semitones, round(one.seconds, 3)) for one in find_jumps(low + high)] == [
        ("right", 18, 0.2), ("right", 18, 0.4), ("right", 18, 0.6),
    ]  # fmt: skip


def test_more_time_makes_no_more_jumps():
    random = np.random.default_rng(1)
    pitches = random.integers(21, 109, 40).tolist()
    counts = [
        len(find_jumps(melody(*pitches, every=every, length=0.1))) for every in (0.1, 0.2, 0.6)
    ]
    assert counts[0] > counts[1] > counts[2] == 0


def test_most_at_once():
    assert most_at_once([]) == 0
    assert most_at_once([(0, 1, 60), (1, 2, 62), (0.5, 3, 64)]) == 2
