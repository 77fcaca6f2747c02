# SPDX-License-Identifier: Apache-2.0
"""Progress of a batch: one line that is redrawn in a terminal, a plain line every now and then in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType

from vidcomp.cli.console import STATUS, Ui

__all__ = ["Progress"]

LOG_SECONDS = 30.0  # between two lines of a log, where not so many were done meanwhile:
LOG_LINES = 20  # of a batch, at most as many by count
LOG_COUNT = 10  # inputs between two of them, at least


class Progress:
    """Counts the inputs of a batch and says so.

    Args:
        verb: what is done to them, such as ``captioned``.
        total: how many there are; None until :meth:`tick` tells.
        clock: seconds.
    """

    def __init__(self, verb: str, total: int | None, ui: Ui, clock: Callable[[], float] = time.monotonic) -> None:
        self._verb, self._total, self._clock = verb, total, clock
        self._quiet, self._drawn = ui.quiet, sys.stderr.isatty()
        self._note = ui.note
        self.done, self.failed, self._skipped = 0, 0, 0
        self._begin = self._said_at = clock()
        self._said_count = 0

    def __enter__(self) -> Progress:
        self._say("")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        STATUS.show("")

    def advance(self, name: str = "", *, failed: bool = False, skipped: bool = False) -> None:
        """One more input is done: it may have failed, or have been done before."""
        self.done += 1
        self.failed += failed
        self._skipped += skipped
        self._say(name)

    def tick(self, done: int, total: int) -> None:
        """So many are done."""
        self.done, self._total = done, total
        self._say("")

    def within(self, name: str, how_far: str) -> None:
        """The input in hand is so far."""
        text = f"{self._text()}  {name}: {how_far}"
        if self._drawn and not self._quiet:
            STATUS.show(text)
        elif self._clock() - self._said_at >= LOG_SECONDS:
            self._said_at = self._clock()
            self._note(text)

    def _say(self, name: str) -> None:
        if self._quiet:
            return
        if self._drawn:
            STATUS.show(f"{self._text()}  {name}".rstrip())
        elif self._due():
            self._said_at, self._said_count = self._clock(), self.done
            self._note(self._text())

    def _due(self) -> bool:
        """True if a log is to get a line: not for the last input, because a summary follows."""
        if not 0 < self.done or self.done == self._total:
            return False
        step = max(LOG_COUNT, -(-(self._total or 0) // LOG_LINES))
        return self.done - self._said_count >= step or self._clock() - self._said_at >= LOG_SECONDS

    def _text(self) -> str:
        parts = [f"{self._verb} {self.done}" + (f" of {self._total}" if self._total else "")]
        parts += [f"{self.failed} failed"] if self.failed else []
        worked, seconds = self.done - self._skipped, self._clock() - self._begin
        if worked > 0 and seconds > 0 and self._total:
            parts.append(f"{_clock_text((self._total - self.done) * seconds / worked)} left")
        return ", ".join(parts)


def _clock_text(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
