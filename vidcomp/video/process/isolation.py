# SPDX-License-Identifier: Apache-2.0
"""Running a decoder in a child process that can be killed, and taking its frames while it works.

Nothing outlives a job: the pixels and the library noise go to files without names, and the child is killed whatever
happens here. One nursery process (see ``nursery.py``) serves all jobs of this process; it ends when this process does.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import signal
import socket
import tempfile
import time
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from vidcomp.video.process.client import END_SECONDS, adopt, stop_nursery
from vidcomp.video.process.shared_memory import Arena
from vidcomp.video.process.worker import Request
from vidcomp.video.readers.base import ReaderError

__all__ = ["Event", "Job", "Listed", "Planned", "Refused", "run_job"]

logger = logging.getLogger(__name__)

SECONDS_PER_MINUTE = 1.0  # added to the deadline for every minute of video
LONGEST_SECONDS = 6 * 3600.0  # a file may claim any length; no more than this counts
NOISE_BYTES = 2000


@dataclass(frozen=True)
class Job:
    """One request about one open file."""

    request: Request
    video: int  # open descriptor


@dataclass(frozen=True)
class Planned:
    """The frames that a reader is going to deliver.

    Attributes:
        pixels: uint8 ``[T, h, w, 3]`` in shared memory, filled from the front.
        facts: ``indices``, ``ticks`` and ``base`` as the child sent them.
    """

    pixels: NDArray[np.uint8]
    facts: dict[str, Any]


@dataclass(frozen=True)
class Listed:
    """What a look at the packets found.

    Attributes:
        ticks: int64 ``[N]``, presentation time of every frame.
        keys: int64 ``[K]``, indices of the key frames.
    """

    ticks: NDArray[np.int64]
    keys: NDArray[np.int64]


@dataclass(frozen=True)
class Refused:
    """A reader will not have this file; the next one goes on."""

    why: str


# int: so many frames are ready; dict: the closing facts; str: what a second look found, when the facts announce one
Event = Planned | Listed | Refused | int | dict[str, Any] | str


def run_job(job: Job, deadline_seconds: float) -> Generator[Event, None, None]:
    """Do a job in a child process, yielding what it says as it says it.

    Args:
        deadline_seconds: wall time for each reader, to which one second per minute of claimed video is added once it is
            known.

    Yields:
        A :class:`Refused` for each reader that left the file to the next one, a :class:`Planned`, then numbers of
        frames that are ready, and at last the facts as a dictionary. A second plan starts everything anew. A job
        without readers yields a :class:`Listed`, unless the packets do not tell, and the facts. Where the facts say
        ``checking``, the child looks at the file again, and what it finds follows as a text, empty when all is well.
        Leaving early kills the child.

    Raises:
        ReaderError: the reader failed, hung (``hang``) or crashed (``crash``). Its ``__cause__`` holds the last lines
            that the native libraries printed, when they printed any.
    """
    with closing(Arena()) as arena, _noise_file() as noise:
        try:
            facts: dict[str, Any] = {}
            found: str | None = None
            with _child(job, arena.descriptor, noise.fileno(), deadline_seconds) as (control, receive):
                for message in _listen(control, receive, deadline_seconds):
                    if message["event"] == "done":
                        facts, arena.done = message["facts"], True
                        if _announces(message):
                            yield facts
                    elif message["event"] == "checked":
                        found = str(message["damage"])
                    elif (event := _event(message, arena)) is not None:
                        yield event
            yield facts if found is None else found  # with the child left to the nursery
        except ReaderError as error:
            printed = _printed(noise.fileno())
            logger.debug("%s failed: %s; it printed: %s", job.request.path, error, printed)
            raise error from (RuntimeError(printed) if printed else None)


def _event(message: dict[str, Any], arena: Arena) -> Event | None:
    kind = message["event"]
    if kind == "planned":
        return Planned(arena.map(np.uint8, message["shape"]), message)
    if kind == "listed":
        numbers = arena.map(np.int64, [message["frames"] + message["keys"]])
        return Listed(*np.split(numbers, [message["frames"]]))
    if kind == "refused":
        return Refused(message["why"])
    if kind == "frames":
        return int(message["ready"])
    return None


@contextmanager
def _child(job: Job, arena: int, noise: int, seconds: float) -> Iterator[tuple[socket.socket, int]]:
    """The control socket and the message pipe of a new child.

    A block that is left with its work done leaves the child to the nursery; otherwise the child is gone by then.
    """
    control, far = socket.socketpair()
    receive, give = os.pipe()
    try:
        os.pwrite(arena, job.request.to_json(), 0)
        try:
            adopt([far.fileno(), job.video, arena, give, noise], seconds)
        except TimeoutError as error:
            raise ReaderError(f"the decoding process took no job within {seconds:.0f} s", "hang") from error
        except OSError as error:
            raise ReaderError("the decoding process cannot be started", "crash") from error
        finally:
            far.close()
            os.close(give)
        yield control, receive
    except BaseException:
        with contextlib.suppress(OSError):
            control.shutdown(socket.SHUT_WR)
        if _ended(control) is None:
            stop_nursery(kill=True)
        raise
    finally:
        os.close(receive)
        control.close()


def _ended(control: socket.socket) -> int | None:
    """Exit status of the child once it is gone, negative for a signal; None when nobody can tell."""
    control.settimeout(END_SECONDS)
    text = b""
    with contextlib.suppress(OSError):
        while piece := control.recv(64):
            text += piece
    return int(text) if text else None


def _listen(control: socket.socket, receive: int, deadline_seconds: float) -> Iterator[dict[str, Any]]:
    """Messages of the child until it is done, fails, ends, or the deadline is over."""
    limit, start, buffer = deadline_seconds, time.monotonic(), b""
    poll = select.poll()
    poll.register(receive, select.POLLIN)
    while True:
        left = start + limit - time.monotonic()
        if not poll.poll(max(0.0, left) * 1000):
            raise ReaderError(f"no answer within {limit:.0f} s", "hang")
        piece = os.read(receive, 1 << 16)
        if not piece:
            raise ReaderError(_how_it_ended(control), "crash")
        *lines, buffer = (buffer + piece).split(b"\n")
        for line in lines:
            message: dict[str, Any] = json.loads(line)
            if message["event"] == "failed":
                raise ReaderError(message["why"], message["code"])
            if message["event"] in ("refused", "done"):
                start = time.monotonic()
            if message["event"] == "opened":
                limit += min(message["seconds"] or 0.0, LONGEST_SECONDS) / 60 * SECONDS_PER_MINUTE
            yield message
            if message["event"] == "checked" or (message["event"] == "done" and not _announces(message)):
                return


def _announces(done: dict[str, Any]) -> bool:
    """A second look follows."""
    return bool(done["facts"].get("checking"))


def _how_it_ended(control: socket.socket) -> str:
    status = _ended(control)
    if status is None:
        return "the decoding process is gone"
    return f"crashed ({signal.Signals(-status).name})" if status < 0 else f"ended with status {status} and no answer"


def _noise_file() -> IO[bytes]:
    try:
        return tempfile.TemporaryFile()
    except OSError:  # no folder may be written to
        if not hasattr(os, "memfd_create"):
            raise
        return os.fdopen(os.memfd_create("vidcomp-noise"), "r+b")


def _printed(noise: int) -> str:
    """The last lines that the child's libraries printed."""
    size = os.fstat(noise).st_size
    return os.pread(noise, NOISE_BYTES, max(0, size - NOISE_BYTES)).decode("utf-8", "replace").strip()
