# SPDX-License-Identifier: Apache-2.0
"""Every error that vidcomp raises on purpose, as one tree. Each class knows its exit status.

    VidcompError                1
      UsageError                2   wrong option, unknown method: nothing was started
      InputError                3   this file cannot be read
        IncompleteVideo         3   only part of the video could be decoded, and the caller asked for all of it
      ModelError                4   checkpoint missing, unknown family, unsupported attention
        NotApplied              4   a reduction was asked for and the forward pass did not perform it
      BatchFailures             5   a batch finished, some of its inputs failed
      OutOfMemory               6   not enough memory after every fallback

A message has three parts: what happened, why, and what to try next. The command line prints one line for each.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "BatchFailures",
    "IncompleteVideo",
    "InputError",
    "ModelError",
    "NotApplied",
    "OutOfMemory",
    "UsageError",
    "VidcompError",
]


class VidcompError(Exception):
    """Base of all expected errors.

    Args:
        what: one line, what went wrong, naming the file or option.
        why: one line, the cause as far as it is known.
        hint: one line, what to try next (a command where there is one).
        code: stable identifier for programs, such as ``"not_a_video"``; defaults to the class's own.
    """

    status: ClassVar[int] = 1
    default_code: ClassVar[str] = "internal"

    def __init__(self, what: str, *, why: str = "", hint: str = "", code: str | None = None) -> None:
        super().__init__(what)
        self.what, self.why, self.hint = what, why, hint
        self.code = code or self.default_code

    def __str__(self) -> str:
        return f"{self.what}: {self.why}" if self.why else self.what

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.what, self.why, self.hint, self.code)

    def to_dict(self) -> dict[str, str]:
        """The error as the JSON outputs carry it."""
        return {"code": self.code, "what": self.what, "why": self.why, "hint": self.hint}


def _rebuild(kind: type[VidcompError], what: str, why: str, hint: str, code: str) -> VidcompError:
    return kind(what, why=why, hint=hint, code=code)


class UsageError(VidcompError):
    """An option or argument is wrong; nothing was started."""

    status = 2
    default_code = "usage"


class InputError(VidcompError):
    """An input file cannot be read as a video."""

    status = 3
    default_code = "unreadable"


class IncompleteVideo(InputError):
    """Only part of the video could be decoded, and the caller asked for the whole of it."""

    default_code = "incomplete"


class ModelError(VidcompError):
    """The model, its weights or its tokenizer cannot be used."""

    status = 4
    default_code = "model"


class NotApplied(ModelError):
    """A reduction was asked for, and the forward pass did not perform it."""

    default_code = "not_applied"


class BatchFailures(VidcompError):
    """A batch finished, and some inputs failed; the results file names them."""

    status = 5
    default_code = "batch_failures"


class OutOfMemory(VidcompError):
    """Not enough memory, after every fallback."""

    status = 6
    default_code = "out_of_memory"
