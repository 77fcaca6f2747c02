# SPDX-License-Identifier: Apache-2.0
"""A results file of JSON lines that survives kills: whole lines only, flushed and synced, one writer at a time."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import stat
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any

from vidcomp.batch.salvage import parsed, sort_out
from vidcomp.config import settings_that_do_not_shape
from vidcomp.errors import InputError, UsageError
from vidcomp.video.names import display_name, recorded_name

__all__ = ["Journal", "job_key"]

log = logging.getLogger(__name__)

READ_BYTES = 4096  # at once, of a record that is looked up

_lock: Callable[[FileIO], None]
try:
    import fcntl

    def _lock(file: FileIO) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)

except ImportError:  # no such lock on this system; a single writer is then the user's business

    def _lock(file: FileIO) -> None:
        return None


def job_key(path: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Identity of finished work: the file's place, size and age, and the settings that shape the result."""
    try:
        facts = path.stat()
        size, changed = facts.st_size, facts.st_mtime_ns
    except OSError:
        size, changed = -1, -1
    return {"file": recorded_name(os.path.abspath(path)), "bytes": size, "mtime_ns": changed, "settings": settings}


class Journal:
    """Appends records to a JSON-lines file and knows what earlier runs finished.

    Each record carries its ``job`` key. For several records with the same key the last one counts. What a loss of power
    or a mistake of an editor left in place of records is moved to ``NAME.bad`` beside the file.

    Args:
        path: the file; it is made when it is not there.
        tell: called with a line about what was moved.

    Raises:
        UsageError: another process is writing the file. InputError: the file cannot be opened or is not a results file.
    """

    def __init__(self, path: Path, tell: Callable[[str], None] = log.warning) -> None:
        self.path = path
        self._fingerprint = _Fingerprints()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = _opened_alone(path)
            try:
                self._places = self._load(tell)
            except BaseException:
                self._file.close()
                raise
        except OSError as error:
            raise _unwritable(path, error, "-o elsewhere") from error

    def find(self, key: dict[str, Any]) -> dict[str, Any] | None:
        """The record of this work, None when it was never finished."""
        place = self._places.get(self._fingerprint(key))
        if place is None:
            return None
        record = json.loads(self._line_at(place))
        return {**record, "status": str(record["status"])}

    def append(self, key: dict[str, Any], record: dict[str, Any]) -> None:
        """Write one record as one whole line, and make sure that it is on the disk."""
        line = json.dumps({**record, "job": key}, ensure_ascii=False) + "\n"
        whole = os.fstat(self._file.fileno()).st_size
        try:
            _write(self._file, line.encode("utf-8", "replace"))
        except OSError as error:
            with contextlib.suppress(OSError):
                self._file.truncate(whole)
            raise _unwritable(self.path, error, "free space, then the same command") from error
        self._places[self._fingerprint(key)] = whole

    def close(self) -> None:
        """Release the file."""
        self._file.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _line_at(self, place: int) -> bytes:
        content = b""
        while b"\n" not in content and (more := os.pread(self._file.fileno(), READ_BYTES, place + len(content))):
            content += more
        return content.partition(b"\n")[0]

    def _load(self, tell: Callable[[str], None]) -> dict[int, int]:
        """Read everything before anything is touched; only then take out what is no record.

        Returns:
            Where the line of each job begins: a few dozen bytes in memory for records of kilobytes on the disk.
        """
        if not stat.S_ISREG(os.fstat(self._file.fileno()).st_mode):
            raise _foreign(self.path, "it is no regular file")
        if (places := self._places_where_whole()) is not None:
            return places
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
        places = self._places_where_whole()
        assert places is not None
        return places

    def _places_where_whole(self) -> dict[int, int] | None:
        """Find where each line begins, one line in memory at a time; None when anything but whole records is there."""
        places: dict[int, int] = {}
        place = 0
        self._file.seek(0)
        with open(os.dup(self._file.fileno()), "rb") as lines:
            for line in lines:
                clean = line.startswith(b"{") and line.endswith(b"}\n") and b"\r" not in line
                if not clean or (found := parsed(line)) is None:
                    return None
                if "job" in found:
                    places[self._fingerprint(found["job"])] = place
                place += len(line)
        return places

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


def _unwritable(path: Path, error: OSError, hint: str) -> InputError:
    why = error.strerror or str(error)
    return InputError(f"cannot write {display_name(path)}", why=why, hint=hint, code="unwritable")


def _foreign(path: Path, why: str) -> InputError:
    what = f"{display_name(path)} is not a results file of vidcomp"
    return InputError(what, why=why, hint="-o another file", code="not_results")


class _Fingerprints:
    """Numbers of 64 bits for keys: two of a million keys share one once in ten million files.

    Settings are written down anew only where they are others than those of the key before.
    """

    def __init__(self) -> None:
        self._settings: Any = None
        self._text = ""

    def __call__(self, key: dict[str, Any]) -> int:
        """The number of a key. What does not shape a result, and what was not given, does not count."""
        settings = key.get("settings")
        if settings != self._settings or not self._text:
            self._settings, self._text = settings, _canonical(settings)
        rest = {name: value for name, value in key.items() if name != "settings"}
        text = f"{json.dumps(rest, sort_keys=True)} {self._text}"
        return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest())


def _canonical(settings: Any) -> str:
    if isinstance(settings, dict):
        free = settings_that_do_not_shape()
        settings = {name: value for name, value in settings.items() if value is not None and name not in free}
    return json.dumps(settings, sort_keys=True)
