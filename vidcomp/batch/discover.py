"""Which files a batch works on."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from vidcomp.errors import InputError

__all__ = ["VIDEO_SUFFIXES", "find_videos"]

VIDEO_SUFFIXES = frozenset(
    ".3gp .asf .avi .flv .gif .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .mts .mxf .ogv .ts .vob .webm .wmv .y4m".split()
)


def find_videos(paths: Iterable[Path]) -> list[Path]:
    """Files as given, and the video files below folders, sorted; each once, links to folders not followed.

    A file that is named outright is taken whatever its suffix; inside folders the suffix decides. A folder that cannot
    be listed is found itself: it becomes a failed record, and the others go on.

    Raises:
        InputError: nothing was found.
    """
    found: dict[Path, None] = {}
    for path in paths:
        if os.path.isdir(path):  # False also where the system does not let us look
            found.update(dict.fromkeys(_below(path)))
        else:
            found[path] = None
    if not found:
        suffixes = " ".join(sorted(VIDEO_SUFFIXES))
        raise InputError(
            "no video found", why=f"folders are searched for {suffixes}", hint="name the files", code="nothing_found"
        )
    return list(found)


def _below(folder: Path) -> Iterable[Path]:
    closed: list[Path] = []
    for root, folders, files in os.walk(folder, onerror=lambda error: closed.append(Path(error.filename))):
        folders.sort()
        yield from (Path(root, name) for name in sorted(files) if Path(name).suffix.lower() in VIDEO_SUFFIXES)
    yield from closed
