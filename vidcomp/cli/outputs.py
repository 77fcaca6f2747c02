# SPDX-License-Identifier: Apache-2.0
"""Place and format of the captions of ``vidcomp caption``: a results file, one file, or one per video."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from vidcomp.batch.window_log import removed
from vidcomp.errors import InputError, UsageError
from vidcomp.video.names import display_name, local_path

__all__ = ["Form", "Output"]

REFUSED = frozenset(".ass .md .parquet .tsv .xlsx .xml".split())
PART = ".part"  # behind the name: unfinished work


class Form(StrEnum):
    """Format of captions."""

    srt = "srt"
    vtt = "vtt"
    csv = "csv"
    json = "json"
    html = "html"
    txt = "txt"


SUFFIXES = {".srt": Form.srt, ".vtt": Form.vtt, ".csv": Form.csv, ".html": Form.html, ".htm": Form.html,
            ".txt": Form.txt, ".json": Form.json, ".jsonl": Form.json}  # fmt: skip
JOINED = frozenset({Form.csv, Form.json, Form.txt})  # those that hold several videos in one file


@dataclass
class Output:
    """A format and a place, settled before anything is read.

    Attributes:
        form: the format; None for a line per video on stdout.
        place: file or folder; None for stdout.
        journal: the results file, which a second run goes on with; None keeps nothing.
        files: each video to a file of its own, where the place is a folder.
        shared: the journal is a folder, of which this process writes one part.
    """

    form: Form | None
    place: Path | None
    journal: Path | None
    files: dict[Path, Path] = field(default_factory=dict)
    shared: bool = False
    _records: dict[Path, Mapping[str, Any]] = field(default_factory=dict)
    _ended: Counter[bool] = field(default_factory=Counter)

    @classmethod
    def settled(
        cls, form: Form | None, named_place: str | None, videos: Sequence[Path], named: Sequence[Path], force: bool
    ) -> Output:
        """Decide.

        Args:
            form: ``--format``.
            named_place: ``-o``; a folder is one that is there, or a name with a slash at its end.
            videos: all files of the batch.
            named: files and folders as they were given.
            force: whether a file that is there is written anew.

        Raises:
            UsageError: format and place do not fit together, or the file is there.
        """
        if named_place is None:
            return cls(_on_stdout(form, len(videos)), None, None)
        place = local_path(named_place)
        folder = named_place.endswith(os.sep) or place.is_dir()
        apart = form is not None and form not in JOINED and not place.suffix and not place.exists()
        if folder and form in (None, Form.json):
            return cls(Form.json, place, place, shared=True)
        if folder or apart:
            assert form is not None
            return cls(form, place, place / "captions.jsonl", _names(videos, named, place, f".{form}"))
        form = _by_suffix(form, place)
        if form is Form.json:
            return cls(form, place, place)
        _check_file(form, place, len(videos), force)
        return cls(form, place, _part(place) / "captions.jsonl")

    @property
    def logs(self) -> Path | None:
        """Folder for finished windows of unfinished videos."""
        return None if self.journal is None else _part(self.journal)

    def take(self, video: Path, record: Mapping[str, Any]) -> None:
        """Write the file of a video that is done, where each has its own; else keep what :meth:`finish` needs."""
        whole = record["status"] != "failed"
        self._ended[whole] += 1
        if self.files:
            if whole:
                _write(self.files[video], _rendered(self.form, {video: record}))
        elif self.form not in (None, Form.json) and (whole or self.form in JOINED):
            self._records[video] = record

    def finish(self) -> str:
        """Write the file of all videos, and take away what only a second run would need; or return it, for stdout."""
        text = _rendered(self.form, self._records) if self._records else ""
        if self.place is None:
            return text.rstrip("\n")
        if text:
            _write(self.place, text)
        if self.journal != self.place and not self.files and not (self._ended[True] and self._ended[False]):
            assert self.journal is not None
            removed(self.journal)
        return ""

    def text(self, record: Mapping[str, Any]) -> str:
        """The captions of one video for people."""
        from vidcomp.report.subtitles import cues_of, to_text

        return to_text(cues_of(record)).rstrip("\n")


def _part(path: Path) -> Path:
    return path.with_name(path.name + PART)


def _on_stdout(form: Form | None, videos: int) -> Form | None:
    if form is not None and form not in JOINED and videos > 1:
        raise UsageError(f"--format {form} for {videos} videos", why="each of them is a file of its own",
                         hint=f"-o folder/ --format {form}", code="bad_option")  # fmt: skip
    return form


def _by_suffix(form: Form | None, place: Path) -> Form:
    suffix = place.suffix.lower()
    known = SUFFIXES.get(suffix)
    if suffix in REFUSED:
        raise UsageError(
            f"-o {display_name(place)}", why="that is none of the formats that vidcomp writes",
            hint=f"-o {display_name(place.with_suffix('.jsonl'))}, and make the other format of it", code="bad_option",
        )  # fmt: skip
    if form is not None and known is not None and known is not form:
        raise UsageError(f"-o {display_name(place)} together with --format {form}", why="its name says another format",
                         hint="leave --format out, or name the file after it", code="bad_option")  # fmt: skip
    return form or known or Form.json


def _check_file(form: Form, place: Path, videos: int, force: bool) -> None:
    if form not in JOINED and videos > 1:
        raise UsageError(f"-o {display_name(place)} for {videos} videos", why="each of them is a file of its own",
                         hint=f"-o folder/ --format {form}", code="bad_option")  # fmt: skip
    if place.exists() and not force and not _part(place).exists():
        raise UsageError(f"{display_name(place)} is there already", why="it may be somebody's work",
                         hint="--force writes it anew, or -o another name", code="exists")  # fmt: skip


def _names(videos: Sequence[Path], named: Sequence[Path], folder: Path, suffix: str) -> dict[Path, Path]:
    """A file for each video, at its place below the folder that was named; no two are the same."""
    roots = sorted((path for path in named if path.is_dir()), key=lambda path: -len(path.parts))
    found: dict[Path, Path] = {}
    taken: set[Path] = {folder / "captions.jsonl"}
    for video in videos:
        root = next((path for path in roots if video.is_relative_to(path)), video.parent)
        place = folder / video.relative_to(root)
        names = (place.with_suffix(suffix), place.with_name(place.name + suffix))
        file = next((name for name in names if name not in taken), names[1])
        number = 2
        while file in taken:
            file, number = names[1].with_name(f"{place.name} {number}{suffix}"), number + 1
        taken.add(file)
        found[video] = file
    return found


def _rendered(form: Form | None, records: Mapping[Path, Mapping[str, Any]]) -> str:
    from vidcomp.report.page.strip import strip_page
    from vidcomp.report.subtitles import cues_of, to_csv, to_srt, to_text, to_vtt

    if form is Form.csv:
        return to_csv((display_name(video), cue) for video, record in records.items() for cue in cues_of(record))
    if form is Form.txt or form is None:
        several = len(records) > 1
        blocks = ((f"{display_name(video)}\n" if several else "") + to_text(cues_of(record))
                  for video, record in records.items())  # fmt: skip
        return "\n".join(blocks)
    ((video, record),) = records.items()
    if form is Form.html:
        return strip_page(record, display_name(video.name))
    return (to_srt if form is Form.srt else to_vtt)(cues_of(record))


def _write(file: Path, text: str) -> None:
    """Write a whole file or none, and the folders above it."""
    from vidcomp.report.page import write_bytes

    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write {display_name(file)}", why=error.strerror or str(error), hint="-o elsewhere",
                         code="unwritable") from error  # fmt: skip
    write_bytes(file, text.encode("utf-8", "replace"))
