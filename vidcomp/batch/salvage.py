# SPDX-License-Identifier: Apache-2.0
"""Whole lines of a results file: a loss of power or a mistake of an editor damages some lines, seldom all."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

__all__ = ["Salvage", "job_of", "sort_out"]

_SIGNS = re.compile(rb'"schema": \d+, "status": "|"job": \{|\A\{"status": "')  # of a record that may be damaged
_BEGIN = b'{"schema": 1, "status": "'
_DECODER = json.JSONDecoder()


@dataclass(frozen=True)
class Salvage:
    """The parts of a results file.

    Attributes:
        records: lines that are records, without their line breaks.
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
        found = [line] if job_of(line) is not None else list(_records_in(line))
        records += found
        if found != [line] and not (line is tail and not found and _begins_like_one(line)):
            bad.append(line)
    records = [record.replace(b"\r", b" ") for record in records]  # space between tokens, where readers see a break
    rest = content.strip(b"\0 \t\r\n")
    return Salvage(records, bad, b"\0" in content, not rest or bool(_SIGNS.search(content)) or _BEGIN.startswith(rest))


def _begins_like_one(line: bytes) -> bool:
    return line.startswith((b'{"schema"', b'{"status"')) or _BEGIN.startswith(line)


def job_of(line: bytes) -> dict[str, Any] | None:
    """The job of a record, None for what is no record."""
    try:
        found: Any = json.loads(line)
    except (ValueError, RecursionError):
        return None
    whole = isinstance(found, dict) and isinstance(found.get("job"), dict) and "status" in found
    return found["job"] if whole else None


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
            if job_of(piece) is not None:
                yield piece
            else:
                end = place + 1
        place = text.find('{"', end)
