"""Write the example pieces: short public-domain music, transcribed note by note.

``python example_midis/write_midis.py`` writes every piece beside this file, to the same bytes each
time; ``--check`` writes nothing and exits with 1 if a file on disk differs.

A voice is written as text. Bars are separated by ``|``. A token is a key (``F#4``), a chord
(``G3+B3+E4``) or a rest (``-``); ``:1.5`` gives its length in quarter-note beats (the ``unit`` of
the piece where absent) and ``*8`` repeats it. Middle C is C4. Every bar must be full.
"""

import argparse
import io
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import mido

FOLDER = Path(__file__).resolve().parent
TICKS_A_BEAT = 480
# The environment looks at a piece every 0.05 s. A key is let go half a frame before its time is up,
# so that rounding never holds it into the next frame; a key or pedal needed again, one frame more.
RELEASE_SECONDS = 0.025
REPEAT_SECONDS = 0.075
BAR_ACCENT = 4
LEFT_HAND_VELOCITY = -12
SEMITONES = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
ACCIDENTALS = {"": 0, "#": 1, "b": -1}
TOKEN = re.compile(r"(?P<keys>[^:*]+)(:(?P<beats>[\d.]+))?(\*(?P<times>\d+))?")


@dataclass(frozen=True)
class Note:
    """A key to strike: its name, when and how long in beats, and how hard (1 to 127)."""

    name: str
    onset: float
    length: float
    velocity: int

    @property
    def pitch(self) -> int:
        """The MIDI number of the key; C4 is 60."""
        letter, accidental, octave = self.name[0], self.name[1:-1], int(self.name[-1])
        return 12 * (octave + 1) + SEMITONES[letter] + ACCIDENTALS[accidental]


@dataclass(frozen=True)
class Piece:
    """A piece: where it comes from, its tempo and measure, the voices of each hand, the pedal.

    ``tempo`` counts quarter notes a minute; ``swell`` lists the velocities the piece passes
    through, evenly spaced; ``upbeat`` is the measure of an incomplete first bar; ``pedal`` lists
    the beats at which the sustain pedal goes down and up.
    """

    name: str
    title: str
    source: str
    tempo: int
    measure: tuple[int, int]
    swell: tuple[int, ...]
    right_hand: tuple[str, ...]
    left_hand: tuple[str, ...] = ()
    unit: float = 1.0
    upbeat: tuple[int, int] | None = None
    pedal: tuple[tuple[float, float], ...] = ()

    def ticks_in(self, seconds: float) -> int:
        """Return the MIDI ticks in a number of seconds."""
        return round(seconds * self.tempo / 60 * TICKS_A_BEAT)


def ticks_at(beat: float) -> int:
    """Return the MIDI ticks from the start of a piece to a beat."""
    return round(beat * TICKS_A_BEAT)


def beats_in(measure: tuple[int, int]) -> float:
    """Return the quarter-note beats of a bar: 1.5 for 3/8."""
    return 4 * measure[0] / measure[1]


def swell_at(swell: tuple[int, ...], progress: float) -> int:
    """Return the velocity at ``progress`` (0 to 1) through evenly spaced velocities."""
    place = progress * (len(swell) - 1)
    index = min(int(place), len(swell) - 2)
    return round(swell[index] + (place - index) * (swell[index + 1] - swell[index]))


def read_voice(voice: str, piece: Piece) -> Iterator[Note]:
    """Yield the notes of a voice; raise ValueError at a token or a bar that makes no sense."""
    bars = voice.split("|")
    lengths = [beats_in(piece.measure)] * len(bars)
    if piece.upbeat:
        lengths[0] = beats_in(piece.upbeat)
    onset = 0.0
    for bar, bar_length in zip(bars, lengths, strict=True):
        start = onset
        for token in bar.split():
            match = TOKEN.fullmatch(token)
            if match is None:
                raise ValueError(f"{piece.name}: cannot read {token!r}")
            length = float(match["beats"] or piece.unit)
            for _ in range(int(match["times"] or 1)):
                velocity = swell_at(piece.swell, onset / sum(lengths))
                velocity += BAR_ACCENT if onset == start else 0
                for name in match["keys"].split("+"):
                    if name != "-":
                        yield Note(name, onset, length, velocity)
                onset += length
        if onset - start != bar_length:
            raise ValueError(f"{piece.name}: {onset - start} beats in the bar {bar.strip()!r}")


def read_hands(piece: Piece) -> tuple[list[Note], list[Note]]:
    """Return the notes of the right hand and of the left hand."""
    right = [note for voice in piece.right_hand for note in read_voice(voice, piece)]
    left = [
        replace(note, velocity=note.velocity + LEFT_HAND_VELOCITY)
        for voice in piece.left_hand
        for note in read_voice(voice, piece)
    ]
    return right, left


def note_messages(note: Note, every_note: list[Note], piece: Piece) -> Iterator[mido.Message]:
    """Yield the start and the end of a note, timed in ticks from the start of the piece."""
    start = ticks_at(note.onset)
    end = ticks_at(note.onset + note.length) - piece.ticks_in(RELEASE_SECONDS)
    for other in every_note:
        if other.pitch == note.pitch and other.onset > note.onset:
            end = min(end, ticks_at(other.onset) - piece.ticks_in(REPEAT_SECONDS))
    yield mido.Message("note_on", note=note.pitch, velocity=note.velocity, time=start)
    yield mido.Message("note_off", note=note.pitch, velocity=0, time=end)


def pedal_messages(piece: Piece) -> Iterator[mido.Message]:
    """Yield the sustain pedal messages, timed in ticks from the start of the piece."""
    presses = [press for press, _ in piece.pedal]
    for press, lift in piece.pedal:
        early = piece.ticks_in(REPEAT_SECONDS) if lift in presses else 0
        yield mido.Message("control_change", control=64, value=127, time=ticks_at(press))
        yield mido.Message("control_change", control=64, value=0, time=ticks_at(lift) - early)


def opening_messages(piece: Piece) -> Iterator[mido.MetaMessage]:
    """Yield what the first track says: the source, the tempo and the measure."""
    yield mido.MetaMessage("copyright", text="Public domain; transcribed for this project")
    yield mido.MetaMessage("text", text=piece.source)
    yield mido.MetaMessage("set_tempo", tempo=mido.bpm2tempo(piece.tempo))
    beat = 0.0
    for measure in filter(None, (piece.upbeat, piece.measure)):
        yield mido.MetaMessage(
            "time_signature", numerator=measure[0], denominator=measure[1], time=ticks_at(beat)
        )
        beat += beats_in(measure)


def make_track(name: str, messages: Iterable[mido.Message | mido.MetaMessage]) -> mido.MidiTrack:
    """Return a track of messages timed from its start; at equal times, note ends come first."""
    ranks = {"note_off": 0, "note_on": 2}
    track = mido.MidiTrack([mido.MetaMessage("track_name", name=name)])
    now = 0
    for message in sorted(messages, key=lambda m: (m.time, ranks.get(m.type, 1))):
        track.append(message.copy(time=message.time - now))
        now = message.time
    return track


def midi_bytes(piece: Piece) -> bytes:
    """Return the MIDI file of a piece: an opening track, the right hand, the left hand."""
    hands = read_hands(piece)
    every_note = hands[0] + hands[1]
    right, left = (
        [message for note in hand for message in note_messages(note, every_note, piece)]
        for hand in hands
    )
    midi = mido.MidiFile(type=1, ticks_per_beat=TICKS_A_BEAT)
    midi.tracks += [
        make_track(piece.title, opening_messages(piece)),
        make_track("Right hand", right),
        make_track("Left hand", [*left, *pedal_messages(piece)]),
    ]
    buffer = io.BytesIO()
    midi.save(file=buffer)
    return buffer.getvalue()


def pedal_changes(*beats: float) -> tuple[tuple[float, float], ...]:
    """Return a pedal pressed anew at each beat and lifted for good at the last."""
    return tuple(pairwise(beats))


def broken_chords(*chords: str) -> tuple[str, str, str]:
    """Return the right hand, bass and tenor of Bach's figure, one bar a chord of five keys.

    In each half bar the bass is held throughout, the tenor enters a sixteenth later and is held
    too, and the right hand plays the other three keys twice, in sixteenths.
    """
    upper, bass, tenor = [], [], []
    for chord in chords:
        lowest, second, *top = chord.split()
        upper.append(f"-:0.5 {' '.join(top * 2)} " * 2)
        bass.append(f"{lowest}:2*2")
        tenor.append(f"- {second}:1.75 " * 2)
    return "|".join(upper), "|".join(bass), "|".join(tenor)


BACH = broken_chords("C4 E4 G4 C5 E5", "C4 D4 A4 D5 F5", "B3 D4 G4 D5 F5", "C4 E4 G4 C5 E5")

PIECES = (
    Piece(
        name="five_finger_scale",
        title="Five-finger scale",
        source="Traditional finger exercise without an author: public domain.",
        tempo=120,
        measure=(4, 4),
        swell=(62, 76, 62),
        right_hand=("C4 D4 E4 F4 | G4 F4 E4 D4 | C4:3 -",),
    ),
    Piece(
        name="westminster_chimes",
        title="Westminster Quarters, the half hour",
        source="Attributed to William Crotch (1775-1847), for the clock of Great St Mary's in "
        "Cambridge, 1793: public domain by its age.",
        tempo=120,
        measure=(3, 4),
        swell=(70, 76, 66),
        right_hand=("C5 E5 D5 | G4:3 | C5 D5 E5 | C5:3",),
    ),
    Piece(
        name="twinkle_twinkle",
        title="Ah! vous dirai-je, maman (Twinkle, twinkle)",
        source="French melody of unknown author, in print by 1761: public domain by its age. "
        "The left hand was written for this project.",
        tempo=120,
        measure=(2, 4),
        swell=(66, 80, 74, 64),
        right_hand=("C5 C5 | G5 G5 | A5 A5 | G5:2 | F5 F5 | E5 E5 | D5 D5 | C5:2",),
        left_hand=("C4:2 | E4:2 | F4:2 | E4:2 | D4:2 | C4:2 | F3 G3 | C3:2",),
    ),
    Piece(
        name="ode_to_joy",
        title="Ode to Joy, from Symphony No. 9",
        source="Ludwig van Beethoven (1770-1827), Symphony No. 9 in D minor, Op. 125, 1824, "
        "fourth movement: public domain, the composer died in 1827. "
        "The left hand was written for this project.",
        tempo=150,
        measure=(4, 4),
        swell=(68, 76, 70, 74, 82, 74, 66),
        right_hand=(
            "F#4 F#4 G4 A4 | A4 G4 F#4 E4 | D4 D4 E4 F#4 | F#4:1.5 E4:0.5 E4:2 |"
            "F#4 F#4 G4 A4 | A4 G4 F#4 E4 | D4 D4 E4 F#4 | E4:1.5 D4:0.5 D4:2",
        ),
        left_hand=(
            "A3:4 | A3:4 | F#3:2 E3:2 | D3:2 C#3:2 | A3:4 | A3:4 | F#3:2 E3:2 | C#3:2 F#3:2",
            "D3:4 | D3:2 C#3:2 | B2:2 G2:2 | A2:4 | D3:4 | D3:2 C#3:2 | B2:2 G2:2 | A2:2 D3:2",
        ),
    ),
    Piece(
        name="fur_elise",
        title="Bagatelle in A minor, WoO 59 (Fur Elise)",
        source="Ludwig van Beethoven (1770-1827), Bagatelle in A minor, WoO 59, 1810, as first "
        "printed in 1867: public domain, the composer died in 1827.",
        tempo=75,
        measure=(3, 8),
        upbeat=(1, 8),
        unit=0.25,
        swell=(62, 68, 64, 74, 66, 70, 62),
        right_hand=(
            "E5 D#5 | E5 D#5 E5 B4 D5 C5 | A4:0.5 - C4 E4 A4 | B4:0.5 - E4 G#4 B4 |"
            "C5:0.5 - E4 E5 D#5 | E5 D#5 E5 B4 D5 C5 | A4:0.5 - C4 E4 A4 | B4:0.5 - E4 C5 B4 |"
            "A4:1 -:0.5",
        ),
        left_hand=(
            "-*2 | -*6 | A2 E3 A3 -*3 | E2 E3 G#3 -*3 |"
            "A2 E3 A3 -*3 | -*6 | A2 E3 A3 -*3 | E2 E3 G#3 -*3 |"
            "A2 E3 A3 -*3",
        ),
        pedal=pedal_changes(2, 3.5, 5, 6) + pedal_changes(8, 9.5, 11, 12),
    ),
    Piece(
        name="prelude_in_c",
        title="Prelude in C major, BWV 846",
        source="Johann Sebastian Bach (1685-1750), Prelude in C major, BWV 846, from The "
        "Well-Tempered Clavier, Book I, 1722: public domain, the composer died in 1750.",
        tempo=75,
        measure=(4, 4),
        unit=0.25,
        swell=(64, 72, 76, 64),
        right_hand=(BACH[0],),
        left_hand=BACH[1:],
    ),
    Piece(
        name="prelude_in_e_minor",
        title="Prelude in E minor, Op. 28 No. 4",
        source="Frederic Chopin (1810-1849), Prelude in E minor, Op. 28 No. 4, 1839: public "
        "domain, the composer died in 1849. The pedal was added for this project.",
        tempo=75,
        measure=(2, 2),
        upbeat=(1, 4),
        unit=0.5,
        swell=(64, 74, 72, 70, 64),
        right_hand=("B3:0.75 B4:0.25 | B4:3 C5:1 | B4:3 C5:1 | B4:3 C5:1 | B4:3 Bb4:1",),
        left_hand=(
            "-*2 | G3+B3+E4*8 | F#3+A3+E4*4 F#3+A3+D#4*4 |"
            "F3+A3+D#4*4 F3+A3+D4*2 F3+G#3+D4*2 | E3+G#3+D4*4 E3+G3+D4*2 E3+G3+C#4*2",
        ),
        pedal=pedal_changes(1, 4, 5, 7, 8, 9, 11, 12, 13, 15, 16, 17),
    ),
)


def main() -> int:
    """Write the pieces, or check those on disk; return the exit status."""
    parser = argparse.ArgumentParser(description="Write the example pieces beside this script.")
    parser.add_argument("--check", action="store_true", help="only compare the files on disk")
    check = parser.parse_args().check
    status = 0
    for piece in PIECES:
        path = FOLDER / f"{piece.name}.mid"
        content = midi_bytes(piece)
        if not check:
            path.write_bytes(content)
            seconds = mido.MidiFile(path).length
            print(f"{path.name}: {seconds:.1f} s, {sum(map(len, read_hands(piece)))} notes")
        elif not path.exists() or path.read_bytes() != content:
            print(f"{path.name} differs from what this script writes", file=sys.stderr)
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
