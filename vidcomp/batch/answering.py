# SPDX-License-Identifier: Apache-2.0
"""Answering tasks with one model: the next videos are decoded meanwhile, and whatever goes wrong is a record."""

from __future__ import annotations

import gc
import logging
import queue
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any

from vidcomp.batch.tasks import Record, Task, failure
from vidcomp.errors import OutOfMemory, VidcompError

if TYPE_CHECKING:
    from vidcomp.engine.run import VideoLM
    from vidcomp.families import Family
    from vidcomp.result import Answer
    from vidcomp.video import Frames

__all__ = ["Answerer"]

log = logging.getLogger(__name__)

SMALLER_CHUNKS = 4  # by which the frames that the tower takes at once are divided where memory runs out
FEWER_FRAMES = (2, 4, 8)  # by which the number of frames is divided after that


class Answerer:
    """One model and a thread that has the next videos decoded.

    A video that is waiting takes at most ``vidcomp.video.read.MAX_BYTES``.

    Args:
        lm: the model, with all settings.
        ahead: videos that may be decoded before their turn; 0 decodes each in its turn.
    """

    def __init__(self, lm: VideoLM, ahead: int) -> None:
        self.lm, self.ahead = lm, ahead
        self._thread = ThreadPoolExecutor(1, "vidcomp-ahead")

    def __enter__(self) -> Answerer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    def all(self, tasks: Iterable[Task]) -> Iterator[tuple[Task, Record]]:
        """Answer tasks in their order."""
        waiting: deque[tuple[Task, Future[Frames]]] = deque()
        for task in tasks:
            waiting.append((task, self.begin(task)))
            if len(waiting) > self.ahead:
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
        return self._thread.submit(_read, self.lm, task)

    def answer(self, task: Task, read: Future[Frames]) -> Record:
        """The record of one task. What is not being decoded yet is decoded while the tower works."""
        from vidcomp.result import versions

        try:
            record = _fitted(self.lm, task, task.path if read.cancel() else read.result()).to_dict()
        except VidcompError as error:
            return {**failure(task, error), "versions": versions()}
        except Exception as error:  # a bug must not cost the rest of the batch; it is recorded with its kind
            log.debug("unexpected failure on %s", task.path, exc_info=True)
            why = f"{type(error).__name__}: {error}"
            bug = VidcompError("this is a bug in vidcomp", why=why, hint="vidcomp ask ... --debug")
            return {**failure(task, bug), "versions": versions()}
        told = {k: v for k, v in record.items() if k not in ("answer", "settings")}  # the journal holds the settings
        return {**told, "caption": record["answer"]}


def _read(lm: VideoLM, task: Task) -> Frames:
    from vidcomp.video.given import read_video
    from vidcomp.video.options import sampling_of

    config = lm.config.video
    return read_video(task.path, config, sampling_of(config, lm.family.default_frames, lm.family.stock_rule))


def _fitted(lm: VideoLM, task: Task, video: Any) -> Answer:
    """Answer; where memory runs out, again with smaller chunks in the tower, then with fewer frames as well.

    Raises:
        OutOfMemory: with an eighth of the frames, too.
    """
    try:
        return lm.ask(video, task.question)
    except OutOfMemory as error:
        last = error.with_traceback(None)  # which holds what the attempt had allocated
    with _smaller_chunks(lm.family):
        frames = len(_read(lm, task))
        for parts in (1, *FEWER_FRAMES):
            _free()
            fewer = max(1, frames // parts)
            try:
                answer = lm.ask(task.path, task.question, **({} if parts == 1 else _at_most(lm, fewer)))
            except OutOfMemory as error:
                last = error.with_traceback(None)
                continue
            how = "fewer at a time" if parts == 1 else f"{fewer} of them were read"
            answer.ledger.notes.append(f"memory ran out with {frames} frames: {how}")
            return answer
    raise last


def _at_most(lm: VideoLM, frames: int) -> dict[str, Any]:
    """The setting that reads so many frames, whatever the sampling goes by."""
    by_rate = lm.config.video.fps is not None or lm.config.video.sample == "fps"
    return {"max_frames" if by_rate else "frames": frames}


@contextmanager
def _smaller_chunks(family: Family) -> Iterator[None]:
    names = ("chunk", "chunk_patches")
    try:
        for name in names:
            setattr(family, name, max(1, getattr(family, name) // SMALLER_CHUNKS))
        yield
    finally:
        for name in names:
            vars(family).pop(name, None)  # a merger in the tower sets and removes them as well


def _free() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
