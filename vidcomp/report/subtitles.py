# SPDX-License-Identifier: Apache-2.0
"""Captions with times as other programs read them: SubRip, WebVTT, CSV and plain text, made from records."""

from __future__ import annotations

import csv
import io
import math
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

__all__ = ["Cue", "clock", "cues_of", "plain", "to_csv", "to_srt", "to_text", "to_vtt"]

COLUMNS, LINES = 42, 2  # of a subtitle, as broadcasters have them
LEAST_SECONDS = 1.0  # that a part of a long caption is shown, as far as its window allows
# Directions that a caption forces on what follows it, and characters that no line may hold.
_FORCED = re.compile("[\u202a-\u202e\u2066-\u2069\ufeff]|[^\\S ]|[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_APART = "\u2060"  # joins two characters without a trace, and no reader of subtitles takes what holds it for a sign


@dataclass(frozen=True)
class Cue:
    """One caption and when it holds.

    Attributes:
        start, end: exact seconds from the first frame of the film.
        text: one line; empty where there is none.
        status: ``ok``, ``degraded`` or ``failed``.
        reason: why there is no caption, or what was damaged.
        picture: a picture of the window as an address that holds it; empty where none was kept.
    """

    start: Fraction
    end: Fraction
    text: str
    status: str = "ok"
    reason: str = ""
    picture: str = ""


def cues_of(record: Mapping[str, Any]) -> list[Cue]:
    """Cues of a record: its segments, of which equal neighbours become one, or the caption of the whole video."""
    found: list[Cue] = []
    for cue in _cues(record):
        last = found[-1] if found else None
        alike = last and last.end == cue.start and (last.text, last.status, last.reason) == (
            cue.text, cue.status, cue.reason)  # fmt: skip
        if last is not None and alike:
            found[-1] = replace(last, end=cue.end)
        else:
            found.append(cue)
    return found


def _cues(record: Mapping[str, Any]) -> Iterator[Cue]:
    for part in record.get("segments") or ():
        yield Cue(
            Fraction(part["exact_start"]), Fraction(part["exact_end"]), plain(part.get("caption") or ""),
            part["status"], _reason(part), part.get("picture", ""),
        )  # fmt: skip
    if not record.get("segments"):
        seconds = dict(record.get("video") or {}).get("duration_seconds") or 0
        text = plain(record.get("caption") or "")
        yield Cue(Fraction(0), Fraction(str(seconds)), text, str(record["status"]), _reason(record))


def _reason(part: Mapping[str, Any]) -> str:
    error = dict(part.get("error") or {})
    parts = (error.get("what", ""), error.get("why", "")) if error else (part.get("degraded") or "",)
    return plain(": ".join(filter(None, parts)))


def plain(text: str) -> str:
    """One line without control characters; directions that it forces on its neighbours are left out."""
    return " ".join(_FORCED.sub(" ", text).split())


def to_srt(cues: Iterable[Cue]) -> str:
    """SubRip: times with a comma; what players take for markup is set apart by a character without width."""
    shown = enumerate(_shown(cues), 1)
    return "".join(
        f"{number}\n{_stamp(start, ',')} --> {_stamp(end, ',')}\n{_apart(text)}\n\n"
        for number, (start, end, text) in shown
    )  # fmt: skip


def to_vtt(cues: Iterable[Cue]) -> str:
    """WebVTT: times with a point; markup is escaped."""
    blocks = [
        f"\n{_stamp(start, '.')} --> {_stamp(end, '.')}\n{_escaped(text)}\n" for start, end, text in _shown(cues)
    ]  # fmt: skip
    return "WEBVTT\n" + "".join(blocks)


def to_csv(rows: Iterable[tuple[str, Cue]]) -> str:
    """A heading and a line per cue, with the name of its file."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("file", "start", "end", "caption", "status", "reason"))
    for name, cue in rows:
        times = (f"{float(time):.6f}" for time in (cue.start, cue.end))
        writer.writerow((name, *times, cue.text, cue.status, cue.reason))
    return text.getvalue()


def to_text(cues: Iterable[Cue]) -> str:
    """A line per cue for people."""
    return "".join(
        f"{clock(cue.start)} - {clock(cue.end)}  {cue.text or f'({cue.status}: {cue.reason})'}\n"
        for cue in cues
    )  # fmt: skip


def _shown(cues: Iterable[Cue]) -> Iterator[tuple[int, int, str]]:
    """Parts that a player shows one after the other: milliseconds, which never overlap, and at most two lines."""
    free = 0
    for cue in cues:
        if not cue.text:
            continue
        for start, end, lines in _parts(cue):
            start = max(start, free)
            free = max(end, start + 1)
            yield start, free, "\n".join(lines)


def _parts(cue: Cue) -> Iterator[tuple[int, int, Sequence[str]]]:
    """A caption that needs more lines is shown in parts, as long as their letters take to read."""
    lines = textwrap.wrap(cue.text, COLUMNS, break_on_hyphens=False) or [cue.text]
    most = max(1, int((cue.end - cue.start) / Fraction(LEAST_SECONDS)))
    count = min(math.ceil(len(lines) / LINES), most)
    size = math.ceil(len(lines) / count)
    parts = [lines[first : first + size] for first in range(0, len(lines), size)]
    letters, total, length = 0, sum(map(len, lines)), cue.end - cue.start
    for part in parts:
        start = cue.start + length * letters / total
        letters += sum(map(len, part))
        yield round(1000 * start), round(1000 * (cue.start + length * letters / total)), part


def clock(time: Fraction) -> str:
    """A moment as ``00:01:02.500``."""
    return _stamp(round(1000 * time), ".")


def _stamp(milliseconds: int, point: str) -> str:
    seconds, rest = divmod(milliseconds, 1000)
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}{point}{rest:03d}"


def _apart(text: str) -> str:
    text = re.sub(r"<(?=[A-Za-z/!?])", f"<{_APART}", text)
    return text.replace("{\\", f"{{{_APART}\\").replace("-->", f"--{_APART}>")


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
