# SPDX-License-Identifier: Apache-2.0
"""Whole lines of a results file: a loss of power or a mistake of an editor damages some lines, seldom all."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

__all__ = ["Salvage", "parsed", "sort_out"]

_SIGNS = re.compile(rb'"schema": \d+, "(status|run)": "|"job": \{|\A\{"status": "')  # of a line that may be damaged
_BEGINS = tuple(b'{"schema": %d, "%b": "' % (schema, name) for schema in (1, 2) for name in (b"status", b"run"))
_DECODER = json.JSONDecoder()


@dataclass(frozen=True)
class Salvage:
    """The parts of a results file.

    Attributes:
        records: lines that are records, or tell what a run has in common, without their line breaks.
        bad: lines that are none, or hold more.
        zeros: whether there were zero bytes.
        ours: whether the file looks like one of ours: empty, or with remains of records.
    """

    records: list[bytes]
    bad: list[bytes]
    zeros: bool
    ours: bool


def sort_out(content: bytes) -> Salvage:
    """Tell records from the rest. A last line that was not finished is neither, when it begins like a record."""
    records: list[bytes] = []
    bad: list[bytes] = []
    *lines, tail = (line.strip(b"\0 \t\r") for line in content.split(b"\n"))
    for line in filter(None, (*lines, tail)):
        found = [line] if parsed(line) is not None else list(_records_in(line))
        records += found
        if found != [line] and not (line is tail and not found and _begins_like_one(line)):
            bad.append(line)
    records = [record.replace(b"\r", b" ") for record in records]  # space between tokens, where readers see a break
    rest = content.strip(b"\0 \t\r\n")
    return Salvage(records, bad, b"\0" in content, not rest or bool(_SIGNS.search(content)) or _begins(rest))


def _begins_like_one(line: bytes) -> bool:
    return line.startswith((b'{"schema"', b'{"status"')) or _begins(line)


def _begins(content: bytes) -> bool:
    """True for the first bytes of a line, cut anywhere."""
    return any(begin.startswith(content) for begin in _BEGINS)


def parsed(line: bytes) -> dict[str, Any] | None:
    """A record, or the line that tells the settings of a run; None for what is neither."""
    try:
        found: Any = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    record = isinstance(found.get("job"), dict) and "status" in found
    run = isinstance(found.get("run"), str) and isinstance(found.get("settings"), dict)
    return found if record or run else None


def _records_in(line: bytes) -> Iterator[bytes]:
    """Whole records inside a line that is none: the break between two of them may be what was damaged."""
    text = line.decode("utf-8", "surrogateescape")
    place = text.find('{"')
    while place >= 0:
        try:
            _, end = _DECODER.raw_decode(text, place)
        except (ValueError, RecursionError):
            end = place + 1
        else:
            piece = text[place:end].encode("utf-8", "surrogateescape")
            if parsed(piece) is not None:
                yield piece
            else:
                end = place + 1
        place = text.find('{"', end)
