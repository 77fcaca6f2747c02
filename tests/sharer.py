# SPDX-License-Identifier: Apache-2.0
"""One of several processes that share a folder of results, with answers that cost no model: for tests.

python sharer.py VIDEOS RESULTS SECONDS_OF_A_VIDEO TAKEOVER_SECONDS
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Generator, Iterable
from pathlib import Path

from vidcomp.batch.captions import caption_videos
from vidcomp.batch.claims import Lease
from vidcomp.batch.jobs import names_below
from vidcomp.batch.tasks import Record, Task

SETTINGS = {"model": "nano", "keep": 0.1}


def main(videos: Path, results: Path, work: float, takeover: float) -> None:
    """Work until nothing is left; each record says which process made it."""

    def answers(tasks: Iterable[Task | None]) -> Generator[tuple[Task, Record], None, None]:
        for task in tasks:
            if task is None:
                time.sleep(0.05)
                continue
            print(f"begins {task.path.name}", flush=True)
            time.sleep(work)
            yield task, {"schema": 2, "status": "ok", "video": {"path": str(task.path)}, "question": task.question,
                         "caption": str(os.getpid())}  # fmt: skip

    files = sorted(videos.iterdir())
    lease = Lease(takeover)
    for outcome in caption_videos(answers, files, "what?", SETTINGS, results, names=names_below(files, [videos]),
                                  lease=lease):  # fmt: skip
        print(f"{'before' if outcome.skipped else 'done'} {outcome.path.name}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4]))
