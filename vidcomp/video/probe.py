# SPDX-License-Identifier: Apache-2.0
"""Content of a file, from its headers and packets, without decoding a picture and without torch."""

from __future__ import annotations

import os
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidcomp.video.container.header import Header
from vidcomp.video.container.scan import Timeline
from vidcomp.video.names import local_path, recorded_name
from vidcomp.video.process.messages import Listed
from vidcomp.video.read import DEADLINE_SECONDS, list_file
from vidcomp.video.readers.conform import Form, squared, swapped
from vidcomp.video.sampling import Sampling, choose_frames

__all__ = ["Probe", "probe"]


@dataclass(frozen=True, eq=False)
class Probe:
    """Facts about a file.

    Attributes:
        path: as given.
        file_bytes: its size.
        container, codec, pixel_format: such as ``mp4``, ``h264``, ``yuv420p``.
        width, height: of an upright frame with square pixels.
        stored: width and height of the picture as it is stored.
        form: how it is to be shown: the shape of a pixel, colours, fields, transparency.
        rotation: clockwise degrees by which the stored picture is rotated for display.
        sound: there is a sound track.
        times: float64 ``[N]`` seconds of every frame that can be shown, from 0.0; empty when the packets do not tell.
        keys: int64 indices of the key frames.
        seconds: from the start of the first frame to the end of the last; the container's claim when ``times`` is
        empty.
        start_seconds: of the first frame, in the file's own clock.
        hidden: packets that an edit list hides.
        variable_rate: steps between frames differ.
        notes: what a viewer would not expect of the times, a line each.
        doubt: why the packets may promise more than can be decoded, such as ``"the file is cut short"``; else empty.
    """

    path: Path
    file_bytes: int
    container: str
    codec: str
    pixel_format: str
    width: int
    height: int
    stored: tuple[int, int]
    form: Form
    rotation: int
    sound: bool
    times: NDArray[np.float64]
    keys: NDArray[np.int64]
    seconds: float
    start_seconds: Fraction
    hidden: int
    variable_rate: bool
    doubt: str
    notes: tuple[str, ...] = ()

    @property
    def frames_total(self) -> int:
        """N."""
        return len(self.times)

    @property
    def fps(self) -> float:
        """Mean rate, 0.0 when not known."""
        return self.frames_total / self.seconds if self.seconds else 0.0

    @property
    def longest_gap(self) -> float:
        """Seconds between the two key frames, or key frame and end, that are farthest apart."""
        if not len(self.keys):
            return self.seconds
        return float(np.diff([*self.times[self.keys], self.seconds]).max())

    def sampled(self, sampling: Sampling) -> int:
        """Number of frames that a sampling takes; with the rule ``scene``, at most so many."""
        if not self.frames_total:
            return sampling.bound or 0
        return len(choose_frames(self.times, sampling, self.keys, self.seconds))

    def to_dict(self) -> dict[str, Any]:
        """The JSON object."""
        return {
            "path": recorded_name(self.path),
            "file_bytes": self.file_bytes,
            "container": self.container,
            "codec": self.codec,
            "pixel_format": self.pixel_format,
            "width": self.width,
            "height": self.height,
            "rotation": self.rotation,
            "pixel_aspect": "{}:{}".format(*self.form.pixel),
            "transfer": self.form.transfer or None,
            "primaries": self.form.primaries or None,
            "field_first": self.form.fields or None,
            "alpha": self.form.alpha,
            "sound": self.sound,
            "duration_seconds": round(self.seconds, 6),
            "start_seconds": round(float(self.start_seconds), 6),
            "frames_total": self.frames_total,
            "fps": round(self.fps, 4),
            "variable_rate": self.variable_rate,
            "key_frames": len(self.keys),
            "longest_gap_seconds": round(self.longest_gap, 3),
            "hidden_packets": self.hidden,
            "doubt": self.doubt or None,
            "notes": list(self.notes),
        }


def probe(path: str | os.PathLike[str], deadline_seconds: float = DEADLINE_SECONDS) -> Probe:
    """Look at a file in a worker.

    Raises:
        InputError: as :func:`~vidcomp.video.read_frames`.
    """
    path = local_path(path)
    header, listed, numbers = list_file(path, deadline_seconds)
    facts, scan = listed.facts, listed.scan
    timeline = Timeline(numbers[: scan.frames], scan.base) if scan else None
    stored = facts.width, facts.height
    width, height = swapped(squared(stored, facts.form.pixel), header.rotation % 180 != 0) if all(stored) else stored
    return Probe(
        path=path,
        file_bytes=os.stat(path).st_size,
        container=facts.container,
        codec=facts.codec,
        pixel_format=facts.pixel_format,
        width=width,
        height=height,
        stored=stored,
        form=facts.form,
        rotation=header.rotation,
        sound=facts.sound,
        times=timeline.times if timeline else np.empty(0),
        keys=numbers[scan.frames :] if scan else np.empty(0, np.int64),
        seconds=(scan.seconds if scan else 0.0) or facts.seconds or 0.0,
        start_seconds=timeline.start if timeline else Fraction(0),
        hidden=scan.hidden if scan else 0,
        variable_rate=scan is not None and scan.variable_rate,
        doubt=_doubt(header, listed),
        notes=scan.notes if scan else (),
    )


def _doubt(header: Header, listed: Listed) -> str:
    if header.cut_short:
        return "the file is cut short"
    if complaint := (listed.scan.complaint if listed.scan else "") or listed.flaw:
        return complaint
    if not listed.scan or not listed.scan.exact:
        return "its packets do not tell the time of every frame: only decoding counts them"
    return ""
