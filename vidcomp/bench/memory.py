# SPDX-License-Identifier: Apache-2.0
"""Peak memory of a piece of work."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = ["Peak", "peak_memory", "peak_of_processes"]

_RESET, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
_LOOK_SECONDS = 0.005


@dataclass
class Peak:
    """Bytes above what was in use before; None where that cannot be measured."""

    bytes: int | None = None


@contextmanager
def peak_memory(device: torch.device) -> Iterator[Peak]:
    """Measure the block: what torch allocated on a CUDA device, else the resident memory of the process (Linux only).

    Resident memory misses what fits into memory freed earlier, so the first run of a kind says the most.
    """
    peak = Peak()
    if device.type == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield peak
        torch.cuda.synchronize(device)
        peak.bytes = torch.cuda.max_memory_allocated(device) - before
        return
    before_resident = _resident("VmRSS") if _reset() else None
    yield peak
    after = _resident("VmHWM")
    if before_resident is not None and after is not None:
        peak.bytes = max(0, after - before_resident)


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


def _reset() -> bool:
    """Make the kernel forget the process's highest resident memory so far."""
    try:
        _RESET.write_text("5")
    except OSError:
        return False
    return True


def _resident(name: str) -> int | None:
    try:
        found = re.search(rf"^{name}:\s+(\d+) kB", _STATUS.read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found.group(1)) * 1024 if found else None
