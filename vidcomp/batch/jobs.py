# SPDX-License-Identifier: Apache-2.0
"""Identity of work: which video, asked what, with which settings and model; not where, when or how long."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from vidcomp._version import __version__
from vidcomp.config import RunConfig, settings_that_do_not_shape
from vidcomp.video.names import path_from_record, recorded_name

__all__ = ["SCHEMA", "Job", "Run", "content_sample", "earlier_run", "identity", "jobs_of", "models_of", "names_below"]

SCHEMA = 2
SAMPLE_BYTES = 65536  # at either end of a file, by which its content is known
AGES = ("mtime_ns", "content")  # of a job, either of which is enough to know the file again
_NAMES = {"model": ("model", "revision"), "segmenter": ("segmenter_model",)}  # which a fingerprint stands for


@dataclass(frozen=True)
class Run:
    """The settings and models that the jobs of a run have in common.

    Attributes:
        settings: those that shape a result.
        models: fingerprints of the checkpoints, under ``model`` and ``segmenter``; without one its name counts.
    """

    settings: dict[str, Any]
    models: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, settings: Mapping[str, Any], models: Mapping[str, str]) -> Run:
        """A run with all its settings, of which those that shape nothing are left out."""
        free = settings_that_do_not_shape()
        return cls({name: value for name, value in settings.items() if name not in free}, dict(models))

    @classmethod
    def from_line(cls, line: Mapping[str, Any]) -> Run:
        """The run that a line of a results file tells of."""
        return cls.of(line["settings"], dict(line.get("models") or {}))

    @cached_property
    def digest(self) -> str:
        """Name of these settings. A setting that a line does not tell, being older, has its default."""
        named = {name for model in self.models for name in _NAMES.get(model, ())}
        settings = {**_defaults(), **self.settings}
        known = {name: value for name, value in settings.items() if name not in named and value is not None}
        return _digest([known, self.models]).hex()

    def line(self) -> dict[str, Any]:
        """The line that tells them, before the first record made with them."""
        return {"schema": SCHEMA, "run": self.digest, "vidcomp": __version__, "settings": self.settings,
                "models": self.models}  # fmt: skip


@dataclass(frozen=True)
class Job:
    """One question about one video.

    Attributes:
        name: of the file, relative to the argument below which it was found.
        path: the file.
        bytes: its size, -1 where it cannot be told.
        mtime_ns: its age.
        question: plain text.
        run: settings and model.
        rivals: other files of the batch that have the same name below other arguments.
    """

    name: str
    path: Path
    bytes: int
    mtime_ns: int
    question: str
    run: Run
    rivals: tuple[Path, ...] = ()

    @classmethod
    def of(cls, path: Path, name: str, question: str, run: Run, rivals: Iterable[Path] = ()) -> Job:
        """The job of a file as it is now."""
        size, changed = _size_and_age(path)
        return cls(name, path, size, changed, question, run, tuple(rivals))

    def key(self, *, read: bool) -> dict[str, Any]:
        """The job as a record holds it; a file that was ``read`` without trouble is known by its content, too."""
        same = read and _size_and_age(self.path) == (self.bytes, self.mtime_ns)
        return {"name": self.name, "bytes": self.bytes, "mtime_ns": self.mtime_ns,
                "content": self.content if same else None, "run": self.run.digest}  # fmt: skip

    @cached_property
    def content(self) -> str | None:
        """Sample of the file's content."""
        return content_sample(self.path)

    @cached_property
    def number(self) -> int:
        """Number of the work, the same on every machine; files of one name, size and age below several share it."""
        return identity({"name": self.name, "bytes": self.bytes}, self.question, self.run.digest)

    @cached_property
    def earlier(self) -> int:
        """The number of the same work in a record of schema 1, which goes by place and knows no fingerprint."""
        place = recorded_name(os.path.abspath(self.path))
        return identity({"file": place, "bytes": self.bytes}, self.question, earlier_run(self.run.settings))

    def answered_by(self, record: Mapping[str, Any]) -> bool:
        """True if a record with the number of this work is about this file."""
        job = record["job"]
        if job.get("mtime_ns") != self.mtime_ns and (job.get("content") is None or job["content"] != self.content):
            return False
        if not self.rivals:
            return True
        place = path_from_record(str(dict(record.get("video") or {}).get("path", "")))
        return _shared_tail(place, self.path) > max(_shared_tail(place, rival) for rival in self.rivals)


def identity(job: Mapping[str, Any], question: Any, run: str = "") -> int:
    """A number of 64 bits for a job as a record holds it, without the age of its file.

    Args:
        job: as in a record.
        question: of the record.
        run: name of the settings, which stands for what the job says of them.
    """
    left_out = (*AGES, "settings", "run") if run else AGES
    known = {name: value for name, value in job.items() if name not in left_out}
    return int.from_bytes(_digest([known, question, run]))


def earlier_run(settings: Mapping[str, Any]) -> str:
    """Name of settings as schema 1 has them, in every job, with the name of the model; without the prompt."""
    return Run.of({name: value for name, value in settings.items() if name != "prompt"}, {}).digest


def jobs_of(videos: Sequence[Path], names: Sequence[str], question: str, run: Run) -> list[Job]:
    """The jobs of a batch that asks the same about each video."""
    same: dict[str, list[Path]] = {}
    for path, name in zip(videos, names, strict=True):
        same.setdefault(name, []).append(path)
    return [
        Job.of(path, name, question, run, (other for other in same[name] if other != path))
        for path, name in zip(videos, names, strict=True)
    ]


def names_below(videos: Sequence[Path], arguments: Iterable[Path]) -> list[str]:
    """Names of videos relative to the outermost folder among the arguments, or to their own folder."""
    folders = sorted({path for path in arguments if os.path.isdir(path)}, key=lambda path: len(path.parts))
    starts = ["" if folder == Path() else os.path.join(folder, "") for folder in folders]
    found = []
    for path in videos:
        text = os.fspath(path)
        inside = ((start, os.path.isabs(text)) for start in starts if text.startswith(start))
        start = next((start for start, absolute in inside if start or not absolute), None)
        found.append(recorded_name(path.name if start is None else text[len(start) :]))
    return found


def models_of(config: RunConfig) -> dict[str, str]:
    """Fingerprints of the checkpoints that a run names. One that is not here is downloaded.

    Raises:
        ModelError: there is no such model, or it cannot be downloaded.
    """
    from vidcomp.hub.fingerprint import fingerprint
    from vidcomp.hub.folders import checkpoint_folder

    model, offline = config.model, config.model.offline
    found = {"model": fingerprint(checkpoint_folder(model.model, offline=offline, revision=model.revision))}
    if config.spans.segmenter_model is not None:
        found["segmenter"] = fingerprint(checkpoint_folder(config.spans.segmenter_model, offline=offline))
    return found


def content_sample(path: Path) -> str | None:
    """Digest of a file's beginning and end; None for what is no regular file, or cannot be read."""
    with contextlib.suppress(OSError), open(path, "rb", opener=_at_once) as file:
        facts = os.fstat(file.fileno())
        if stat.S_ISREG(facts.st_mode):
            pieces = file.read(SAMPLE_BYTES)
            file.seek(max(len(pieces), facts.st_size - SAMPLE_BYTES))
            return hashlib.blake2b(pieces + file.read(SAMPLE_BYTES), digest_size=16).hexdigest()
    return None


def _at_once(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # a named pipe waits for a writer


def _size_and_age(path: Path) -> tuple[int, int]:
    try:
        facts = path.stat()
    except OSError:
        return -1, -1
    return facts.st_size, facts.st_mtime_ns


def _shared_tail(place: Path, file: Path) -> int:
    """Length of the longest common end of two paths, in names."""
    pairs = zip(reversed(place.parts), reversed(file.absolute().parts), strict=False)
    return len(list(itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)))


@cache
def _defaults() -> dict[str, Any]:
    free = settings_that_do_not_shape()
    return {name: value for name, value in RunConfig().flat().items() if name not in free}


def _digest(content: Any) -> bytes:
    text = json.dumps(content, sort_keys=True)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
