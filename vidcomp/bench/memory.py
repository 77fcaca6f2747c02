# SPDX-License-Identifier: Apache-2.0
"""Peak memory of a piece of work."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = ["Peak", "peak_memory"]

_RESET, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


@dataclass
class Peak:
    """Bytes above what was in use before; None where that cannot be measured.

    Attributes:
        bytes: the highest amount, once the block has ended.
    """

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
