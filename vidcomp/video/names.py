# SPDX-License-Identifier: Apache-2.0
"""Names of files as text: what a record says, what a person reads, and what a caller may give.

A file name is bytes, and need not be UTF-8. A record holds it as text that leads back to the file: bytes that are no
UTF-8 become ``\\xHH``, and a backslash becomes ``\\x5c`` where it would otherwise be read as one of these. Every other
name stays as it is.

    open(path_from_record(record["video"]["path"]))
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import unquote_to_bytes

__all__ = ["address_in", "display_name", "escaped", "local_path", "path_from_record", "printable", "recorded_name"]

_ESCAPE = re.compile(rb"\\x([0-9a-f]{2})")
_AMBIGUOUS = re.compile(r"\\(?=x[0-9a-f]{2})")
_STRAY = re.compile("[\udc80-\udcff]")
_FILE_ADDRESS = re.compile(r"file:(?://(?:localhost)?)?(?=/)(?!//[^/])", re.IGNORECASE)
_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]+):/+(?=.)", re.IGNORECASE)  # two letters at least: C:/ is a drive


def recorded_name(path: str | os.PathLike[str]) -> str:
    """The name of a file as records hold it: valid text, another one for every other file.

    Args:
        path: as the caller named it; it is not made absolute.
    """
    text = _AMBIGUOUS.sub(r"\\x5c", _encoded(path).decode("utf-8", "surrogateescape"))
    return _STRAY.sub(lambda stray: f"\\x{ord(stray.group()) - 0xDC00:02x}", text)


def path_from_record(text: str) -> Path:
    """The file that a record names in ``video.path`` or ``job.name``: the inverse of how records write it."""
    return Path(os.fsdecode(_ESCAPE.sub(lambda found: bytes([int(found.group(1), 16)]), text.encode("utf-8"))))


def local_path(given: str | os.PathLike[str]) -> Path:
    """The path that a caller gave; the address of a local file (``file:///a%20b.mp4``) is taken for its path."""
    text = os.fspath(given)
    address = _FILE_ADDRESS.match(text)
    return Path(os.fsdecode(unquote_to_bytes(_encoded(text[address.end() :])))) if address else Path(text)


def address_in(path: str | os.PathLike[str]) -> str | None:
    """The address that was given in place of a path, None when it is none; paths lose a slash of them."""
    found = _ADDRESS.match(os.fspath(path))
    return f"{found.group(1)}://{os.fspath(path)[found.end() :]}" if found else None


def display_name(path: str | os.PathLike[str]) -> str:
    """The path on one line: line breaks, control characters and stray bytes are escaped."""
    return escaped(recorded_name(path))


def escaped(text: str) -> str:
    """Text on one line that does nothing to a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def printable(text: object) -> str:
    """Text that any output can carry: bytes that are no UTF-8 become a replacement mark."""
    return str(text).encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _encoded(path: str | os.PathLike[str]) -> bytes:
    try:
        return os.fsencode(path)
    except UnicodeEncodeError:  # a text that no file can be named by
        return os.fspath(path).encode("utf-8", "surrogatepass")
