"""Safe standard input, output and error streams, with any terminal or none."""

import io
import os
import signal
import stat
import sys
from types import FrameType

ENDING_SIGNALS = tuple(
    number
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN
)
"""Signals that end a command in good order: SIGINT (Ctrl-C), SIGTERM and, unless `nohup` ignores
it, SIGHUP (the end of the terminal)."""


def prepare() -> None:
    """Makes the three standard streams safe to use.

    A closed stream is connected to the null device, so that no socket takes its number. A character
    that the encoding lacks is replaced.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            _open_null(number)
            opened = open(number, "w" if number else "r", closefd=False)  # noqa: SIM115
            setattr(sys, name, opened)
            setattr(sys, f"__{name}__", opened)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def give_up() -> None:
    """Discards the output that is still to be written to a closed pipe."""
    for number in (1, 2):
        _open_null(number)


def end(number: int, frame: FrameType | None) -> None:
    """Handles `ENDING_SIGNALS`.

    Raises:
        KeyboardInterrupt: Every call raises it.
    """
    let_go(number)
    signal.default_int_handler(number, frame)


def let_go(number: int) -> None:
    """Stops writing to the terminal if the signal says that it is gone."""
    if number == signal.SIGHUP:
        for stream in (1, 2):
            # After a hangup isatty says that the stream is no terminal.
            if stat.S_ISCHR(os.fstat(stream).st_mode):
                _open_null(stream)


def _open_null(number: int) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    if null != number:
        os.dup2(null, number)
        os.close(null)
