"""Tracks and channels: percussion left out, others chosen, other instruments named."""

import pytest
from test_song import load, notes_of, write

from common.errors import BadInput
from piano.config import ArrangementConfig, SongConfig


def on(channel, pitch, ticks=480):
    return [
        ("note_on", {"note": pitch, "velocity": 80, "channel": channel}, 0),
        ("note_off", {"note": pitch, "channel": channel}, ticks),
    ]


def program(channel, number):
    return [("program_change", {"program": number, "channel": channel}, 0)]


def pedal(channel, value=127):
    return [("control_change", {"control": 64, "value": value, "channel": channel}, 0)]


@pytest.fixture
def song(tmp_path):
    """Piano in track 1, bass in track 2, piano and then drums in track 3."""
    return write(
        tmp_path / "a.mid",
        program(0, 0) + on(0, 60) + on(0, 62),
        program(1, 32) + pedal(1) + on(1, 40, ticks=960),
        on(2, 70) + pedal(9) + on(9, 36) + on(9, 38),
    )


def pitches(song):
    return sorted(pitch for _, _, pitch, _ in notes_of(song))


LEFT_OUT = "a.mid: 2 note(s) of percussion (channel 10) left out, first at bar 1, 0.50 s"
PEDAL_LEFT_OUT = (
    "a.mid: 1 pedal change(s) of percussion (channel 10) left out, first at bar 1, 0.50 s"
)
BASS = "a.mid: 1 note(s) of Acoustic Bass (channel 2) played on the piano, first at bar 1, 0.00 s"


def test_percussion_is_left_out_and_other_instruments_are_named(song):
    played = load(song)
    assert pitches(played) == [40, 60, 62, 70]
    assert played.repairs == (LEFT_OUT, PEDAL_LEFT_OUT, BASS)


def test_the_pedal_is_down_while_that_of_any_channel_is(tmp_path):
    path = write(
        tmp_path / "a.mid",
        pedal(0) + on(0, 60) + on(0, 62) + pedal(0, 0) + on(0, 64),
        on(1, 40) + pedal(1, 0) + on(1, 41, ticks=960) + pedal(1, 90) + on(1, 43),
    )
    changes = load(path).midi.seq.control_changes
    assert [(one.time, one.control_value) for one in changes] == [
        *((0.0, 127), (0.5, 127), (1.0, 0), (1.5, 90)),
    ]


def test_tracks_choose(song):
    played = load(song, tracks=(1, 3))
    assert pitches(played) == [60, 62, 70]
    assert len(played.midi.seq.control_changes) == 0
    assert [line.split(", first")[0] for line in played.repairs] == [
        "a.mid: 1 note(s) of tracks that --tracks does not name left out",
        "a.mid: 2 note(s) of percussion (channel 10) left out",
        "a.mid: 1 pedal change(s) of tracks that --tracks does not name left out",
        "a.mid: 1 pedal change(s) of percussion (channel 10) left out",
    ]


def test_channels_choose_percussion_too(song):
    assert pitches(load(song, channels=(2, 3))) == [40, 70]
    drums = load(song, channels=(10,))
    assert pitches(drums) == [36, 38]
    assert "2 note(s) of percussion (channel 10) played on the piano" in drums.repairs[-1]


def test_tracks_and_channels_choose_together(song):
    assert pitches(load(song, tracks=(3,), channels=(3,))) == [70]
    with pytest.raises(BadInput, match="no note to play in the chosen tracks and channels"):
        load(song, tracks=(1,), channels=(2,))


def test_an_instrument_holds_from_its_program_change_on(tmp_path):
    """It counts for the channel, in whatever track it is."""
    path = write(
        tmp_path / "a.mid",
        [("program_change", {"program": 40, "channel": 0}, 480)],
        on(0, 60) + on(0, 62) + on(0, 64),
    )
    (line,) = load(path).repairs
    assert (
        line == "a.mid: 2 note(s) of Violin (channel 1) played on the piano, first at bar 1, 0.50 s"
    )


@pytest.mark.parametrize("number", [0, 5, 7])
def test_pianos_are_not_named(tmp_path, number):
    assert load(write(tmp_path / "a.mid", program(0, number) + on(0, 60))).repairs == ()


def test_nothing_but_percussion_is_refused_with_what_to_do(tmp_path):
    path = write(tmp_path / "a.mid", on(9, 60))
    with pytest.raises(BadInput, match="channel 10 is percussion, which only --channels 10 plays"):
        load(path)
    assert pitches(load(path, channels=(10,))) == [60]


def test_tracks_and_channels_that_are_not_there_are_refused(song):
    with pytest.raises(BadInput, match=r"--tracks names 4, but .* has 3 track"):
        load(song, tracks=(1, 4))
    with pytest.raises(BadInput, match=r"--channels names 5, but .* in channel\(s\) 1, 2, 3, 10"):
        load(song, channels=(5,))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"tracks": (1, 0)}, "--tracks is 1 0, must be numbers counted from 1"),
        ({"channels": (0,)}, "--channels is 0, must be numbers from 1 to 16"),
        ({"channels": (1, 17)}, "--channels is 1 17, must be numbers from 1 to 16"),
    ],
)
def test_bad_numbers(flags, message):
    with pytest.raises(BadInput, match=f"^{message}$"):
        ArrangementConfig(**flags)
    with pytest.raises(BadInput, match="give --midi-file, too"):
        SongConfig(tracks=(1,))
