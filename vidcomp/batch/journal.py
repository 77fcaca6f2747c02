# SPDX-License-Identifier: Apache-2.0
"""A results file of JSON lines that survives kills: whole lines only, flushed and synced, one writer at a time."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import stat
from collections.abc import Callable, Iterator
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any

from vidcomp.batch.finished import Finished, offset_of
from vidcomp.batch.jobs import SCHEMA, Job, identity
from vidcomp.batch.salvage import parsed, sort_out
from vidcomp.errors import InputError, UsageError
from vidcomp.video.names import display_name

__all__ = ["Journal", "held_by_nobody", "line_at", "unwritable"]

log = logging.getLogger(__name__)

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)  # of a file system, as on some clusters
READ_BYTES = 4096  # at once, of a record that is looked up

_lock: Callable[[FileIO], None]
held_by_nobody: Callable[[Path], bool]
try:
    import fcntl

    def _lock(file: FileIO) -> None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise

    def held_by_nobody(path: Path) -> bool:
        """True if no process of this machine has the file locked for writing, or it is gone."""
        try:
            with open(path, "rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return True
        except OSError:
            return False
        return True

except ImportError:  # no such lock on this system; a single writer is then the user's business

    def _lock(file: FileIO) -> None:
        return None

    def held_by_nobody(path: Path) -> bool:
        return False


class Journal:
    """Appends records to a JSON-lines file and knows what earlier runs finished.

    Each record carries its ``job``; the settings stand in a line of their own before the first record made with them.
    What a loss of power or a mistake of an editor left in place of records is moved to ``NAME.bad`` beside the file.

    Args:
        path: the file; it is made when it is not there.
        tell: called with a line about what was moved.

    Attributes:
        finished: index of the records.

    Raises:
        UsageError: another process is writing the file. InputError: the file cannot be opened or is not a results file.
    """

    def __init__(self, path: Path, tell: Callable[[str], None] = log.warning) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = _opened_alone(path)
            try:
                self.finished = self._load(tell)
            except BaseException:
                self._file.close()
                raise
        except OSError as error:
            raise unwritable(path, error, "-o elsewhere") from error
        self._told = set(self.finished.runs)

    def find(self, key: dict[str, Any]) -> dict[str, Any] | None:
        """The newest record with just this ``job``, None when there is none."""
        places = self.finished.places(identity(key, None))
        return self._record_at(places[-1]) if places else None

    def records_of(self, job: Job) -> Iterator[dict[str, Any]]:
        """Records about a job, the newest first."""
        for place in self.finished.of_job(job):
            record = self._record_at(place)
            if job.answered_by(record):
                yield {**record, "status": str(record["status"])}

    def append(self, job: Job | dict[str, Any], record: dict[str, Any]) -> int:
        """Write one record as one whole line, make sure that it is on the disk, and return where it begins."""
        content = b""
        if isinstance(job, Job):
            if job.run.digest not in self._told:
                content = _line(job.run.line())
            key, number = job.key(read=record["status"] != "failed"), job.number
            record = {**record, "schema": SCHEMA}
        else:
            key, number = job, identity(job, None)
        whole = os.fstat(self._file.fileno()).st_size
        place = whole + len(content)
        try:
            _write(self._file, content + _line({**record, "job": key}))
        except OSError as error:
            with contextlib.suppress(OSError):
                self._file.truncate(whole)
            raise unwritable(self.path, error, "free space, then the same command") from error
        if isinstance(job, Job):
            self._told.add(job.run.digest)
        self.finished.note(number, place)
        return place

    def close(self) -> None:
        """Release the file."""
        self._file.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _record_at(self, place: int) -> dict[str, Any]:
        record: dict[str, Any] = json.loads(line_at(self._file.fileno(), offset_of(place)))
        return record

    def _load(self, tell: Callable[[str], None]) -> Finished:
        """Read everything before anything is touched; only then take out what is no record."""
        if not stat.S_ISREG(os.fstat(self._file.fileno()).st_mode):
            raise _foreign(self.path, "it is no regular file")
        if (finished := self._index_if_whole()) is not None:
            return finished
        self._file.seek(0)
        content = self._file.readall()
        found = sort_out(content)
        if not found.records and not found.ours:
            raise _foreign(self.path, "it holds no record")
        clean = b"".join(line + b"\n" for line in found.records)
        if found.bad:
            tell(self._set_aside(found.bad))
        elif found.zeros:
            tell(f"{display_name(self.path)} held zeros, as a loss of power leaves them: they are cut")
        if content.startswith(clean) and not found.bad:
            self._file.truncate(len(clean))  # the tail of a line that a killed run left, if anything
        else:
            self._replace(clean)
        finished = self._index_if_whole()
        assert finished is not None
        return finished

    def _index_if_whole(self) -> Finished | None:
        """Note where each line begins, one line in memory at a time; None when anything but whole records is there."""
        finished = Finished()
        place = 0
        self._file.seek(0)
        with open(os.dup(self._file.fileno()), "rb") as lines:
            for line in lines:
                clean = line.startswith(b"{") and line.endswith(b"}\n") and b"\r" not in line
                if not clean or (found := parsed(line)) is None:
                    return None
                finished.add(found, place)
                place += len(line)
        return finished

    def _set_aside(self, bad: list[bytes]) -> str:
        """Keep what is no record in a file of its own, on the disk before the results file changes."""
        aside = Path(f"{os.path.realpath(self.path)}.bad")
        with open(aside, "ab") as file:
            file.writelines(line + b"\n" for line in bad)
            file.flush()
            os.fsync(file.fileno())
        lines, held = ("1 damaged line was", "it") if len(bad) == 1 else (f"{len(bad)} damaged lines were", "they")
        moved = f"moved from {display_name(self.path)} to {display_name(aside.name)}"
        return f"{lines} {moved}; what {held} held is done again"

    def _replace(self, content: bytes) -> None:
        """Put another file in the place of this one, whole or not at all."""
        target = os.path.realpath(self.path)
        new = open(f"{target}.new", "a+b", buffering=0)
        try:
            _lock(new)
            new.truncate(0)
            os.fchmod(new.fileno(), stat.S_IMODE(os.fstat(self._file.fileno()).st_mode))
            _write(new, content)
            os.replace(f"{target}.new", target)
        except BaseException:
            new.close()
            raise
        self._file.close()
        self._file = new


def line_at(descriptor: int, offset: int) -> bytes:
    """The line of a file that begins there, without its line break."""
    content = b""
    while b"\n" not in content and (more := os.pread(descriptor, READ_BYTES, offset + len(content))):
        content += more
    return content.partition(b"\n")[0]


def unwritable(path: Path, error: OSError, hint: str) -> InputError:
    """The error of a results file that cannot be written."""
    why = error.strerror or str(error)
    return InputError(f"cannot write {display_name(path)}", why=why, hint=hint, code="unwritable")


def _line(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, ensure_ascii=False) + "\n").encode("utf-8", "replace")


def _opened_alone(path: Path) -> FileIO:
    """Open and lock the file. One that another process replaced meanwhile is not it any more."""
    while True:
        file = open(path, "a+b", buffering=0)  # a buffer would write again, on closing, what found no room
        try:
            _lock(file)
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                return file
        except FileNotFoundError:
            pass
        except OSError as error:
            file.close()
            raise UsageError(
                f"{display_name(path)} is in use",
                why="another vidcomp is writing it",
                hint="wait, or -o elsewhere",
                code="locked",
            ) from error
        file.close()


def _write(file: FileIO, content: bytes) -> None:
    while content:  # where room runs out, a part of it is written
        content = content[file.write(content) :]
    os.fsync(file.fileno())


def _foreign(path: Path, why: str) -> InputError:
    what = f"{display_name(path)} is not a results file of vidcomp"
    return InputError(what, why=why, hint="-o another file", code="not_results")
