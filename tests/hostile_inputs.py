"""What reads input that anybody may have made, and one mutation after the other for it to read.

    python tests/hostile_inputs.py midi --inputs 1000000

lets a coverage-guided fuzzer (atheris, `make fuzz`) make the inputs; tests/test_hostile_inputs.py
has hypothesis make fewer of them. Everything but a `BadInput` is a mistake of ours, and so is
whatever takes longer than ten seconds or more than 2 GB.
"""

import argparse
import contextlib
import pathlib
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

ROOT = pathlib.Path(__file__).parent.parent
KINDS = ("midi", "checkpoint", "manifest", "requests")
Target = Callable[[bytes], None]
_REPLY_SECONDS = 10.0


@contextlib.contextmanager
def reading(kind: str, folder: pathlib.Path) -> Iterator[tuple[Target, list[bytes]]]:
    """Yields what reads inputs of a kind, and some that are as they should be."""
    with contextlib.ExitStack() as stack:
        make = {
            "midi": _midi,
            "checkpoint": _checkpoint,
            "manifest": _manifest,
            "requests": _requests,
        }
        yield make[kind](folder, stack)


def _midi(folder: pathlib.Path, _: contextlib.ExitStack) -> tuple[Target, list[bytes]]:
    """A MIDI file behind a byte that chooses what is played of it."""
    import json

    from common.errors import BadInput
    from piano.config import ArrangementConfig, SongConfig
    from piano.song import Song, load_songs
    from report.song_facts import find_facts
    from report.song_roll import lay_out_song

    path = folder / "piece.mid"
    choices: list[dict[str, Any]] = [
        {"trim_silence": True},
        {"excerpt": "0.5:3", "trim_silence": True},
        {"bars": "2-3"},
        {"tracks": (1,), "stretch_factor": 2.0},
        {"channels": (1, 10), "shift_factor": 30},
        {},
    ]

    def read(content: bytes) -> None:
        flags = choices[(content[:1] or b"\0")[0] % len(choices)]
        path.write_bytes(content[1:])
        with contextlib.suppress(BadInput):
            (song,) = load_songs(SongConfig(midi_file=(path,), **flags))
            assert song.trajectory(0.05).notes
            assert Song.from_json(json.loads(json.dumps(song.to_json()))).title == song.title
        with contextlib.suppress(BadInput):
            facts = find_facts(path, ArrangementConfig(**flags))
            json.dumps(facts.to_json(), allow_nan=False)
            if facts.song:
                lay_out_song(facts)

    files = [file.read_bytes() for file in sorted((ROOT / "example_midis").glob("*.mid"))]
    return read, [
        bytes([number]) + content
        for content in sorted(files, key=len)[:4]
        for number in range(len(choices))
    ]


def _checkpoint(folder: pathlib.Path, _: contextlib.ExitStack) -> tuple[Target, list[bytes]]:
    """A checkpoint's folder, of which one file is replaced, with its checksum put right or not."""
    import dataclasses

    import jax

    from common.errors import BadInput
    from common.files import PackedFolder
    from learner import checkpoint, sac
    from learner.config import LearnerConfig, SACConfig
    from piano.song import Song
    from training.config import TrainConfig, from_json, to_json

    config = LearnerConfig(agent_config=SACConfig(hidden_dims=(2,), num_qs=1))
    template = sac.initial_state(config, 3, 2, seed=0)
    song = {"title": "x", "seconds": 1.0, "notes": [[0.0, 1.0, 60, 80, 1]], "pedal": [[0.5, 127]]}
    description = {
        "learner_steps": 1,
        "environment_steps": 2,
        "config": to_json(dataclasses.replace(TrainConfig(), learner=config)),
        "songs": [song],
    }
    whole = checkpoint.pack(template, description)
    names = sorted(whole.files)

    def read(content: bytes) -> None:
        which = content[:1] or b"\0"
        files = whole.files | {names[which[0] % len(names)]: content[1:]}
        packed = whole._replace(files=files)
        if which[0] >= 128:
            files = {name: file for name, file in files.items() if name != "SHA256SUMS"}
            packed = PackedFolder.sealed(whole.name, files)
        packed.write(folder)
        checkpoint.newest_whole(folder)
        with contextlib.suppress(BadInput):
            found = checkpoint.find(folder)
            described = checkpoint.load_description(found)
            from_json(described.get("config"), "here")
            for values in described.get("songs", []):
                Song.from_json(values)
        with contextlib.suppress(BadInput):
            state = checkpoint.load_state(PackedFolder.pack(folder / whole.name), template)
            assert jax.tree.structure(state) == jax.tree.structure(template)

    return read, [
        bytes([number + offset]) + whole.files[name]
        for number, name in enumerate(names)
        for offset in (0, 129)
    ]


def _manifest(folder: pathlib.Path, _: contextlib.ExitStack) -> tuple[Target, list[bytes]]:
    from collections_for_tests import make_collection

    from common.errors import BadInput
    from rlhf.collection import Collection

    collection = make_collection(folder, video=False)
    file = collection.path / "collection.json"
    seeds = [file.read_bytes()]

    def read(content: bytes) -> None:
        file.write_bytes(content)
        with contextlib.suppress(BadInput):
            opened = Collection.open(collection.path)
            opened.missing()
            opened.segments()
            opened.songs()

    return read, seeds


def _requests(folder: pathlib.Path, stack: contextlib.ExitStack) -> tuple[Target, list[bytes]]:
    """What a stranger sends to the rating page, to the byte."""
    from collections_for_tests import make_collection
    from test_rate_page import serving

    served = stack.enter_context(serving(make_collection(folder, video=False)))

    def read(content: bytes) -> None:
        with socket.create_connection(("127.0.0.1", served.port), timeout=_REPLY_SECONDS) as sender:
            with contextlib.suppress(ConnectionError):
                sender.sendall(content)
                sender.shutdown(socket.SHUT_WR)
            reply = b""
            with contextlib.suppress(ConnectionError):
                while part := sender.recv(65_536):
                    reply += part
        for status in reply.split(b"HTTP/1.1 ")[1:]:
            # 503 is said where there is no synthesizer.
            assert not status.startswith(b"5") or status.startswith((b"501", b"503", b"505")), reply

    body = b'{"rater": "Ana", "segment": "0001", "score": 50, "comment": ""}'
    head = b" HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n" % served.port
    post = head + b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
    return read, [
        b"GET /api/question?rater=Ana&mode=pairs" + head + b"\r\n",
        b"GET /api/segments/0001" + head + b"\r\n",
        b"POST /api/rate" + post % (len(body), body),
        b"POST /api/undo" + post % (33, b'{"rater": "Ana", "mode": "single"}'),
    ]


def main() -> int:
    """Lets atheris make inputs of one kind; returns its exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--inputs", type=int, required=True)
    parser.add_argument("--folder", type=pathlib.Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.folder is None:
        # atheris ends its process as it stands: what it leaves is removed here.
        with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
            command = [sys.executable, *sys.argv, "--folder", folder]
            return subprocess.run(command, check=False).returncode
    fuzz(arguments.kind, arguments.inputs, arguments.folder)
    return 0


def fuzz(kind: str, inputs: int, folder: pathlib.Path) -> None:
    """Does so in this process, and ends it."""
    import atheris

    corpus, work = folder / "corpus", folder / "work"
    corpus.mkdir()
    work.mkdir()
    with (
        atheris.instrument_imports(
            include=["piano", "common", "replay", "rlhf", "learner", "report"]
        ),
        reading(kind, work) as (read, seeds),
    ):
        for number, seed in enumerate(seeds):
            (corpus / str(number)).write_bytes(seed)
        flags = [f"-runs={inputs}", "-timeout=10", "-rss_limit_mb=2048"]
        atheris.Setup([sys.argv[0], str(corpus), *flags, f"-artifact_prefix={kind}-"], read)
        atheris.Fuzz()


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main())
