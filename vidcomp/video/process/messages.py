# SPDX-License-Identifier: Apache-2.0
"""Messages between the client and a worker, and the socket that carries them.

The client sends one :class:`Request` with two descriptors, the video and the memory file. The worker answers:

    Started                          it has taken the request
    Opened                           the length of a long video, for the deadline
    Refused                          a reader refuses the file; the next one goes on
    Planned, Progress ...            frames are on their way; a second plan starts everything anew
    Delivered, Listed or Failed      the last message, unless ``Delivered.inspecting``
    Inspected                        the last message of an inspection

Messages are lines of JSON, built again by their declared types: nothing is unpickled that a decoder may have written.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from dataclasses import dataclass, is_dataclass
from fractions import Fraction
from functools import cache
from types import UnionType
from typing import Any, TypeAlias, Union, get_args, get_origin, get_type_hints

from vidcomp.video.container.header import Header
from vidcomp.video.readers.base import Facts
from vidcomp.video.sampling import Sampling

__all__ = ["Channel", "Delivered", "Failed", "Inspected", "Listed", "Message", "Opened", "Planned", "Progress",
           "Refused", "Request", "ScanFacts", "Started"]  # fmt: skip

DESCRIPTORS = 2  # of a request
PIECE_BYTES = 1 << 16


@dataclass(frozen=True)
class Request:
    """A job about one file.

    Attributes:
        readers: names, tried in this order; none for a look at the packets.
        path: of the file; a worker opens the descriptor that it was sent where the system allows.
        header: what the file's own headers state.
        sampling: which frames.
        max_side: shrink frames so that no side is longer; None keeps the full size.
        max_bytes: shrink frames so that all together need no more.
        thorough: inspect the file whatever it costs.
        follow: report frames while the next ones are decoded.
    """

    readers: tuple[str, ...]
    path: str
    header: Header
    sampling: Sampling
    max_side: int | None
    max_bytes: int
    thorough: bool = False
    follow: bool = False


@dataclass(frozen=True)
class Started:
    """The worker has taken the request."""


@dataclass(frozen=True)
class Opened:
    """A long video was opened; it claims to last ``seconds``."""

    seconds: float


@dataclass(frozen=True)
class Refused:
    """A reader refuses the file, because of ``why``."""

    why: str


@dataclass(frozen=True)
class Planned:
    """The first frame is decoded, and it is known which ones follow.

    Attributes:
        shape: T, h, w and 3 of the pixels in the memory file, uint8, filled from the front.
        indices: T positions among the presentable frames.
        ticks: T presentation times, from the first presentable frame on.
        base: seconds per tick.
        seconds: length of the video.
    """

    shape: tuple[int, ...]
    indices: tuple[int, ...]
    ticks: tuple[int, ...]
    base: Fraction
    seconds: float


@dataclass(frozen=True)
class Progress:
    """The first ``ready`` frames are in the memory file."""

    ready: int


@dataclass(frozen=True)
class Delivered:
    """All frames are in the memory file.

    Attributes:
        facts: what the container says of the picture track.
        frames_total: presentable frames of the file.
        seconds: from the start of the first one to the end of the last.
        start: time of the first one in the file's own clock, in seconds.
        claimed: length that the file claims, None when it does not tell.
        size: width and height of an upright frame at full size.
        damage: first complaint of the packets or the decoder; empty when there was none.
        flaw: what the quick inspection found; empty when nothing.
        notes: what a viewer would not expect, a line each.
        inspecting: the inspection goes on, and :class:`Inspected` follows.
    """

    facts: Facts
    frames_total: int
    seconds: float
    start: Fraction
    claimed: float | None
    size: tuple[int, int]
    damage: str
    flaw: str
    notes: tuple[str, ...]
    inspecting: bool = False


@dataclass(frozen=True)
class Inspected:
    """The inspection has ended. ``damage``: what it found; empty when nothing."""

    damage: str


@dataclass(frozen=True)
class ScanFacts:
    """A packet scan without its arrays: ``frames`` int64 ticks and ``keys`` int64 indices are in the memory file.

    The other attributes are those of :class:`~vidcomp.video.container.scan.Scan` and its timeline.

    Attributes:
        frames, keys: lengths of the two arrays.
        base, seconds, hidden, exact, variable_rate, complaint, notes: as there.
    """

    frames: int
    keys: int
    base: Fraction
    seconds: float
    hidden: int
    exact: bool
    variable_rate: bool
    complaint: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Listed:
    """The packets were listed.

    Attributes:
        facts: what the container says of the picture track.
        scan: what the packets say; None when they do not tell.
        flaw: what the quick inspection found; empty when nothing.
    """

    facts: Facts
    scan: ScanFacts | None
    flaw: str


@dataclass(frozen=True)
class Failed:
    """The job failed.

    Attributes:
        why, code: as in :class:`~vidcomp.video.readers.base.ReaderError`.
        broken: the worker met an error that it does not know, and takes no other job.
    """

    why: str
    code: str
    broken: bool = False


Message: TypeAlias = Request | Started | Opened | Refused | Planned | Progress | Delivered | Inspected | Listed | Failed
KINDS: dict[str, type[Message]] = {kind.__name__: kind for kind in get_args(Message)}


class Channel:
    """One end of the socket.

    Attributes:
        socket: its timeout holds for :meth:`receive`.
    """

    def __init__(self, end: socket.socket) -> None:
        self.socket, self._buffer = end, b""

    def send(self, message: Message, descriptors: Sequence[int] = ()) -> None:
        """Write a message. Raises OSError when nobody reads."""
        line = json.dumps([type(message).__name__, message], default=_plain).encode() + b"\n"
        sent = socket.send_fds(self.socket, [line], descriptors) if descriptors else 0
        self.socket.sendall(line[sent:])

    def receive(self) -> tuple[Message | None, list[int]]:
        """Read a message and the descriptors that came with it; None at the end.

        Raises:
            TimeoutError, BlockingIOError: there is none yet.
        """
        received: list[int] = []
        while b"\n" not in self._buffer:
            piece, descriptors, _, _ = socket.recv_fds(self.socket, PIECE_BYTES, DESCRIPTORS)
            if not piece:
                return None, received
            self._buffer += piece
            received += descriptors
        line, _, self._buffer = self._buffer.partition(b"\n")
        kind, fields = json.loads(line)
        message: Message = _typed(KINDS[kind], fields)
        return message, received


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Fraction) else vars(value)


def _typed(hint: Any, value: Any) -> Any:
    """Build what a type hint declares from parsed JSON."""
    if is_dataclass(hint) and isinstance(hint, type):
        hints = _hints(hint)
        return hint(**{name: _typed(hints[name], item) for name, item in value.items()})
    if hint is Fraction:
        return Fraction(value)
    kind, inner = get_origin(hint), get_args(hint)
    if kind is tuple:
        return tuple(value) if inner[0] in (int, str) else tuple(map(_typed, inner, value))
    if kind in (Union, UnionType) and value is not None:
        return _typed(inner[0], value)
    return value


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)
