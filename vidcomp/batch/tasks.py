# SPDX-License-Identifier: Apache-2.0
"""The work of a batch as data: what is asked of one video, and the record of one that failed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vidcomp.errors import UsageError, VidcompError
from vidcomp.video.names import recorded_name

if TYPE_CHECKING:
    from vidcomp.video.windows import Every

__all__ = ["FailureLimit", "OnWindow", "Record", "Task", "Windows", "failure"]

Record = dict[str, Any]


@dataclass(frozen=True)
class Windows:
    """The windows in which one video is asked about.

    Attributes:
        every: how it is divided.
        context: each window is told the answer about the one before.
        pictures: records hold a small picture of each window.
        log: file in which finished windows are noted until the video is done; None notes nothing.
        key: identity of the work, which the log must be of.
    """

    every: Every
    context: bool = False
    pictures: bool = False
    log: Path | None = None
    key: str = ""

    def shaping(self) -> dict[str, Any]:
        """Those that shape the result."""
        return {**self.every.to_dict(), "context": self.context, "pictures": self.pictures}


@dataclass(frozen=True)
class Task:
    """One question about one video.

    Attributes:
        number: its place in the batch, which no other task has.
        path: the file.
        question: plain text.
        windows: how it is divided; None asks about the whole.
    """

    number: int
    path: Path
    question: str
    windows: Windows | None = None


OnWindow = Callable[[Task, str], None]
"""Called with a task and words about how far it is."""


def failure(task: Task, error: VidcompError) -> Record:
    """The record of a task that failed, without the versions of the libraries."""
    return {
        "schema": 1,
        "status": "failed",
        "video": {"path": recorded_name(task.path)},
        "question": task.question,
        "error": error.to_dict(),
    }


@dataclass(frozen=True)
class FailureLimit:
    """Limit of failed videos before a batch stops: a number, or a share of all videos.

    Attributes:
        number: failed videos that are still allowed; infinite without such a limit.
        share: failed videos that are still allowed, of all, 0..1.
        text: the limit as it was given.
    """

    number: float = math.inf
    share: float = 1.0
    text: str = ""

    @classmethod
    def parse(cls, text: str | None) -> FailureLimit:
        """Read ``20`` or ``10%``; None allows any number.

        Raises:
            UsageError: it is neither.
        """
        if text is None:
            return cls()
        digits = text.removesuffix("%")
        value = float(digits) if digits.replace(".", "", 1).isdecimal() else math.nan
        if digits != text and value <= 100:
            return cls(share=value / 100, text=text)
        if digits == text and value.is_integer():
            return cls(number=value, text=text)
        raise UsageError(
            f"--max-failures {text}", why="it must be a number of videos, or a share such as 10%", code="bad_option"
        )

    def exceeded(self, failed: int, total: int) -> bool:
        """True if so many failed videos of ``total`` are too many."""
        return failed > min(self.number, self.share * total)
