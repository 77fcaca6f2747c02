# SPDX-License-Identifier: Apache-2.0
"""Peak memory of this process and all below it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

from vidcomp.bench.memory import Peak

__all__ = ["peak_of_processes"]

_LOOK_SECONDS = 0.005


@contextmanager
def peak_of_processes() -> Iterator[Peak]:
    """Measure the block by looking every few milliseconds: resident memory of this process and all below it, added up.

    Pages that several processes share count for each. A look counts when the next one confirms it: a process that is
    just being started shows its parent's memory for a moment. Linux only.
    """
    peak, done, highest = Peak(), Event(), [0]

    def watch() -> None:
        last = 0
        while not done.wait(_LOOK_SECONDS):
            now = _resident_of_all()
            highest[0], last = max(highest[0], min(last, now)), now

    before = _resident_of_all()
    watcher = Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        done.set()
        watcher.join()
    if before:
        peak.bytes = max(0, highest[0] - before, _resident_of_all() - before)


def _resident_of_all() -> int:
    """Bytes of this process and its descendants; 0 where the system does not tell."""
    total, waiting = 0, ["self"]
    while waiting:
        process = Path("/proc", waiting.pop())
        try:
            total += int((process / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            lists = [file.read_text() for file in (process / "task").glob("*/children")]
            waiting += " ".join(lists).split()
        except (OSError, IndexError):
            continue  # it has just ended
    return total
