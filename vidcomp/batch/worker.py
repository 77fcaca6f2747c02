# SPDX-License-Identifier: Apache-2.0
"""A worker process of a batch: it holds a model, takes tasks from its parent and sends records back."""

from __future__ import annotations

import os
import queue
import signal
import threading
from dataclasses import dataclass
from multiprocessing.connection import Connection

from vidcomp.batch.tasks import Record, Task
from vidcomp.config import RunConfig
from vidcomp.errors import VidcompError

__all__ = ["Done", "Going", "Opening", "Ready", "Refused", "main"]


@dataclass(frozen=True)
class Opening:
    """First message to a worker.

    Attributes:
        config: all settings; the device is the worker's own.
        questions: what will be asked, checked before the first video.
        ahead: videos that may be decoded before their turn.
        threads: of the model on a CPU.
    """

    config: RunConfig
    questions: tuple[str, ...]
    ahead: int
    threads: int | None


@dataclass(frozen=True)
class Ready:
    """The worker has loaded its model."""


@dataclass(frozen=True)
class Refused:
    """The model cannot be loaded or does not fit the settings; the worker has ended.

    Attributes:
        error: the reason, with its cause and next step.
    """

    error: VidcompError


@dataclass(frozen=True)
class Going:
    """Progress within a task.

    Attributes:
        number: of the task, as the parent counts.
        text: how far it is, in words.
    """

    number: int
    text: str


@dataclass(frozen=True)
class Done:
    """The record of one task.

    Attributes:
        number: of the task, as the parent counts.
        record: the result as it goes into the results file.
    """

    number: int
    record: Record


def main(descriptor: int) -> None:
    """Work until the parent closes its end of the socket, or is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    parent = Connection(descriptor)
    arrived: queue.SimpleQueue[Task] = queue.SimpleQueue()
    opening = parent.recv()
    threading.Thread(target=_receive, args=(parent, arrived), daemon=True).start()
    try:
        _work(parent, opening, arrived)
    except VidcompError as error:
        parent.send(Refused(error))
    except (EOFError, OSError):  # the parent is gone
        pass


def _receive(parent: Connection, arrived: queue.SimpleQueue[Task]) -> None:
    try:
        while True:
            arrived.put(parent.recv())
    except (EOFError, OSError):
        os._exit(0)  # whatever the model is doing: nobody waits for it, and decoding processes end with this one


def _work(parent: Connection, opening: Opening, arrived: queue.SimpleQueue[Task]) -> None:
    import torch

    from vidcomp.batch.answering import Answerer
    from vidcomp.engine.run import load_config

    if opening.threads is not None:
        torch.set_num_threads(opening.threads)

    def on_window(task: Task, text: str) -> None:
        parent.send(Going(task.number, text))

    with load_config(opening.config) as lm, Answerer(lm, opening.ahead, on_window) as answerer:
        for question in opening.questions:
            lm.check(question)
        parent.send(Ready())
        for task, record in answerer.as_they_come(arrived):
            parent.send(Done(task.number, record))
