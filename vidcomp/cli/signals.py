# SPDX-License-Identifier: Apache-2.0
"""Handling of Ctrl-C, SIGTERM and a closed terminal. Imports nothing heavy: listening early is what it is for."""

from __future__ import annotations

import contextlib
import os
import signal
import weakref
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

__all__ = ["INTERRUPTED", "STOPPED", "Interrupted", "Terminated", "end_at_once", "raise_exceptions"]

INTERRUPTED = 130
STOPPED = "\nstopped\n"
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
GRACE_SECONDS = {signal.SIGINT: 1.5, signal.SIGTERM: 4.0, signal.SIGHUP: 4.0}  # for cleaning up
A_MOMENT_SECONDS = 0.005
Handler = Callable[[int, FrameType | None], None]


class Terminated(BaseException):
    """SIGTERM or SIGHUP arrived.

    Attributes:
        status: exit status.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.status = 128 + number


class Interrupted(BaseException):
    """Ctrl-C arrived in the middle of work that can be taken up again; the text says how."""


def end_at_once() -> None:
    """From now on a signal ends the process: nothing is being written, so nothing can be left half done."""
    _handle(_end)


def raise_exceptions() -> None:
    """From now on a signal is a KeyboardInterrupt or a :class:`Terminated`, so that a command can clean up.

    Further ones do not break into that, but the process ends when it takes too long. Who goes on after a
    KeyboardInterrupt calls this again.

    Not during an import: native code there swallows exceptions, and modules that were left half imported fail later.
    A library that is being loaded holds nothing that could be lost, and a worker ends when this process is gone.
    """
    _handle(_raise)


def _handle(handler: Handler) -> None:
    """Set what signals do, also where a shell's background job would ignore them; what was to come later is off."""
    with contextlib.suppress(ValueError):  # only the main thread may set handlers
        for number in SIGNALS:
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:  # which nohup asks for
                signal.signal(number, handler)
        signal.setitimer(signal.ITIMER_REAL, 0)


def _later(seconds: float, handler: Handler, number: int) -> None:
    signal.signal(signal.SIGALRM, lambda _, frame: handler(number, frame))
    signal.setitimer(signal.ITIMER_REAL, seconds)


def _raise(number: int, frame: FrameType | None) -> None:
    if _within(frame, _imports):
        _end(number, frame)
    if _within(frame, _swallows):
        _later(A_MOMENT_SECONDS, _raise, number)
        return
    _handle(_ignore)
    _later(GRACE_SECONDS[signal.Signals(number)], _end, number)
    raise KeyboardInterrupt if number == signal.SIGINT else Terminated(number)


def _within(frame: FrameType | None, kind: Callable[[FrameType], bool]) -> bool:
    """True if this frame is of a kind, or was called, however indirectly, by one that is."""
    while frame is not None:
        if kind(frame):
            return True
        frame = frame.f_back
    return False


def _imports(frame: FrameType) -> bool:
    return "importlib._bootstrap" in frame.f_code.co_filename


def _swallows(frame: FrameType) -> bool:
    """Finalizers: what is raised in them is printed, and the work goes on."""
    return frame.f_code.co_name == "__del__" or frame.f_code.co_filename == weakref.__file__


def _ignore(_number: int, _frame: FrameType | None) -> None:
    """Not ``SIG_IGN``, which programs started meanwhile would inherit."""


def _end(number: int, _frame: FrameType | None) -> NoReturn:
    if number == signal.SIGINT:
        with contextlib.suppress(OSError):
            os.write(2, STOPPED.encode())  # the stream may be in the middle of a write of its own
    os._exit(128 + number)
