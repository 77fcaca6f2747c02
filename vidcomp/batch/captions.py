# SPDX-License-Identifier: Apache-2.0
"""Captioning many videos: one record per video, failures are records, finished work is skipped."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vidcomp.batch.claims import Lease
from vidcomp.batch.jobs import Job, Run, jobs_of
from vidcomp.batch.journal import Journal
from vidcomp.batch.parts import Parts
from vidcomp.batch.sharing import Shared
from vidcomp.batch.tasks import OnWindow, Record, Task, Windows
from vidcomp.batch.window_log import removed
from vidcomp.batch.workers import Crew, Plan
from vidcomp.config import RunConfig
from vidcomp.video.names import display_name

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


Answers = Callable[[Iterable[Task | None]], Generator[tuple[Task, Record], None, None]]
"""Answer tasks. None among them says that there is none at the moment: whoever has some in hand is to finish them."""


def caption_videos(
    answers: Answers,
    videos: Sequence[Path],
    prompt: str,
    settings: Mapping[str, Any],
    output: Path | None = None,
    *,
    names: Sequence[str] | None = None,
    models: Mapping[str, str] | None = None,
    retry_failed: bool = False,
    force: bool = False,
    windows: Windows | None = None,
    lease: Lease | None = None,
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
        names: of the videos, by which finished work is known wherever it lies; None takes those of the files.
        models: fingerprints of checkpoints, see :class:`vidcomp.batch.jobs.Run`.
        retry_failed: do again what failed in an earlier run.
        force: do everything again.
        windows: how each video is divided, its log being a folder; None asks about whole videos.
        lease: given, ``output`` is a folder that several processes write; when the work of a silent one is taken over.
        tell: called with a line about what is damaged in the results, or made with other settings.

    Raises:
        ModelError: the model cannot be loaded. UsageError: a setting does not fit it. No video was started.
    """
    run = Run.of({**settings, "windows": windows.shaping()} if windows else settings, models or {})
    jobs = jobs_of(videos, names or [path.name for path in videos], prompt, run)
    holds = partial(_holds, retry_failed=retry_failed, strict=bool(settings.get("strict")))
    todo: dict[Task, Job] = {}
    with _opened(output, lease is not None, tell) as store:
        if store and (others := store.finished.others(run)):
            tell(f"{display_name(output or '')} also holds {others}")
        for number, job in enumerate(jobs):
            before = next(filter(holds, store.records_of(job)), None) if store and not force else None
            if before is not None:
                yield Outcome(job.path, before["status"], before, skipped=True)
            else:
                todo[Task(number, job.path, prompt, _logged(windows, job, force))] = job
        if todo:
            yield from _answered(answers, todo, store, lease or Lease())


def _opened(
    output: Path | None, shared: bool, tell: Callable[[str], None]
) -> AbstractContextManager[Journal | Parts | None]:
    if output is None:
        return nullcontext()
    return Parts(output, tell) if shared else Journal(output, tell)


def _answered(
    answers: Answers, todo: Mapping[Task, Job], store: Journal | Parts | None, lease: Lease
) -> Generator[Outcome, None, None]:
    """Outcomes of tasks, of which other processes may do some meanwhile."""
    if isinstance(store, Parts):
        with Shared(store, todo, lease) as shared, closing(answers(shared.tasks())) as answered:
            for task, record in answered:
                shared.finish(task, record)
                _forget_windows(task)
                yield _outcome(task, record)
                while shared.elsewhere:
                    yield _outcome(*shared.elsewhere.pop(), skipped=True)
            for task, record in shared.elsewhere:
                yield _outcome(task, record, skipped=True)
        return
    with closing(answers(list(todo))) as answered:
        for task, record in answered:
            if store:
                store.append(todo[task], record)
            _forget_windows(task)
            yield _outcome(task, record)


def _outcome(task: Task, record: Record, *, skipped: bool = False) -> Outcome:
    return Outcome(task.path, str(record["status"]), record, skipped)


def _logged(windows: Windows | None, job: Job, anew: bool) -> Windows | None:
    """The same for one video, whose log is a file of its own; it is begun ``anew`` where everything is."""
    if windows is None or windows.log is None:
        return windows
    state = json.dumps([job.number, job.mtime_ns, str(job.path)]).encode()
    digest = hashlib.blake2b(state, digest_size=16).hexdigest()
    log_file = windows.log / f"{digest}.jsonl"
    if anew:
        removed(log_file)
    return replace(windows, log=log_file, key=digest)


def _forget_windows(task: Task) -> None:
    """Remove the log of a video whose record is on the disk."""
    if task.windows and task.windows.log:
        removed(task.windows.log)


def in_this_process(
    open_model: Callable[[], VideoLM], prompt: str, ahead: int = 1, on_window: OnWindow = lambda *_: None
) -> Answers:  # fmt: skip
    """Answer tasks with a model of this process, which ``open_model`` loads."""

    def answers(tasks: Iterable[Task | None]) -> Generator[tuple[Task, Record], None, None]:
        from vidcomp.batch.answering import Answerer

        with open_model() as lm, Answerer(lm, ahead, on_window) as answerer:
            lm.check(prompt)
            yield from answerer.all(tasks)

    return answers


def in_workers(
    config: RunConfig, plan: Plan, prompt: str, on_window: OnWindow = lambda *_: None
) -> Answers:  # fmt: skip
    """Answer tasks in worker processes, each with a model of its own; this process loads none."""

    def answers(tasks: Iterable[Task | None]) -> Generator[tuple[Task, Record], None, None]:
        with Crew(config, plan, (prompt,), on_window) as crew:
            yield from crew.all(tasks)

    return answers


def _holds(before: dict[str, Any], *, retry_failed: bool, strict: bool) -> bool:
    """True if the record of an earlier run stands; strictness decides only about what is not whole."""
    if before["status"] == "failed":
        only_strict = dict(before.get("error") or {}).get("code") == "incomplete"
        return not retry_failed and (strict or not only_strict)
    return not (strict and before["status"] == "degraded")
