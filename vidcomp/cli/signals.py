"""What Ctrl-C and SIGTERM do. Imports nothing heavy: listening early is what it is for."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

__all__ = ["INTERRUPTED", "STOPPED", "TERMINATED", "Terminated", "end_at_once", "raise_exceptions"]

INTERRUPTED, TERMINATED = 130, 143
STOPPED = "\nstopped\n"


class Terminated(BaseException):
    """SIGTERM arrived."""


def end_at_once() -> None:
    """From now on a signal ends the process: nothing is being written, so nothing can be left half done."""
    _handle(_end)


def raise_exceptions() -> None:
    """From now on a signal is a KeyboardInterrupt or a :class:`Terminated`, so that a command can clean up.

    Not during an import: native code there swallows exceptions, and modules that were left half imported fail later.
    A library that is being loaded holds nothing that could be lost, and the nursery ends when this process is gone.
    """
    _handle(_raise)


def _handle(handler: Callable[[int, FrameType | None], None]) -> None:
    with contextlib.suppress(ValueError):  # only the main thread may set handlers
        for number in (signal.SIGINT, signal.SIGTERM):  # also where a shell's background job would ignore them
            signal.signal(number, handler)


def _raise(number: int, frame: FrameType | None) -> None:
    if _imports(frame):
        _end(number, frame)
    raise KeyboardInterrupt if number == signal.SIGINT else Terminated


def _imports(frame: FrameType | None) -> bool:
    """Whether this frame was called, however indirectly, by an import."""
    while frame is not None:
        if "importlib._bootstrap" in frame.f_code.co_filename:
            return True
        frame = frame.f_back
    return False


def _end(number: int, _frame: FrameType | None) -> NoReturn:
    if number == signal.SIGINT:
        with contextlib.suppress(OSError):
            os.write(2, STOPPED.encode())  # the stream may be in the middle of a write of its own
    os._exit(INTERRUPTED if number == signal.SIGINT else TERMINATED)
