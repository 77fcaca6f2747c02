# SPDX-License-Identifier: Apache-2.0
"""Finished windows of a long film on the disk, until its record is whole: a second run goes on behind them."""

from __future__ import annotations

import contextlib
import json
import os
from fractions import Fraction
from pathlib import Path
from typing import Any

from vidcomp.errors import InputError
from vidcomp.video.names import display_name
from vidcomp.video.windows import Window

__all__ = ["WindowLog", "from_plan", "noted", "removed"]

Plan = dict[str, Any]


class WindowLog:
    """A file of JSON lines: the key of the work and its windows, then what became of each window.

    What another version wrote, or what is about other work, is begun anew; a torn last line is done again.

    Args:
        path: the file; it is made when a plan is noted.
        key: identity of the work.

    Attributes:
        plan: facts of the film and its windows, None where they have to be found out.
        done: number of a window to what was noted of it.
    """

    def __init__(self, path: Path, key: str) -> None:
        self.path, self.key = path, key
        self.plan: Plan | None = None
        self.done: dict[int, dict[str, Any]] = {}
        with contextlib.suppress(OSError):
            self._load(path.read_bytes())

    def begin(self, plan: Plan) -> None:
        """Note the plan, in the place of whatever was there."""
        self.plan, self.done = plan, {}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._write("wb", {"key": self.key, "plan": plan})
        except OSError as error:
            raise self._unwritable(error) from error

    def note(self, number: int, entry: dict[str, Any]) -> None:
        """Note a finished window; it is on the disk afterwards."""
        self.done[number] = entry
        try:
            self._write("ab", {"window": number, **entry})
        except OSError as error:
            raise self._unwritable(error) from error

    def _write(self, mode: str, line: dict[str, Any]) -> None:
        with open(self.path, mode) as file:
            file.write(json.dumps(line, ensure_ascii=False).encode("utf-8", "replace") + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def _load(self, content: bytes) -> None:
        whole, _, torn = content.rpartition(b"\n")
        lines = whole.split(b"\n")
        try:
            head = json.loads(lines[0])
            entries = [json.loads(line) for line in lines[1:]]
            plan = head["plan"] if head["key"] == self.key else None
            done = {int(entry.pop("window")): entry for entry in entries}
        except (ValueError, KeyError, TypeError, AttributeError):
            return
        self.plan, self.done = plan, done if plan else {}
        if torn and plan:
            os.truncate(self.path, len(whole) + 1)

    def _unwritable(self, error: OSError) -> InputError:
        return InputError(f"cannot write {display_name(self.path)}", why=error.strerror or str(error),
                          hint="free space, then the same command", code="unwritable")  # fmt: skip


def removed(log: Path) -> None:
    """Remove a file that only unfinished work needs, and its folder when it was the last one."""
    with contextlib.suppress(OSError):
        log.unlink(missing_ok=True)
        log.parent.rmdir()


def noted(window: Window) -> list[str]:
    """A window as a plan holds it."""
    return [str(window.start), str(window.end), str(window.first), str(window.last)]


def from_plan(line: list[str]) -> Window:
    """The window that :func:`noted` wrote down."""
    return Window(*map(Fraction, line))
