# SPDX-License-Identifier: Apache-2.0
"""Reading what batches wrote: records of a file, or of all parts of a folder, each with its settings."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vidcomp.batch.salvage import parsed
from vidcomp.errors import InputError
from vidcomp.video.names import display_name

__all__ = ["Result", "parts_of", "read_results"]

log = logging.getLogger(__name__)

PART = "part-*.jsonl"
RANKS = {"ok": 2, "degraded": 1}  # what wins over what, for one job; whatever failed has 0


@dataclass(frozen=True)
class Result:
    """A record of a results file, and what it was made with.

    Attributes:
        record: as it was written.
        settings: those that shaped it; of schema 1 with the prompt. Empty where the line that tells them was lost.
        models: fingerprints of the checkpoints that answered; empty in schema 1.
        run: name of these settings in its file; empty in schema 1.
        source: the file.
    """

    record: dict[str, Any]
    settings: dict[str, Any]
    models: dict[str, str]
    run: str
    source: Path


def parts_of(path: Path) -> list[Path]:
    """The file itself, or the parts in a folder, in the order in which they were begun.

    Raises:
        InputError: there is neither.
    """
    if not path.is_dir():
        if not path.exists():
            raise InputError(f"{display_name(path)} does not exist", hint="name a results file, or a folder of them")
        return [path]
    found = sorted(path.glob(PART), key=lambda part: (part.stem.rpartition("-")[2], part.name))
    if not found:
        why = f"there is no {PART} in it"
        raise InputError(f"{display_name(path)} is no folder of results", why=why, code="not_results")
    return found


def read_results(path: Path, *, every: bool = False, tell: Callable[[str], None] = log.warning) -> Iterator[Result]:
    """Records of a results file or of a folder of parts, one for each job: the best, and the newest of these.

    Nothing is changed or locked: a batch may be writing. What is damaged is left out and told.

    Args:
        path: file or folder.
        every: all records, whatever came after them.
        tell: called with a line about what was left out.

    Raises:
        InputError: there is no such file, it cannot be read, or it holds no record.
    """
    parts = parts_of(path)
    standing = None if every else _standing(parts)
    bad, records = 0, 0
    for part in parts:
        runs: dict[str, dict[str, Any]] = {}
        for place, line in _lines(part):
            found = parsed(line)
            if found is None:
                bad += 1
                continue
            if "job" not in found:
                runs[str(found["run"])] = found
                continue
            records += 1
            if standing is None or standing[_identity(found)][1:] == (str(part), place):
                yield _result(found, runs, part)
    if bad:
        tell(f"{display_name(path)}: {bad} damaged {'line was' if bad == 1 else 'lines were'} left out")
    if bad and not records:
        raise InputError(f"{display_name(path)} is not a results file of vidcomp", why="it holds no record",
                         code="not_results")  # fmt: skip


def _result(record: dict[str, Any], runs: dict[str, dict[str, Any]], part: Path) -> Result:
    job = record["job"]
    if isinstance(job.get("settings"), dict):  # schema 1
        return Result(record, job["settings"], {}, "", part)
    run = str(job.get("run", ""))
    line = runs.get(run, {})
    return Result(record, line.get("settings", {}), line.get("models", {}), run, part)


def _lines(part: Path) -> Iterator[tuple[int, bytes]]:
    """Places and content of lines; zeros and a last line that is not whole, or is being written, are none."""
    try:
        with open(part, "rb") as file:
            place = 0
            for line in file:
                if line.endswith(b"\n") and line.strip(b"\0 \t\r\n"):
                    yield place, line
                place += len(line)
    except OSError as error:
        why = error.strerror or os.strerror(error.errno or 0)
        raise InputError(f"cannot read {display_name(part)}", why=why, code="unreadable") from error


def _standing(parts: list[Path]) -> dict[int, tuple[int, str, int]]:
    """Identity of each job to the rank and the place of the record that counts for it."""
    best: dict[int, tuple[int, str, int]] = {}
    for part in parts:
        name = str(part)
        for place, line in _lines(part):
            found = parsed(line)
            if found is None or "job" not in found:
                continue
            identity, rank = _identity(found), RANKS.get(str(found["status"]), 0)
            if rank >= best.get(identity, (0,))[0]:
                best[identity] = rank, name, place
    return best


def _identity(record: dict[str, Any]) -> int:
    """A number for the work that a record is about: which file, in which state, asked what, with which settings."""
    video = record.get("video")
    path = video.get("path") if isinstance(video, dict) else None
    job = {name: value for name, value in record["job"].items() if name not in ("mtime_ns", "content")}
    text = json.dumps([path, job, record.get("question")], sort_keys=True)
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest())
