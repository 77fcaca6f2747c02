# SPDX-License-Identifier: Apache-2.0
"""A folder of results that several processes write: each to a part of its own, and everyone reads them all."""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from vidcomp.batch.finished import Finished, offset_of, place_of, source_of
from vidcomp.batch.jobs import Job
from vidcomp.batch.journal import Journal, line_at, unwritable
from vidcomp.batch.results import PART
from vidcomp.batch.salvage import parsed
from vidcomp.errors import InputError
from vidcomp.video.names import display_name

__all__ = ["Parts"]

log = logging.getLogger(__name__)


class Parts:
    """Results of several processes in one folder, on one machine or on many.

    A part has one writer ever and is never written anew, so nothing that a process has read changes. A damaged line, or
    one that was not finished, is left where it is; what it held is done again.

    Args:
        folder: it is made when it is not there.
        tell: called with a line about what is damaged.

    Attributes:
        finished: index of the records of all parts, as they were when :meth:`refresh` looked.

    Raises:
        InputError: the folder cannot be made, or a part cannot be read.
    """

    def __init__(self, folder: Path, tell: Callable[[str], None] = log.warning) -> None:
        self.folder, self.finished = folder, Finished()
        self._parts: list[Path] = []
        self._ends: dict[Path, int] = {}  # of what has been read
        self._own: Journal | None = None
        self._damaged = 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(folder, error, "-o elsewhere") from error
        self.refresh()
        if self._damaged:
            lines = "1 damaged line" if self._damaged == 1 else f"{self._damaged} damaged lines"
            tell(f"{display_name(folder)}: {lines} left out; what they held is done again")

    @property
    def own(self) -> Path:
        """The part of this process, which is made when it is first asked for."""
        return self._writer().path

    def refresh(self) -> None:
        """Read what other processes wrote since the last time."""
        mine = self._own.path if self._own else None
        for part in sorted(self.folder.glob(PART)):
            if part != mine:
                self._read_on(part)

    def records_of(self, job: Job) -> Iterator[dict[str, Any]]:
        """Records about a job, the newest of each part first."""
        for place in self.finished.of_job(job):
            record = self._record_at(place)
            if job.answered_by(record):
                yield {**record, "status": str(record["status"])}

    def append(self, job: Job, record: dict[str, Any]) -> None:
        """Write one record to the own part as one whole line, and make sure that it is on the disk."""
        offset = self._writer().append(job, record)
        self.finished.note(job.number, place_of(self._source(self.own), offset))

    def close(self) -> None:
        """Release the own part; an empty one is removed."""
        if self._own is not None:
            self._own.close()
            if not os.path.getsize(self._own.path):
                self._own.path.unlink()
            self._own = None

    def __enter__(self) -> Parts:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _writer(self) -> Journal:
        if self._own is None:
            host = re.sub(r"[^A-Za-z0-9.]+", "_", socket.gethostname())[:60]
            begun = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
            names = (
                f"part-{host}-{os.getpid()}-{begun}{more}.jsonl" for more in ("", *map(".{}".format, range(1, 99)))
            )
            self._own = Journal(next(path for name in names if not (path := self.folder / name).exists()))
        return self._own

    def _source(self, part: Path) -> int:
        if part not in self._ends:
            self._ends[part] = 0
            self._parts.append(part)
        return self._parts.index(part)

    def _read_on(self, part: Path) -> None:
        """Take in whole lines behind those that are known; the file is opened, because a network would else lie."""
        try:
            with open(part, "rb") as lines:
                source = self._source(part)
                lines.seek(self._ends[part])
                for line in lines:
                    if not line.endswith(b"\n"):
                        break
                    found = parsed(line)
                    if found is not None:
                        self.finished.add(found, place_of(source, self._ends[part]))
                    self._damaged += found is None
                    self._ends[part] += len(line)
        except FileNotFoundError:  # an empty part that its process removed
            return
        except OSError as error:
            why = error.strerror or str(error)
            raise InputError(f"cannot read {display_name(part)}", why=why, code="unreadable") from error

    def _record_at(self, place: int) -> dict[str, Any]:
        with open(self._parts[source_of(place)], "rb") as file:
            record: dict[str, Any] = json.loads(line_at(file.fileno(), offset_of(place)))
        return record
