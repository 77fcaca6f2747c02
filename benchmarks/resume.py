# SPDX-License-Identifier: Apache-2.0
"""Cost of finished work: CPU time and memory with which a batch finds out that everything is done.

    python -m benchmarks.resume [--records 100000] [--parts 1]

The records are those that ``vidcomp caption`` writes, with eight frames; the videos are empty files of their names.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import tracemalloc
from collections.abc import Generator, Iterable
from pathlib import Path

from vidcomp.batch.captions import caption_videos
from vidcomp.batch.claims import Lease
from vidcomp.batch.discover import find_videos
from vidcomp.batch.jobs import Job, Run, models_of, names_below
from vidcomp.batch.journal import Journal
from vidcomp.batch.parts import Parts
from vidcomp.batch.tasks import Record, Task
from vidcomp.config import RunConfig

CONFIG = RunConfig()
QUESTION = "describe the video."


def main() -> None:
    """Write records, and read them as a second run does."""
    parser = argparse.ArgumentParser(description="CPU time and memory of a batch in which everything is done")
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--parts", type=int, default=1, help="more than one: a folder of parts")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vidcomp-bench-") as folder:
        videos, output = Path(folder) / "videos", Path(folder) / "results"
        _write(videos, output, asked.records, asked.parts)
        sizes = sum(file.stat().st_size for file in (output.iterdir() if output.is_dir() else [output]))
        begin = time.process_time()
        done = _resume(videos, output)
        seconds = time.process_time() - begin
        print(f"{done} of {asked.records} records found, {sizes / asked.records:.0f} bytes each on the disk")
        print(f"resume: {seconds:.1f} CPU seconds, listing of the folder included")
        print(f"memory: {_memory(output) / asked.records:.0f} bytes per finished record")


def _write(videos: Path, output: Path, records: int, parts: int) -> None:
    run = Run.of(CONFIG.flat(), models_of(CONFIG))
    lines: list[list[bytes]] = [[] for _ in range(parts)]
    for number in range(records):
        path = videos / f"{number // 1000:04}" / f"clip {number:08}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        job = Job.of(path, f"{path.parent.name}/{path.name}", QUESTION, run)
        lines[number % parts].append(_line(job, path))
    if parts > 1:
        output.mkdir()
    for number, part in enumerate(lines):
        file = output / f"part-host-{number}-20260101T000000.jsonl" if parts > 1 else output
        with Journal(file) as journal:
            journal.append(Job.of(videos, "first", QUESTION, run), {"schema": 2, "status": "ok", "question": QUESTION})
        with open(file, "ab") as content:
            content.writelines(part)


def _line(job: Job, path: Path) -> bytes:
    frames = list(range(0, 200, 25))
    stages = ("read", "encode", "compress", "prefill", "llm layer 3", "generate")
    record: Record = {
        "schema": 2, "status": "ok",
        "video": {"path": str(path), "duration_seconds": 7.76, "start_seconds": 0.0, "frames_total": 194, "width": 320,
                  "height": 240, "container": "mp4", "codec": "h264", "reader": "pyav"},
        "question": QUESTION, "finish": "stop", "model": "nano", "method": "holitom", "inner": "holitom",
        "encoder": "none", "keep": {"requested": 0.1, "actual": 0.107639},
        "tokens": dict.fromkeys(("uncompressed", "kept", "after_llm_layer", "layer", "separators", "text"), 288),
        "frames": {"sampled": 8, "indices": frames, "times": [n / 25 for n in frames], "exact_times": ["27/25"] * 8},
        "stages": [{"name": n, "seconds": 0.333998, "in": 288, "out": 31, "unit": "tokens"} for n in stages],
        "seconds": {"total": 0.531911, "time_to_first_token": 0.442379}, "seed": 0, "notes": [],
        "caption": "the blue cross moves to the right.", "job": job.key(read=True),
    }  # fmt: skip
    return json.dumps(record).encode() + b"\n"


def _resume(videos: Path, output: Path) -> int:
    found = find_videos([videos]).videos
    outcomes = caption_videos(
        _nobody, found, QUESTION, CONFIG.flat(), output, names=names_below(found, [videos]), models=models_of(CONFIG),
        lease=Lease() if output.is_dir() else None,
    )  # fmt: skip
    return sum(outcome.skipped for outcome in outcomes)


def _nobody(tasks: Iterable[Task | None]) -> Generator[tuple[Task, Record], None, None]:
    raise AssertionError(f"{len(list(tasks))} videos were not recognised")
    yield


def _memory(output: Path) -> int:
    tracemalloc.start()
    store = Parts(output) if output.is_dir() else Journal(output)
    size = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    store.close()
    return size


if __name__ == "__main__":
    main()
