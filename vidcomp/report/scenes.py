# SPDX-License-Identifier: Apache-2.0
"""Scenes as other programs read them: CSV, EDL (CMX 3600) and ffmetadata chapters."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from fractions import Fraction

from vidcomp.report.sheet import Sheet
from vidcomp.video.scene_list import Scene

__all__ = ["scenes_csv", "scenes_edl", "scenes_ffmetadata", "scenes_table"]


def scenes_table(scenes: Sequence[Scene]) -> Sheet:
    """For a terminal."""
    table = Sheet("scene", "seconds", "frames", "key frame", "at", "redundant")
    for number, scene in enumerate(scenes, 1):
        table.add_row(
            str(number), f"{float(scene.start):.2f}-{float(scene.end):.2f}", f"{scene.first}-{scene.last}",
            str(scene.key), f"{float(scene.key_time):.2f}", f"{scene.redundancy:.0%}",
        )  # fmt: skip
    return table


def scenes_csv(scenes: Sequence[Scene]) -> str:
    """A heading and a line per scene."""
    text = io.StringIO()
    rows = [{"scene": number, **scene.to_dict()} for number, scene in enumerate(scenes, 1)]
    for row in rows:
        row["first_frame"], row["last_frame"] = row.pop("frames")
    writer = csv.DictWriter(text, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def scenes_ffmetadata(scenes: Sequence[Scene]) -> str:
    """Chapters for ``ffmpeg -i film -i chapters -map_metadata 1 -codec copy``."""
    parts = [
        f"[CHAPTER]\nTIMEBASE=1/1000000\nSTART={_micro(scene.start)}\nEND={_micro(scene.end)}\ntitle=Scene {number}\n"
        for number, scene in enumerate(scenes, 1)
    ]
    return ";FFMETADATA1\n" + "".join(parts)


def scenes_edl(scenes: Sequence[Scene], rate: float, title: str) -> str:
    """A cut list at the whole frame rate nearest to that of the film, without dropped frame numbers."""
    base, lines, at = max(1, round(rate)), [f"TITLE: {title}", "FCM: NON-DROP FRAME", ""], 0
    for number, scene in enumerate(scenes, 1):
        first, stop = (round(time * base) for time in (scene.start, scene.end))
        stop = max(stop, first + 1)
        stamps = " ".join(_timecode(frame, base) for frame in (first, stop, at, at + stop - first))
        lines.append(f"{number:03d}  AX       V     C        {stamps}")
        at += stop - first
    return "\n".join(lines) + "\n"


def _micro(time: Fraction) -> int:
    return round(time * 1_000_000)


def _timecode(frame: int, base: int) -> str:
    seconds, rest = divmod(frame, base)
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}:{rest:02d}"
