# SPDX-License-Identifier: Apache-2.0
"""Captioning many videos: one record per video, failures are records, finished work is skipped."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vidcomp.batch.journal import Journal, job_key
from vidcomp.config import settings_that_do_not_shape
from vidcomp.errors import VidcompError
from vidcomp.video.names import recorded_name

if TYPE_CHECKING:
    from vidcomp.engine.run import VideoLM

__all__ = ["Outcome", "caption_videos"]

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


def caption_videos(
    open_model: Callable[[], VideoLM],
    videos: Iterable[Path],
    prompt: str,
    settings: dict[str, Any],
    output: Path | None = None,
    *,
    retry_failed: bool = False,
    force: bool = False,
    tell: Callable[[str], None] = log.warning,
) -> Iterator[Outcome]:
    """Caption each video and yield its outcome as soon as its line is on the disk.

    What goes wrong with one video is its record, and the next one is begun.

    Args:
        open_model: loads the model; called at the first video that has to be done.
        videos: files.
        prompt: what is asked about each of them.
        settings: all settings of the run, to tell finished work from other work.
        output: results file, JSON lines; None keeps nothing.
        retry_failed: do again what failed in an earlier run.
        force: do everything again.
        tell: called with a line about what is damaged in the results file.

    Raises:
        ModelError: the model cannot be loaded. UsageError: a setting does not fit it. No video was started.
    """
    free = settings_that_do_not_shape()
    shaping = {name: value for name, value in settings.items() if name not in free} | {"prompt": prompt}
    lm: VideoLM | None = None
    with Journal(output, tell) if output else nullcontext() as journal:
        try:
            for path in videos:
                key = job_key(path, shaping)
                before = journal.find(key) if journal else None
                if before is not None and not force and _holds(before, retry_failed, bool(settings.get("strict"))):
                    yield Outcome(path, before["status"], before, skipped=True)
                    continue
                if lm is None:
                    lm = open_model()
                    lm.check(prompt)
                record = _caption(lm, path, prompt)
                if journal:
                    journal.append(key, record)
                yield Outcome(path, str(record["status"]), record, skipped=False)
        finally:
            if lm is not None:
                lm.close()


def _holds(before: dict[str, Any], retry_failed: bool, strict: bool) -> bool:
    """True if the record of an earlier run stands; strictness decides only about what is not whole."""
    if before["status"] == "failed":
        only_strict = dict(before.get("error") or {}).get("code") == "incomplete"
        return not retry_failed and (strict or not only_strict)
    return not (strict and before["status"] == "degraded")


def _caption(lm: VideoLM, path: Path, prompt: str) -> dict[str, Any]:
    try:
        record = lm.ask(path, prompt).to_dict()
    except VidcompError as error:
        return _failure(path, prompt, error)
    except Exception as error:  # a bug must not cost the rest of the batch; it is recorded with its kind
        log.debug("unexpected failure on %s", path, exc_info=True)
        why = f"{type(error).__name__}: {error}"
        return _failure(path, prompt, VidcompError("this is a bug in vidcomp", why=why, hint="vidcomp ask ... --debug"))
    return {**{k: v for k, v in record.items() if k != "answer"}, "caption": record["answer"]}


def _failure(path: Path, prompt: str, error: VidcompError) -> dict[str, Any]:
    from vidcomp.result import SCHEMA, versions

    return {
        "schema": SCHEMA,
        "status": "failed",
        "video": {"path": recorded_name(path)},
        "question": prompt,
        "error": error.to_dict(),
        "versions": versions(),
    }
