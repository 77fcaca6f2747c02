# SPDX-License-Identifier: Apache-2.0
"""Captioning many videos: one record per video, failures are records, finished work is skipped."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Generator, Iterable
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vidcomp.batch.journal import Journal, job_key
from vidcomp.batch.tasks import OnWindow, Record, Task, Windows
from vidcomp.batch.window_log import removed
from vidcomp.batch.workers import Crew, Plan
from vidcomp.config import RunConfig, settings_that_do_not_shape

if TYPE_CHECKING:
    from vidcomp.engine.run import VideoLM

__all__ = ["Answers", "Outcome", "caption_videos", "in_this_process", "in_workers"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """Outcome for one video.

    Attributes:
        path: the file.
        status: of its record.
        record: what was written, by this run or an earlier one.
        skipped: whether nothing was done, because an earlier run had done it.
    """

    path: Path
    status: str
    record: dict[str, Any]
    skipped: bool


Answers = Callable[[Iterable[Task]], Generator[tuple[Task, Record], None, None]]


def caption_videos(
    answers: Answers,
    videos: Iterable[Path],
    prompt: str,
    settings: dict[str, Any],
    output: Path | None = None,
    *,
    retry_failed: bool = False,
    force: bool = False,
    windows: Windows | None = None,
    tell: Callable[[str], None] = log.warning,
) -> Generator[Outcome, None, None]:
    """Caption each video and yield its outcome as soon as its line is on the disk; first what is done already.

    What goes wrong with one video is its record, and the next one is begun.

    Args:
        answers: :func:`in_this_process` or :func:`in_workers`; called when a video has to be done.
        videos: files.
        prompt: what is asked about each of them.
        settings: all settings of the run, to tell finished work from other work.
        output: results file, JSON lines; None keeps nothing.
        retry_failed: do again what failed in an earlier run.
        force: do everything again.
        windows: how each video is divided, its log being a folder; None asks about whole videos.
        tell: called with a line about what is damaged in the results file.

    Raises:
        ModelError: the model cannot be loaded. UsageError: a setting does not fit it. No video was started.
    """
    free = settings_that_do_not_shape()
    shaping = {name: value for name, value in settings.items() if name not in free} | {"prompt": prompt}
    if windows:
        shaping |= {"windows": windows.shaping()}
    todo: dict[Task, dict[str, Any]] = {}
    with Journal(output, tell) if output else nullcontext() as journal:
        for number, path in enumerate(videos):
            key = job_key(path, shaping)
            before = journal.find(key) if journal else None
            if before is not None and not force and _holds(before, retry_failed, bool(settings.get("strict"))):
                yield Outcome(path, before["status"], before, skipped=True)
            else:
                todo[Task(number, path, prompt, _logged(windows, key, force))] = key
        if not todo:
            return
        with closing(answers(list(todo))) as answered:
            for task, record in answered:
                if journal:
                    journal.append(todo[task], record)
                if task.windows and task.windows.log:
                    removed(task.windows.log)
                yield Outcome(task.path, str(record["status"]), record, skipped=False)


def _logged(windows: Windows | None, key: dict[str, Any], anew: bool) -> Windows | None:
    """The same for one video, whose log is a file of its own; it is begun ``anew`` where everything is."""
    if windows is None or windows.log is None:
        return windows
    digest = hashlib.blake2b(json.dumps(key, sort_keys=True).encode(), digest_size=16).hexdigest()
    log_file = windows.log / f"{digest}.jsonl"
    if anew:
        removed(log_file)
    return replace(windows, log=log_file, key=digest)


def in_this_process(
    open_model: Callable[[], VideoLM], prompt: str, ahead: int = 1, on_window: OnWindow = lambda *_: None
) -> Answers:  # fmt: skip
    """Answer tasks with a model of this process, which ``open_model`` loads."""

    def answers(tasks: Iterable[Task]) -> Generator[tuple[Task, Record], None, None]:
        from vidcomp.batch.answering import Answerer

        with open_model() as lm, Answerer(lm, ahead, on_window) as answerer:
            lm.check(prompt)
            yield from answerer.all(tasks)

    return answers


def in_workers(
    config: RunConfig, plan: Plan, prompt: str, on_window: OnWindow = lambda *_: None
) -> Answers:  # fmt: skip
    """Answer tasks in worker processes, each with a model of its own; this process loads none."""

    def answers(tasks: Iterable[Task]) -> Generator[tuple[Task, Record], None, None]:
        with Crew(config, plan, (prompt,), on_window) as crew:
            yield from crew.all(tasks)

    return answers


def _holds(before: dict[str, Any], retry_failed: bool, strict: bool) -> bool:
    """True if the record of an earlier run stands; strictness decides only about what is not whole."""
    if before["status"] == "failed":
        only_strict = dict(before.get("error") or {}).get("code") == "incomplete"
        return not retry_failed and (strict or not only_strict)
    return not (strict and before["status"] == "degraded")
