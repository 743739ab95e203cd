"""The command line: `pianist COMMAND ...`.

The module holds one table of commands. Each command is a few lines that call a package. Slow
imports wait until a command is chosen, so that the help appears immediately.
"""

import contextlib
import dataclasses
import errno
import io
import itertools
import json
import re
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar, cast

from common import host, terminal
from common.errors import BadInput, PartFailed
from common.project import program

Config = TypeVar("Config")

FAILED_EXIT_CODE = 1
BAD_INPUT_EXIT_CODE = 2
STOPPED_EXIT_CODE = 130  # What shells report for a command that SIGINT ended.
CLOSED_PIPE_EXIT_CODE = 141

FULL_DISK = (errno.ENOSPC, errno.EDQUOT)
FAULTS_OF_FILES = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, *FULL_DISK),
    *(errno.ENAMETOOLONG, errno.ELOOP, errno.EIO, errno.ENOENT),
    *(errno.ENOTDIR, errno.EISDIR, errno.ETXTBSY),
)
"""Error numbers of file operations that the machine can refuse, however correct the code is."""


def train(arguments: Sequence[str]) -> dict[str, Any]:
    """Trains two hands to play a song, then plays the song."""
    from common.storage import Location
    from training.config import TrainConfig, given
    from training.run import find, require_usable

    resumed = None
    if (name := given(arguments, "--resume")) is not None:
        from training.resume import settings_of

        root_dir = given(arguments, "--root-dir") or TrainConfig.root_dir
        resumed = find(name, root_dir)
        default = dataclasses.replace(settings_of(resumed), resume=name, root_dir=root_dir)
    else:
        from training.presets import chosen, default_for

        default = default_for(chosen(arguments))
    config = parse(TrainConfig, "train", arguments, default)
    if config.preset == "auto":
        print(f"--preset auto takes {default.preset}", file=sys.stderr)
        config = dataclasses.replace(config, preset=default.preset)
    # The imports below take seconds, so an unusable folder or setting is reported first.
    require_usable(resumed.location if resumed else Location.of(config.root_dir), config.wandb)
    from report.page import write_report
    from training.train import train

    return train(config, write_report, resumed)


def evaluate(arguments: Sequence[str]) -> dict[str, Any]:
    """Plays a checkpoint and writes metrics, a video with sound and a MIDI file."""
    from training.evaluate import EvaluateConfig, evaluate, with_flags_of_checkpoint

    return evaluate(parse(EvaluateConfig, "eval", arguments, with_flags_of_checkpoint(arguments)))


def segments(arguments: Sequence[str]) -> dict[str, Any]:
    """Records performances of a run's checkpoints for people to rate."""
    from rlhf.segments import SegmentsConfig, segments

    return segments(parse(SegmentsConfig, "segments", arguments))


def rate(arguments: Sequence[str]) -> dict[str, Any]:
    """Serves the page where people rate recorded performances."""
    from rlhf.rate_page.command import RateConfig, rate

    return rate(parse(RateConfig, "rate", arguments))


def cpl(arguments: Sequence[str]) -> dict[str, Any]:
    """Fine-tunes a policy on people's preferences."""
    from report.page import write_report
    from rlhf.fine_tune import FineTuneConfig, fine_tune

    return fine_tune(parse(FineTuneConfig, "cpl", arguments), write_report)


def status(arguments: Sequence[str]) -> dict[str, Any]:
    """Shows the runs with their speed and start time."""
    from training.status import StatusConfig, status

    return status(parse(StatusConfig, "status", arguments))


def scale(arguments: Sequence[str]) -> dict[str, Any]:
    """Changes the number of actors of an active run."""
    from training.scale import ScaleConfig, scale

    return scale(parse(ScaleConfig, "scale", arguments))


def submit(arguments: Sequence[str]) -> dict[str, Any]:
    """Runs a command as a job on a Ray cluster."""
    from cluster.submit import submit

    return submit(arguments, parse)


def doctor(arguments: Sequence[str]) -> dict[str, Any]:
    """Checks a cluster before it costs money."""
    from cluster.doctor.command import DoctorConfig, doctor

    return doctor(parse(DoctorConfig, "doctor", arguments))


def report(arguments: Sequence[str]) -> dict[str, Any]:
    """Writes a run's learning curves and piano roll into one HTML file."""
    from report.page import ReportConfig, report

    return report(parse(ReportConfig, "report", arguments))


def song(arguments: Sequence[str]) -> dict[str, Any]:
    """Shows what a MIDI file holds and what would be played."""
    from report.song_page import ShowSongConfig, show_song

    return show_song(parse(ShowSongConfig, "song", arguments))


def bench(arguments: Sequence[str]) -> dict[str, Any]:
    """Measures the speed of a part and of its alternative."""
    from benchmarks.command import BenchConfig, bench

    return bench(parse(BenchConfig, "bench", arguments))


class Command(NamedTuple):
    """A subcommand."""

    run: Callable[[Sequence[str]], dict[str, Any]]
    """Function that takes the arguments and returns JSON values."""
    help: str
    uses_jax: bool = True
    """Whether the command imports JAX, which fails under some of JAX's settings."""


COMMANDS = {
    "song": Command(
        song, "show what a MIDI file holds and what would be played of it", uses_jax=False
    ),
    "train": Command(train, "teach two hands to play a MIDI file, then play it"),
    "eval": Command(evaluate, "play a checkpoint: metrics, video with sound, MIDI"),
    "status": Command(status, "list the runs, with state and speed", uses_jax=False),
    "scale": Command(scale, "change the number of actors of a running training"),
    "submit": Command(submit, "run train, segments or cpl as a job of a Ray cluster"),
    "doctor": Command(
        doctor, "check a cluster, or this machine, before it costs money", uses_jax=False
    ),
    "report": Command(
        report, "write a run's curves and piano roll into one HTML file", uses_jax=False
    ),
    "segments": Command(segments, "record performances of a run, to be rated"),
    "rate": Command(rate, "rate recorded performances, on a page in the browser"),
    "cpl": Command(cpl, "fine-tune a policy on people's preferences"),
    "bench": Command(bench, "measure the speed of a part beside its alternatives"),
}


def usage() -> str:
    """Returns the help text of `pianist` itself."""
    width = max(len(name) for name in COMMANDS)
    lines = [f"  {name:<{width}}  {command.help}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: pianist COMMAND [OPTIONS] [--json]",
            "",
            "Two simulated Shadow hands learn to play the piano from a MIDI file.",
            "",
            *lines,
            "",
            "pianist COMMAND --help lists the options of a command, with defaults and units;",
            "--json prints the command's answer as JSON on standard output.",
        ]
    )


def parse(
    cls: type[Config], command: str, arguments: Sequence[str], default: Config | None = None
) -> Config:
    """Parses the arguments of a command into a config.

    Args:
        cls: Config dataclass of the command.
        command: Name of the command.
        arguments: Arguments after the name of the command.
        default: Config with the defaults of all flags; None for those of `cls`.

    Raises:
        BadInput: The arguments contain a mistake.
        SystemExit: The arguments ask for help, which has been printed.
    """
    import tyro

    from common.arguments import checked, join_lines_of_help

    arguments = checked(cls, arguments)
    join_lines_of_help()
    complaint = io.StringIO()
    try:
        # Help belongs on standard output, which `run` redirects to standard error.
        with contextlib.redirect_stderr(complaint), contextlib.redirect_stdout(sys.__stdout__):
            return cast(
                Config,
                tyro.cli(cls, prog=f"pianist {command}", args=arguments, default=default),
            )
    except SystemExit as end:
        if end.code:
            # tyro draws a box of several paragraphs. The first one describes the mistake.
            box = [line.strip("│ ") for line in complaint.getvalue().splitlines()]
            inside = itertools.takewhile(lambda line: not line.startswith("─"), box[1:])
            message = re.sub(r"^Error parsing \w+Config: ", "", " ".join(inside))
            raise BadInput(f"{message} (pianist {command} --help)") from None
        raise


def readable(answer: dict[str, Any]) -> str:
    """Formats a command's answer for people: nested names and values, one per line."""
    if "runs" in answer:
        from training.status import table

        return table(answer)
    if "nodes" in answer:
        from cluster.doctor.command import table as checks

        return checks(answer)
    if "holds" in answer:
        from report.song_page import text

        return text(answer)

    def lines(values: dict[str, Any], indent: str) -> Iterator[str]:
        for name, value in values.items():
            label = f"{indent}{name.replace('_', ' ')}"
            records = isinstance(value, list) and value and isinstance(value[0], dict)
            below = {str(n): one for n, one in enumerate(value, 1)} if records else value
            if isinstance(below, dict):
                yield label
                yield from lines(below, indent + "  ")
            else:
                shown = f"{value:.4g}" if isinstance(value, float) else value
                yield f"{label:<28} {'-' if shown is None else shown}"

    return "\n".join(lines(answer, ""))


def hide_warnings_of_libraries() -> None:
    """Hides the warnings that only concern the authors of libraries.

    A filter does not hide deprecations, because dm_control enables them on import.
    """
    # pydub looks for ffmpeg on the path. This program takes ffmpeg from imageio-ffmpeg and does
    # not use pydub.
    warnings.filterwarnings("ignore", "Couldn't find ffmpeg", RuntimeWarning)
    # Python 3.12 and later warn about a library's source whenever they compile it.
    warnings.filterwarnings("ignore", ".*invalid escape sequence", SyntaxWarning)
    show = warnings.showwarning

    def show_others(message: Any, category: type[Warning], *where: Any, **more: Any) -> None:
        if not issubclass(category, DeprecationWarning):
            show(message, category, *where, **more)

    warnings.showwarning = show_others


def refuse(message: str) -> int:
    """Prints in one line why the command did nothing, and returns the exit code."""
    print(f"pianist: {' '.join(message.split())}", file=sys.stderr)
    return BAD_INPUT_EXIT_CODE


def main() -> int:
    """Runs one command and returns the exit code.

    Only this function decides what a user sees of external problems: bad input, unusable files,
    a closed pipe, and a terminal that lacks some characters.
    """
    terminal.prepare()
    given = sys.argv[1:]
    try:
        host.prepare()
        exit_code = run(given)
        sys.stdout.flush()
        sys.stderr.flush()
    except BrokenPipeError:
        terminal.give_up()
        return CLOSED_PIPE_EXIT_CODE
    except BadInput as error:
        return refuse(str(error))
    except OSError as error:
        if error.errno in FULL_DISK and error.filename is None:
            folder = tempfile.gettempdir()
            return refuse(f"{error.strerror}: make room in {folder} and where results are kept")
        if error.errno not in FAULTS_OF_FILES or error.filename is None:
            raise
        return refuse(f"{error.filename}: {error.strerror}")
    except PartFailed as failure:
        print(f"pianist: {failure}", file=sys.stderr)
        return FAILED_EXIT_CODE
    except KeyboardInterrupt:
        print("pianist: stopped", file=sys.stderr)
        return STOPPED_EXIT_CODE
    return exit_code


def run(given: Sequence[str]) -> int:
    """Runs the command that the arguments name, prints its answer and returns the exit code."""
    hide_warnings_of_libraries()
    # This includes SIGINT, which a shell's background job would otherwise ignore.
    for number in terminal.ENDING_SIGNALS:
        signal.signal(number, terminal.end)
    arguments = [argument for argument in given if argument != "--json"]
    as_json = len(arguments) < len(given)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return 0
    name, *rest = arguments
    if name == "--version":
        print(program())
        return 0
    if name not in COMMANDS:
        raise BadInput(f"there is no command {name!r}: choose from {', '.join(COMMANDS)}")
    if COMMANDS[name].uses_jax:
        if {"-h", "--help"} & set(rest):
            host.drop_settings_of_jax()
        else:
            host.require_jax()
    # Scripts read the answer from standard output, so the output of libraries goes elsewhere.
    # pyfluidsynth, for example, prints its location wherever the variable CI is set.
    with contextlib.redirect_stdout(sys.stderr):
        answer = COMMANDS[name].run(rest)
    print(json.dumps(answer, indent=2) if as_json else readable(answer))
    stopped = STOPPED_EXIT_CODE if answer.get("state") == "stopped" else 0
    return int(answer.get("exit_code", stopped))


if __name__ == "__main__":
    sys.exit(main())
