# SPDX-License-Identifier: Apache-2.0
"""What stays behind when many videos are read in one process: ``python -m tests.leaks --n 500 [FILE...]``.

The files are read in turn, eight frames each; without any, five clips made anew and a damaged one. Printed are
resident memory (MB), open files and threads of this process, of its workers, after every
file was read once and at the end. The last file should be a sound one: a child that met damage ends. Linux only.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from fuzz import make_sources  # noqa: E402

from vidcomp.errors import InputError  # noqa: E402
from vidcomp.video import Sampling, read_frames  # noqa: E402

SETTLE_SECONDS = 0.3  # a child whose last file was damaged is about to end


def children(process: int) -> list[int]:
    """Processes that another one has started."""
    lists = Path(f"/proc/{process}/task").glob("*/children")
    return [int(number) for file in lists for number in file.read_text().split()]


def state(process: int) -> dict[str, Any]:
    """What a process holds."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return {
        "megabytes": round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1),
        "files": len(os.listdir(f"/proc/{process}/fd")),
        "threads": len(os.listdir(f"/proc/{process}/task")),
    }


def states() -> dict[str, Any]:
    """Return the states of this process and of the workers that wait for their next job."""
    gc.collect()
    time.sleep(SETTLE_SECONDS)
    return {"own": state(os.getpid()), "workers": [*map(state, children(os.getpid()))]}


def read_in_turn(files: Sequence[Path], count: int) -> None:
    """Read ``count`` videos, whatever they hold."""
    for number in range(count):
        with contextlib.suppress(InputError):
            read_frames(files[number % len(files)], Sampling(8)).wait()


def main() -> None:
    """Print both states as JSON."""
    parser = argparse.ArgumentParser(prog="python -m tests.leaks", description=__doc__)
    parser.add_argument("--n", type=int, default=500, help="videos to read (default: 500)")
    parser.add_argument("files", nargs="*", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files = options.files
        if not files:
            files = [Path(folder, "damaged.mp4"), *make_sources(Path(folder)).values()]
            files[0].write_bytes(files[1].read_bytes()[:9000])
        read_in_turn(files, len(files))
        before, start = states(), time.monotonic()
        read_in_turn(files, options.n)
        seconds = (time.monotonic() - start) / options.n
        after = states()
    print(json.dumps({"before": before, "after": after, "milliseconds_a_video": round(seconds * 1e3, 1)}, indent=2))


if __name__ == "__main__":
    main()
