"""Captioning many videos: one record per video, failures are records, finished work is skipped."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vidcomp.batch.journal import Journal, job_key
from vidcomp.errors import ModelError, OutOfMemory, UsageError, VidcompError
from vidcomp.pipeline import VideoLM
from vidcomp.result import SCHEMA, versions
from vidcomp.video.files import printable

__all__ = ["Outcome", "caption_videos"]

log = logging.getLogger(__name__)

_WHERE_IT_RUNS = ("device", "device_map", "attn", "offline")  # settings that do not make it other work


@dataclass(frozen=True)
class Outcome:
    """What became of one video: its record, or None when an earlier run had finished it."""

    path: Path
    status: str
    record: dict[str, Any] | None

    @property
    def skipped(self) -> bool:
        """Whether nothing was done, because it was done before."""
        return self.record is None


def caption_videos(
    open_model: Callable[[], VideoLM],
    videos: Iterable[Path],
    prompt: str,
    settings: dict[str, Any],
    output: Path | None = None,
    *,
    retry_failed: bool = False,
    force: bool = False,
) -> Iterator[Outcome]:
    """Caption each video and yield its outcome as soon as its line is on the disk.

    Args:
        open_model: loads the model; called at the first video that has to be done.
        videos: files.
        prompt: what is asked about each of them.
        settings: all settings of the run, to tell finished work from other work.
        output: results file, JSON lines; None keeps nothing.
        retry_failed: do again what failed in an earlier run.
        force: do everything again.

    Raises:
        ModelError: the model cannot be loaded; no video was started.
    """
    shaping = {name: value for name, value in settings.items() if name not in _WHERE_IT_RUNS} | {"prompt": prompt}
    lm: VideoLM | None = None
    with Journal(output) if output else nullcontext() as journal:
        try:
            for path in videos:
                key = job_key(path, shaping)
                before = journal.find(key) if journal else None
                if before is not None and not force and not (retry_failed and before["status"] == "failed"):
                    yield Outcome(path, before["status"], None)
                    continue
                lm = lm or open_model()
                record = _caption(lm, path, prompt)
                if journal:
                    journal.append(key, record)
                yield Outcome(path, str(record["status"]), record)
        finally:
            if lm is not None:
                lm.close()


def _caption(lm: VideoLM, path: Path, prompt: str) -> dict[str, Any]:
    try:
        record = lm.ask(path, prompt).to_dict()
    except (ModelError, OutOfMemory, UsageError):
        raise  # not this file's fault: stop, finished lines are kept
    except VidcompError as error:
        return _failure(path, prompt, error)
    except Exception as error:  # a bug must not cost the rest of the batch; it is recorded with its kind
        log.debug("unexpected failure on %s", path, exc_info=True)
        why = f"{type(error).__name__}: {error}"
        return _failure(path, prompt, VidcompError("this is a bug in vidcomp", why=why, hint="vidcomp ask ... --debug"))
    return {**{k: v for k, v in record.items() if k != "answer"}, "caption": record["answer"]}


def _failure(path: Path, prompt: str, error: VidcompError) -> dict[str, Any]:
    name = printable(path)
    return {
        "schema": SCHEMA,
        "status": "failed",
        "video": {"path": name},
        "question": prompt,
        "error": error.to_dict(),
        "versions": versions(),
    }
