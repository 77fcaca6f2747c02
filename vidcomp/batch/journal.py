"""A results file of JSON lines that survives kills: whole lines only, flushed and synced, one writer at a time."""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any

from vidcomp.errors import InputError, UsageError

__all__ = ["Journal", "job_key"]

_lock: Callable[[FileIO], None]
try:
    import fcntl

    def _lock(file: FileIO) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)

except ImportError:  # no such lock on this system; a single writer is then the user's business

    def _lock(file: FileIO) -> None:
        return None


def job_key(path: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """What identifies finished work: the file's place, size and age, and the settings that shape the result."""
    try:
        facts = path.stat()
        size, changed = facts.st_size, facts.st_mtime_ns
    except OSError:
        size, changed = -1, -1
    return {"file": _text(os.path.abspath(path)), "bytes": size, "mtime_ns": changed, "settings": settings}


class Journal:
    """Appends records to a JSON-lines file and knows what earlier runs finished.

    Each record carries its ``job`` key. For several records with the same key the last one counts.

    Raises:
        UsageError: another process is writing the file. InputError: the file cannot be opened or is not a results file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(path, "a+b", buffering=0)  # a buffer would write again, on closing, what found no room
        except OSError as error:
            raise InputError(
                f"cannot write {path}", why=error.strerror or str(error), hint="-o elsewhere", code="unwritable"
            ) from error
        try:
            _lock(self._file)
        except OSError as error:
            self._file.close()
            raise UsageError(
                f"{path} is in use", why="another vidcomp is writing it", hint="wait, or -o elsewhere", code="locked"
            ) from error
        self._records = self._load()

    def find(self, key: dict[str, Any]) -> dict[str, Any] | None:
        """The record of this work, None when it was never finished."""
        return self._records.get(_canonical(key))

    def append(self, key: dict[str, Any], record: dict[str, Any]) -> None:
        """Write one record as one whole line, and make sure that it is on the disk."""
        line = json.dumps({**record, "job": key}, ensure_ascii=False) + "\n"
        whole = os.fstat(self._file.fileno()).st_size
        try:
            self._write(line.encode("utf-8", "replace"))
        except OSError as error:
            with contextlib.suppress(OSError):
                self._file.truncate(whole)
            raise InputError(
                f"cannot write {self.path}",
                why=error.strerror or str(error),
                hint="free space, then the same command",
                code="unwritable",
            ) from error
        self._records[_canonical(key)] = record

    def _write(self, line: bytes) -> None:
        while line:  # where room runs out, a part of it is written
            line = line[self._file.write(line) :]
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Release the file."""
        self._file.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _load(self) -> dict[str, dict[str, Any]]:
        """Read everything before anything is touched; only then cut the tail of a line that a killed run left."""
        if not stat.S_ISREG(os.fstat(self._file.fileno()).st_mode):
            raise self._foreign("it is no regular file")
        self._file.seek(0)
        content = self._file.read()
        whole = content.rfind(b"\n") + 1
        records: dict[str, dict[str, Any]] = {}
        for number, line in enumerate(content[:whole].splitlines(), 1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
                records[_canonical(record["job"])] = {**record, "status": str(record["status"])}
            except (ValueError, KeyError, TypeError) as error:
                raise self._foreign(f"line {number} is no record") from error
        if whole < len(content):
            if not content[whole:].startswith((b'{"schema"', b'{"status"')):
                raise self._foreign("its last line is no record")
            self._file.truncate(whole)
        return records

    def _foreign(self, why: str) -> InputError:
        self._file.close()
        return InputError(
            f"{self.path} is not a results file of vidcomp", why=why, hint="-o another file", code="not_results"
        )


def _canonical(key: dict[str, Any]) -> str:
    return json.dumps(key, sort_keys=True)


def _text(path: str) -> str:
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
