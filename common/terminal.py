"""Standard input, output and errors, whatever the terminal is, or without any."""

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
"""What ends a command in good order: Ctrl-C, SIGTERM, and, unless `nohup` has it ignored, the end
of the terminal."""


def prepare() -> None:
    """Makes the three standard streams safe to use.

    A stream that was closed leads to the null device, so that no socket takes its number. A
    character that an encoding lacks is replaced.
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
    """Lets what is still to be written to a closed pipe vanish."""
    for number in (1, 2):
        _open_null(number)


def end(number: int, frame: FrameType | None) -> None:
    """Handles `ENDING_SIGNALS`.

    Raises:
        KeyboardInterrupt: always.
    """
    let_go(number)
    signal.default_int_handler(number, frame)


def let_go(number: int) -> None:
    """Writes nothing to a terminal that is gone, when the signal says so."""
    if number == signal.SIGHUP:
        for stream in (1, 2):
            # Of a terminal that has hung up, isatty says that it is none.
            if stat.S_ISCHR(os.fstat(stream).st_mode):
                _open_null(stream)


def _open_null(number: int) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    if null != number:
        os.dup2(null, number)
        os.close(null)
