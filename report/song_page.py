"""The command `pianist song`: a file's facts, its piano roll as a page, and its sound."""

import dataclasses
import pathlib
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import tyro

from common.errors import require
from common.files import as_utf8
from piano.config import ArrangementConfig
from piano.score_time import Place
from report.page import TEMPLATES
from report.song_facts import SongFacts, find_facts
from report.song_roll import lay_out_song

_MOST_PLACES_OF_A_LINE = 8
_FACTS = {
    "seconds": "length in seconds",
    "notes": "notes",
    "bars": "bars",
    "time_signatures": "time signatures",
    "tempo_changes": "tempo changes",
    "beats_per_minute": "quarter notes per minute",
    "title": "title",
    "notes_per_second": "notes per second",
    "lowest_key": "lowest key",
    "highest_key": "highest key",
    "most_notes_at_once": "most notes at once",
    "hard_jumps": "jumps a hand cannot make in time",
}


@dataclasses.dataclass(frozen=True)
class ShowSongConfig:
    """Shows what a MIDI file holds and what would be played of it.

    Writes a piano roll (roll.html) and the sound (sound.wav).
    """

    file: tyro.conf.Positional[pathlib.Path]
    """MIDI file to show."""
    out: pathlib.Path = pathlib.Path("songs")
    """Folder for the piano roll and the sound, which get a subfolder named after the song."""
    arrangement: Annotated[ArrangementConfig, tyro.conf.arg(name="")] = ArrangementConfig()


def show_song(config: ShowSongConfig) -> dict[str, Any]:
    """Finds the facts of a MIDI file, and writes its piano roll and its sound.

    A song that is too long to be played gets no files.

    Returns:
        Name of the file, what it holds, what would be played, jumps, what is left out, parts to
        train on, and paths of the written files.

    Raises:
        BadInput: The file cannot be read, or lacks what the flags name.
    """
    facts = find_facts(config.file, config.arrangement)
    answer = {"file": as_utf8(str(config.file)), **facts.to_json()}
    if facts.song is None:
        return answer | {"cannot_be_played": facts.too_long, "files": []}
    folder = config.out / (facts.song.title.strip(".") or "song")
    require(
        not folder.exists() or folder.is_dir(),
        f"{folder} is a file, not a folder: choose another --out",
    )
    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / "roll.html"]
    written[0].write_text(_page(facts, answer), encoding="utf-8", errors="replace")
    sound = folder / "sound.wav"
    if _write_sound(facts, sound):
        written.append(sound)
    return answer | {"files": [as_utf8(str(path)) for path in written]}


def _write_sound(facts: SongFacts, path: pathlib.Path) -> bool:
    """Writes the sound, and returns whether this machine can."""
    # These imports take seconds, so what is refused is refused before.
    from piano.recording import what_is_missing_for_sound, write_midi_sound

    assert facts.song is not None
    path.unlink(missing_ok=True)
    missing = what_is_missing_for_sound()
    if missing:
        print(missing, file=sys.stderr)
        return False
    write_midi_sound(facts.song.midi, path)
    return True


def text(answer: dict[str, Any]) -> str:
    """Formats the answer of `show_song` for people."""
    lines = [f"{answer['file']} holds"]
    lines += [f"  {name:<34} {value}" for name, value in _rows(answer["holds"])]
    for track in answer["holds"]["tracks"]:
        lines.append(f"  track {track['track']:<28} {_describe_track(track)}")
    if answer["plays"]:
        lines += ["would be played"]
        lines += [f"  {name:<34} {value}" for name, value in _rows(answer["plays"])]
        jumps, more = _first(answer["jumps"])
        lines += [f"  jump at {_place(jump):<26} {_describe_jump(jump)}" for jump in jumps]
        lines += [f"  and {more} more jumps (--json and the page list all)"] if more else []
    else:
        lines.append(f"cannot be played: {answer['cannot_be_played']}")
    if answer["findings"]:
        lines.append("left out, repaired, or to be known")
    for finding in answer["findings"]:
        places, more = _first(finding["places"])
        number = f"{len(finding['places'])} " if places else ""
        where = [_place(place) for place in places] + ([f"{more} more"] if more else [])
        lines.append(f"  {number}{finding['what']}{': ' if places else ''}{'; '.join(where)}")
    if answer["suggestions"]:
        lines.append("parts to train on")
    lines += [f"  {one['flag']:<34} {_describe_part(one)}" for one in answer["suggestions"]]
    return "\n".join([*lines, *(f"written: {path}" for path in answer["files"])])


def _first(places: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], int]:
    """Returns the first of some places, and the number of the others."""
    return places[:_MOST_PLACES_OF_A_LINE], max(0, len(places) - _MOST_PLACES_OF_A_LINE)


def _rows(values: dict[str, Any]) -> list[tuple[str, str]]:
    """Returns names and values of facts, as words."""

    def words(value: Any) -> str:
        if isinstance(value, list):
            return " to ".join(f"{one:g}" for one in value) if _numbers(value) else ", ".join(value)
        return "-" if value is None else f"{value:g}" if isinstance(value, float) else str(value)

    return [(_FACTS[name], words(value)) for name, value in values.items() if name in _FACTS]


def _numbers(values: Sequence[Any]) -> bool:
    return all(isinstance(value, float) for value in values)


def _place(place: dict[str, Any]) -> str:
    return str(Place(place["bar"], place["seconds"]))


def _describe_track(track: dict[str, Any]) -> str:
    channels = ", ".join(map(str, track["channels"]))
    played = f", channel {channels}, {', '.join(track['instruments'])}" if channels else ""
    name = f"{track['name']}: " if track["name"] else ""
    return f"{name}{track['notes']} note(s){played}"


def _describe_jump(jump: dict[str, Any]) -> str:
    return (
        f"{jump['hand']} hand, {jump['semitones']} semitones in {jump['available_seconds']:.2f} s"
    )


def _describe_part(part: dict[str, Any]) -> str:
    return (
        f"{part['why']}: {part['seconds']:.1f} s, {part['notes']} notes, "
        f"{part['notes'] / part['seconds']:.1f} per second, {part['jumps']} hard jump(s)"
    )


def _page(facts: SongFacts, answer: dict[str, Any]) -> str:
    assert facts.song is not None
    tracks = [
        (f"track {track['track']}", _describe_track(track)) for track in answer["holds"]["tracks"]
    ]
    return TEMPLATES.get_template("song.html").render(
        title=facts.song.title,
        file=answer["file"],
        plays=_rows(answer["plays"]),
        holds=[*_rows(answer["holds"]), *tracks],
        roll=lay_out_song(facts),
        jumps=[(_place(jump), _describe_jump(jump)) for jump in answer["jumps"]],
        findings=[
            (
                finding.counted,
                "; ".join(map(str, finding.places)) or "the whole file",
            )
            for finding in facts.findings
        ],
        suggestions=[(part["flag"], _describe_part(part)) for part in answer["suggestions"]],
    )
