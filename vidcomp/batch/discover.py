# SPDX-License-Identifier: Apache-2.0
"""Find the files that a batch works on, and note what it leaves out."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from vidcomp.errors import InputError
from vidcomp.video.names import escaped, printable

__all__ = ["VIDEO_SUFFIXES", "Found", "find_videos"]

VIDEO_SUFFIXES = frozenset(
    ".264 .265 .3g2 .3gp .apng .asf .av1 .avi .avif .divx .dv .f4v .flv .gif .h264 .h265 .hevc .ivf .m1v .m2ts .m2v "
    ".m4v .mjpeg .mjpg .mkv .mov .mp4 .mp4v .mpe .mpeg .mpg .mpv .mts .mxf .nut .obu .ogm .ogv .qt .rm .rmvb .tod .tp "
    ".trp .ts .vob .webm .wmv .wtv .y4m".split()
)
NAMED_REASONS = 8  # of what was left out; the others are counted together


@dataclass(frozen=True)
class Found:
    """The files of a batch.

    Attributes:
        videos: each once.
        files: why files below the folders are not among them: a suffix such as ``.txt``, or a word; to their number.
        folders: likewise why folders were not looked into.
    """

    videos: list[Path]
    files: Counter[str] = field(default_factory=Counter)
    folders: Counter[str] = field(default_factory=Counter)

    @property
    def left_out(self) -> str:
        """One line, ``left out: 12 files (7 .txt, 3 .webp, 2 hidden), 1 folder (1 link)``; empty when nothing was."""
        parts = [_counted(self.files, "file"), _counted(self.folders, "folder")]
        return f"left out: {', '.join(filter(None, parts))}" if any(parts) else ""


def find_videos(paths: Iterable[Path]) -> Found:
    """Files as given, and the video files below folders, sorted; each once, links to folders not followed.

    A file that is named outright is taken whatever its name; inside folders the suffix decides, what is hidden is left
    out, and so is a link to a file that is found anyway. A folder that cannot be listed is found itself: it becomes a
    failed record, and the others go on.

    Raises:
        InputError: nothing was found.
    """
    found = Found([])
    named: dict[Path, bool] = {}  # to whether it was named outright
    for path in paths:
        if os.path.isdir(path):  # False also where the system does not let us look
            for below in _below(path, found):
                named.setdefault(below, False)
        else:
            named[path] = True
    found.videos.extend(_without_copies(named, found))
    if not found.videos:
        why = f"folders are searched for {' '.join(sorted(VIDEO_SUFFIXES))}"
        raise InputError(
            f"no video found{found.left_out and f'; {found.left_out}'}", why=why, hint="name the files",
            code="nothing_found",
        )  # fmt: skip
    return found


def _below(folder: Path, found: Found) -> Iterator[Path]:
    closed: list[Path] = []
    for root, folders, files in os.walk(folder, onerror=lambda error: closed.append(Path(error.filename))):
        reasons = {name: _why_not_entered(root, name) for name in folders}
        found.folders.update(filter(None, reasons.values()))
        folders[:] = sorted(name for name in folders if not reasons[name])
        for name in sorted(files):
            if reason := _why_not_read(name):
                found.files[reason] += 1
            else:
                yield Path(root, name)
    yield from closed


def _why_not_entered(root: str, name: str) -> str:
    return "hidden" if name.startswith(".") else "link" if os.path.islink(os.path.join(root, name)) else ""


def _why_not_read(name: str) -> str:
    if name.startswith("."):
        return "hidden"
    suffix = os.path.splitext(name)[1].lower()
    return "" if suffix in VIDEO_SUFFIXES else escaped(printable(suffix)) or "without suffix"


def _without_copies(named: dict[Path, bool], found: Found) -> Iterator[Path]:
    """Leave out links below folders to a file that is there under a name of its own, or by another link."""
    linked = {path for path, outright in named.items() if not outright and path.is_symlink()}
    places = {os.path.realpath(path) for path in named if path not in linked} if linked else set()
    for path in named:
        if path in linked:
            place = os.path.realpath(path)
            if place in places:
                found.files["linked twice"] += 1
                continue
            places.add(place)
        yield path


def _counted(reasons: Counter[str], noun: str) -> str:
    total = sum(reasons.values())
    if not total:
        return ""
    common = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    rest = sum(count for _, count in common[NAMED_REASONS:])
    parts = [f"{count} {reason}" for reason, count in common[:NAMED_REASONS]] + ([f"{rest} others"] if rest else [])
    return f"{total} {noun}{'' if total == 1 else 's'} ({', '.join(parts)})"
