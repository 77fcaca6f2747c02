# SPDX-License-Identifier: Apache-2.0
"""Answering tasks with one model: the next videos are decoded meanwhile, and whatever goes wrong is a record."""

from __future__ import annotations

import logging
import queue
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import TYPE_CHECKING

from vidcomp.batch.memory import fitted, read
from vidcomp.batch.tasks import OnWindow, Record, Task, failure
from vidcomp.errors import VidcompError

if TYPE_CHECKING:
    from vidcomp.engine.run import VideoLM
    from vidcomp.video import Frames

__all__ = ["Answerer"]

log = logging.getLogger(__name__)

MOMENT = 0.5  # seconds


class Answerer:
    """One model and a thread that has the next videos decoded.

    A video that is waiting takes at most ``vidcomp.video.read.MAX_BYTES``.

    Args:
        lm: the model, with all settings.
        ahead: videos that may be decoded before their turn; 0 decodes each in its turn.
        on_window: called with a task, the its windows that are done, and how many it has.
    """

    def __init__(self, lm: VideoLM, ahead: int, on_window: OnWindow = lambda *_: None) -> None:
        self.lm, self.ahead, self.on_window = lm, ahead, on_window
        self._thread = ThreadPoolExecutor(1, "vidcomp-ahead")

    def __enter__(self) -> Answerer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    def all(self, tasks: Iterable[Task | None]) -> Iterator[tuple[Task, Record]]:
        """Answer tasks in their order. None among them has those before it answered, or stands for a moment."""
        waiting: deque[tuple[Task, Future[Frames]]] = deque()
        for task in tasks:
            if task is not None:
                waiting.append((task, self.begin(task)))
            elif not waiting:
                time.sleep(MOMENT)
            while waiting and (task is None or len(waiting) > self.ahead):
                yield waiting[0][0], self.answer(*waiting.popleft())
        while waiting:
            yield waiting[0][0], self.answer(*waiting.popleft())

    def as_they_come(self, arrived: queue.SimpleQueue[Task]) -> Iterator[tuple[Task, Record]]:
        """Answer tasks for ever; the next one is decoded as soon as it arrives."""
        waiting: deque[tuple[Task, Future[Frames]]] = deque()
        while True:
            while not waiting or (len(waiting) <= self.ahead and not arrived.empty()):
                task = arrived.get()
                waiting.append((task, self.begin(task)))
            yield waiting[0][0], self.answer(*waiting.popleft())

    def begin(self, task: Task) -> Future[Frames]:
        """Have the video of a task decoded after those before it."""
        if task.windows is not None:
            return Future()  # which is cancelled: its windows are decoded one by one, in its turn
        return self._thread.submit(read, self.lm, task.path)

    def answer(self, task: Task, begun: Future[Frames]) -> Record:
        """The record of one task. What is not being decoded yet is decoded while the tower works."""
        from vidcomp.result import versions

        try:
            if task.windows is not None:
                from vidcomp.batch.windows import film_record

                return film_record(self.lm, task, task.windows, self.on_window)
            video = task.path if begun.cancel() else begun.result()
            record = fitted(self.lm, task.path, task.question, video).to_dict()
        except VidcompError as error:
            return {**failure(task, error), "versions": versions()}
        except Exception as error:  # a bug must not cost the rest of the batch; it is recorded with its kind
            log.debug("unexpected failure on %s", task.path, exc_info=True)
            why = f"{type(error).__name__}: {error}"
            bug = VidcompError("this is a bug in vidcomp", why=why, hint="vidcomp ask ... --debug")
            return {**failure(task, bug), "versions": versions()}
        told = {k: v for k, v in record.items() if k not in ("answer", "settings")}  # the journal holds the settings
        return {**told, "caption": record["answer"]}
