# SPDX-License-Identifier: Apache-2.0
"""Time of a whole command, from the shell's call to its end: with a model loaded by it, and with one kept warm.

    python -m benchmarks.start [VIDEO] [--repeats 10]

Both ways are asked in turn, and every answer must be the same. The warm process is started here, in a runtime folder of
its own, and ended here; one question goes before each way and does not count.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CLIP = Path(__file__).parents[1] / "samples" / "blue_cross_moves_right.mp4"
QUESTION = "what happens?"


def main() -> None:
    """Ask both ways, and print a line for each."""
    parser = argparse.ArgumentParser(description="wall time of a whole vidcomp ask, with and without vidcomp warm")
    parser.add_argument("video", nargs="?", type=Path, default=CLIP)
    parser.add_argument("--repeats", type=int, default=10)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vidcomp-bench-") as folder:
        os.environ["XDG_RUNTIME_DIR"] = folder
        line = ["ask", str(asked.video), QUESTION, "--quiet"]
        _vidcomp(["warm", "--quiet"])
        try:
            times = _alternating({"loads": [*line, "--no-warm"], "warm": line}, asked.repeats)
        finally:
            _vidcomp(["warm", "--stop"])
    for name, (wall, cpu) in times.items():
        spread = f"{min(wall):.2f}-{max(wall):.2f}"
        own = statistics.median(cpu)
        print(f"{name:<6} {statistics.median(wall):.2f} s wall ({spread}), {own:.2f} s CPU of its own")
    ratio = statistics.median(a / b for a, b in zip(times["loads"][0], times["warm"][0], strict=True))
    print(f"ratio  {ratio:.1f} (median of {asked.repeats} pairs)")


def _alternating(lines: dict[str, list[str]], repeats: int) -> dict[str, tuple[list[float], list[float]]]:
    """Wall and CPU seconds of each way, asked in turn."""
    found: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in lines}
    answers = {_vidcomp(line) for line in lines.values()}
    for _ in range(repeats):
        for name, line in lines.items():
            begin, spent = time.perf_counter(), _children_seconds()
            answers.add(_vidcomp(line))
            found[name][0].append(time.perf_counter() - begin)
            found[name][1].append(_children_seconds() - spent)
    if len(answers) != 1:
        raise SystemExit(f"the answers differ: {answers}")
    return found


def _vidcomp(words: list[str]) -> str:
    line = [sys.executable, "-m", "vidcomp", *words]
    return subprocess.run(line, check=True, capture_output=True, text=True).stdout


def _children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
