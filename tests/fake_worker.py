# SPDX-License-Identifier: Apache-2.0
"""A worker process without a model: what it does with a task is said by the file's name."""

from __future__ import annotations

import os
import signal
import time

from vidcomp.batch import worker
from vidcomp.errors import ModelError

MOMENT = 0.01


def main(descriptor):
    worker._work = work
    worker.main(descriptor)


def work(parent, opening, arrived):
    if "no model" in opening.questions:
        raise ModelError("no such model", code="missing")
    if "no start" in opening.questions:
        os.kill(os.getpid(), signal.SIGKILL)
    parent.send(worker.Ready())
    while True:
        task = arrived.get()
        time.sleep(MOMENT)
        if task.path.name == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if task.path.name == "hang":
            os.kill(os.getpid(), signal.SIGSTOP)
        parent.send(worker.Done(task.number, {"status": "ok", "video": {"path": str(task.path)}, "pid": os.getpid()}))
