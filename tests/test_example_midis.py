"""The example pieces: the files on disk, what they contain, and what the README says of them."""

import importlib.util
import itertools
import math
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import mido
import pretty_midi
import pytest

FOLDER = Path(__file__).resolve().parent.parent / "example_midis"
SCRIPT = FOLDER / "write_midis.py"
FRAMES_A_SECOND = 20

FIRST_NOTES = {
    "five_finger_scale": "C4 D4 E4 F4 G4 F4 E4 D4 C4",
    "westminster_chimes": "C5 E5 D5 G4 C5 D5 E5 C5",
    "twinkle_twinkle": "C5 C5 G5 G5 A5 A5 G5 F5 F5 E5 E5 D5 D5 C5",
    "ode_to_joy": "F#4 F#4 G4 A4 A4 G4 F#4 E4 D4 D4 E4 F#4 F#4 E4 E4",
    "fur_elise": "E5 D#5 E5 D#5 E5 B4 D5 C5 A4 C4 E4 A4 B4 E4 G#4 B4 C5 E4 E5 D#5",
    "prelude_in_c": "G4 C5 E5 G4 C5 E5 G4 C5 E5 G4 C5 E5 A4 D5 F5",
    "prelude_in_e_minor": "B3 B4 B4 C5 B4 C5 B4 C5 B4 A#4",
}
FIRST_LEFT_NOTES = {
    "five_finger_scale": "",
    "westminster_chimes": "",
    "twinkle_twinkle": "C4 E4 F4 E4 D4 C4 F3 G3 C3",
    "ode_to_joy": "D3 A3 D3 A3 C#3 B2 F#3 G2 E3 A2 D3 C#3",
    "fur_elise": "A2 E3 A3 E2 E3 G#3 A2 E3 A3",
    "prelude_in_c": "C4 E4 C4 E4 C4 D4 C4 D4 B3 D4 B3 D4 C4 E4",
    "prelude_in_e_minor": "G3 B3 E4 G3 B3 E4",
}
CHORDS_IN_E_MINOR = [
    ("G3 B3 E4", 8),
    ("F#3 A3 E4", 4),
    ("F#3 A3 D#4", 4),
    ("F3 A3 D#4", 4),
    ("F3 A3 D4", 2),
    ("F3 G#3 D4", 2),
    ("E3 G#3 D4", 4),
    ("E3 G3 D4", 2),
    ("E3 G3 C#4", 2),
]
NAMES = sorted(FIRST_NOTES)


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("write_midis", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


write_midis = load_script()


def hands_of(name: str) -> list[pretty_midi.Instrument]:
    return pretty_midi.PrettyMIDI(str(FOLDER / f"{name}.mid")).instruments


def notes_of(name: str) -> list[pretty_midi.Note]:
    notes = [note for hand in hands_of(name) for note in hand.notes]
    return sorted(notes, key=lambda note: (note.start, note.pitch))


def pedal_of(name: str) -> list[tuple[float, int]]:
    changes = [change for hand in hands_of(name) for change in hand.control_changes]
    assert all(change.number == 64 for change in changes)
    return [(change.time, change.value) for change in changes]


def named(notes: list[pretty_midi.Note]) -> str:
    ordered = sorted(notes, key=lambda note: (note.start, note.pitch))
    return " ".join(pretty_midi.note_number_to_name(note.pitch) for note in ordered)


def hand_notes(name: str, hand: str) -> list[pretty_midi.Note]:
    return [note for found in hands_of(name) if found.name == hand for note in found.notes]


def readme_table() -> dict[str, list[str]]:
    text = (FOLDER / "README.md").read_text(encoding="utf-8").split("## Sources")[0]
    rows = re.findall(r"^\| `(\w+)\.mid` \| (.+) \|$", text, flags=re.MULTILINE)
    return {name: cells.split(" | ") for name, cells in rows}


def test_the_folder_holds_exactly_the_pieces_of_the_script() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.mid")) == NAMES
    assert sorted(piece.name for piece in write_midis.PIECES) == NAMES


@pytest.mark.parametrize("piece", write_midis.PIECES, ids=lambda piece: piece.name)
def test_files_are_what_the_script_writes(piece) -> None:
    assert (FOLDER / f"{piece.name}.mid").read_bytes() == write_midis.midi_bytes(piece)


def test_check_names_the_files_that_differ(tmp_path: Path) -> None:
    script = tmp_path / SCRIPT.name
    script.write_bytes(SCRIPT.read_bytes())

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(script), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    written = run()
    assert written.returncode == 0
    assert len(written.stdout.splitlines()) == len(NAMES)
    assert run("--check").returncode == 0
    (tmp_path / "ode_to_joy.mid").write_bytes(b"MThd")
    (tmp_path / "fur_elise.mid").unlink()
    checked = run("--check")
    assert checked.returncode == 1
    assert "ode_to_joy.mid" in checked.stderr
    assert "fur_elise.mid" in checked.stderr
    assert "prelude" not in checked.stderr


@pytest.mark.parametrize("name", NAMES)
def test_file_structure(name: str) -> None:
    midi = mido.MidiFile(FOLDER / f"{name}.mid")
    assert (midi.type, midi.ticks_per_beat) == (1, 480)
    opening, right, left = midi.tracks
    kinds = [message.type for message in opening]
    assert {"track_name", "copyright", "text", "set_tempo", "time_signature"} <= set(kinds)
    assert "Public domain" in next(m.text for m in opening if m.type == "copyright")
    assert "public domain" in next(m.text for m in opening if m.type == "text")
    assert (right.name, left.name) == ("Right hand", "Left hand")
    assert not any(message.type == "control_change" for message in right)


@pytest.mark.parametrize("name", NAMES)
def test_pieces_are_playable(name: str) -> None:
    notes = notes_of(name)
    assert 5 <= max(note.end for note in notes) <= 15
    assert all(21 <= note.pitch <= 108 for note in notes)
    assert all(50 <= note.velocity <= 90 for note in notes)
    assert all(note.end - note.start >= 0.1 for note in notes)
    for note in notes:
        assert sum(other.start <= note.start < other.end for other in notes) <= 10


@pytest.mark.parametrize("name", NAMES)
def test_a_key_is_let_go_before_it_is_struck_again(name: str) -> None:
    by_pitch = sorted(notes_of(name), key=lambda note: (note.pitch, note.start))
    for first, second in itertools.pairwise(by_pitch):
        if first.pitch == second.pitch:
            assert second.start - first.end >= 0.06


@pytest.mark.parametrize("name", NAMES)
def test_notes_begin_on_the_grid_of_the_environment(name: str) -> None:
    for note in notes_of(name):
        frame = note.start * FRAMES_A_SECOND
        assert frame == pytest.approx(round(frame), abs=1e-6)
        assert int(frame) == round(frame)


def test_scale_is_one_note_at_a_time() -> None:
    for first, second in itertools.pairwise(notes_of("five_finger_scale")):
        assert first.end <= second.start


@pytest.mark.parametrize("name", NAMES)
def test_pieces_begin_with_the_right_notes(name: str) -> None:
    for hand, expected in (("Right hand", FIRST_NOTES), ("Left hand", FIRST_LEFT_NOTES)):
        found = named(hand_notes(name, hand)).split()
        wanted = expected[name].split()
        assert found[: len(wanted)] == wanted


def test_fur_elise_rhythm() -> None:
    starts = [note.start for note in hand_notes("fur_elise", "Right hand")]
    assert starts[:9] == pytest.approx([0.2 * step for step in range(9)])
    assert named(notes_of("fur_elise")[8:14]) == "A2 A4 E3 A3 C4 E4"
    assert hand_notes("fur_elise", "Left hand")[0].start == pytest.approx(1.6)


def test_prelude_in_c_unfolds_each_chord_from_the_bass() -> None:
    bars = ["C4 E4 G4 C5 E5", "C4 D4 A4 D5 F5", "B3 D4 G4 D5 F5", "C4 E4 G4 C5 E5"]
    half_bars = [bar + " " + " ".join(bar.split()[2:]) for bar in bars for _ in range(2)]
    assert named(notes_of("prelude_in_c")) == " ".join(half_bars)


def test_prelude_in_e_minor_descends_by_single_voices() -> None:
    chords = " ".join(" ".join([chord] * times) for chord, times in CHORDS_IN_E_MINOR)
    assert named(hand_notes("prelude_in_e_minor", "Left hand")) == chords


@pytest.mark.parametrize("name", NAMES)
def test_pedal_is_lifted_before_each_new_press(name: str) -> None:
    changes = pedal_of(name)
    values = [value for _, value in changes]
    assert values == [127, 0] * (len(values) // 2)
    frames = [int(time * FRAMES_A_SECOND) for time, _ in changes]
    assert all(first < second for first, second in itertools.pairwise(frames))


def test_readme_table_is_true() -> None:
    table = readme_table()
    assert sorted(table) == NAMES
    for name, (_, _, bars, tempo, seconds, count, pedal, hands) in table.items():
        midi = mido.MidiFile(FOLDER / f"{name}.mid")
        opening = midi.tracks[0]
        *upbeat, measure = [
            4 * message.numerator / message.denominator
            for message in opening
            if message.type == "time_signature"
        ]
        set_tempo = next(message for message in opening if message.type == "set_tempo")
        beats = midi.length * int(tempo) / 60 - sum(upbeat)
        assert mido.tempo2bpm(set_tempo.tempo) == pytest.approx(int(tempo))
        assert math.ceil(beats / measure - 1e-6) == int(bars)
        assert midi.length == pytest.approx(float(seconds), abs=0.05)
        assert len(notes_of(name)) == int(count)
        assert bool(pedal_of(name)) == (pedal == "yes")
        assert bool(hand_notes(name, "Left hand")) == (hands == "both")
