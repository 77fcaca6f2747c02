# SPDX-License-Identifier: Apache-2.0
"""Standard streams that may be full or closed: output that is lost is an error of its own, lost words are none."""

from __future__ import annotations

import io
import os
import select
import sys
from typing import NoReturn, TextIO

from vidcomp.cli.console import print_error
from vidcomp.errors import InputError

__all__ = ["finish", "flushed", "guard_streams"]


def guard_streams() -> None:
    """Replace the streams of this process by ones whose failures end as documented."""
    for number in range(3):
        _occupy(number)
    sys.stdin = sys.stdin or open(0, closefd=False)  # None where it was closed
    sys.stdout = _text(_Output(1, "w", closefd=False), sys.stdout)
    sys.stderr = _text(_Words(2, "w", closefd=False), sys.stderr)


def finish(status: int) -> NoReturn:
    """End the process at once: while the interpreter takes itself apart, a signal would end it with another status."""
    os._exit(flushed(status))


def flushed(status: int) -> int:
    """The exit status once the output is written; standard error holds nothing back."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        pass
    except InputError as error:
        print_error(error)
        return error.status
    return status


class _Patient(io.FileIO):
    """Waits where the other side of a non-blocking stream is slow: whoever shares the stream may have made it one."""

    def write(self, piece: bytes) -> int:  # type: ignore[override]
        while (written := super().write(piece)) is None:
            select.select((), (self,), ())
        return written


class _Output(_Patient):
    """Output of a command. The first failure is raised; what is still buffered then goes nowhere."""

    def write(self, piece: bytes) -> int:  # type: ignore[override]
        try:
            return super().write(piece)
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
            if isinstance(error, BrokenPipeError):
                raise  # nobody reads any more, which is no failure
            raise InputError(
                "cannot write the output",
                why=(error.strerror or str(error)).lower(),
                hint="free space, or send the output elsewhere",
                code="unwritable",
            ) from error


class _Words(_Patient):
    """Messages beside the output. Where nobody can hear it, the work goes on."""

    def write(self, piece: bytes) -> int:  # type: ignore[override]
        try:
            return super().write(piece)
        except OSError:
            return len(piece)


def _occupy(number: int) -> None:
    """A closed descriptor would become that of the next file, and words would be written into it."""
    try:
        os.fstat(number)
    except OSError:
        # Reading only: the output is not to vanish unnoticed. Open files get the lowest free number, which is this one.
        os.open(os.devnull, os.O_RDONLY)


def _text(raw: io.FileIO, replaced: TextIO | None) -> TextIO:
    """A text stream like the one that it replaces; an output that cannot carry a letter shows a mark instead."""
    encoding = replaced.encoding if replaced else "utf-8"
    return io.TextIOWrapper(
        io.BufferedWriter(raw), encoding, errors="replace", line_buffering=raw.isatty() or isinstance(raw, _Words)
    )
