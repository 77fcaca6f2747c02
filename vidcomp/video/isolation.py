"""Running a decoder in a child process that can be killed.

Nothing outlives a call: the pixels and the library noise go to files without names, the child is killed and waited for
whatever happens here, and it ends by itself when this process dies.
"""

from __future__ import annotations

import json
import logging
import mmap
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidcomp.video.header import Header
from vidcomp.video.reader import ReaderError
from vidcomp.video.sampling import Sampling

__all__ = ["Job", "run_job"]

logger = logging.getLogger(__name__)

SECONDS_PER_MINUTE = 1.0  # added to the deadline for every minute of video
LONGEST_SECONDS = 6 * 3600.0  # a file may claim any length; no more than this counts
NOISE_BYTES = 2000
# -I: the child imports what this process would import, and nothing from the current directory by accident.
BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from vidcomp.video.worker import main; main(sys.argv[2:])"
)


@dataclass(frozen=True)
class Job:
    """One file for one reader."""

    reader: str
    video: int  # open descriptor
    path: str  # absolute, for systems where the descriptor cannot be named
    header: Header
    sampling: Sampling
    max_side: int | None


def run_job(job: Job, deadline_seconds: float) -> tuple[dict[str, Any], NDArray[np.uint8]]:
    """Decode in a child process.

    Args:
        deadline_seconds: wall time, to which one second per minute of claimed video is added once it is known.

    Returns:
        The facts that the child reports, and the pixels, uint8 ``[T, h, w, 3]``, mapped from shared memory.

    Raises:
        ReaderError: the reader failed, hung (``hang``) or crashed (``crash``). Its ``__cause__`` holds the last lines
            that the native libraries printed, when they printed any.
    """
    with _memory_file() as arena, tempfile.TemporaryFile() as noise, _pipe() as (receive, give):
        try:
            with _child(job, arena, noise.fileno(), give) as child:
                answer = _listen(child, receive, deadline_seconds)
        except ReaderError as error:
            printed = _printed(noise.fileno())
            logger.debug("%s failed: %s; it printed: %s", job.reader, error, printed)
            raise error from (RuntimeError(printed) if printed else None)
        return answer, _map(arena, tuple(answer["shape"]))


@contextmanager
def _memory_file() -> Iterator[int]:
    """Descriptor of shared memory without a name, which no crash can leave behind."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("vidcomp-frames")
        try:
            yield fd
        finally:
            os.close(fd)
    else:
        with tempfile.TemporaryFile() as file:
            yield file.fileno()


@contextmanager
def _pipe() -> Iterator[tuple[int, list[int]]]:
    """Read end, and the write end in a list from which the parent removes it once the child has it."""
    receive, give = os.pipe()
    owned = [give]
    try:
        yield receive, owned
    finally:
        os.close(receive)
        for fd in owned:
            os.close(fd)


@contextmanager
def _child(job: Job, arena: int, noise: int, give: list[int]) -> Iterator[subprocess.Popen[bytes]]:
    folders = [os.path.abspath(entry) for entry in sys.path]
    child = subprocess.Popen(
        [sys.executable, "-I", "-c", BOOT, json.dumps(folders), str(give[0])],
        stdin=subprocess.PIPE,
        stdout=noise,
        stderr=noise,
        pass_fds=(job.video, arena, give[0]),
    )
    try:
        os.close(give.pop())
        _request(child, job, arena)
        yield child
    finally:
        child.kill()
        child.wait()
        if child.stdin is not None:
            child.stdin.close()


def _request(child: subprocess.Popen[bytes], job: Job, arena: int) -> None:
    # Naming the descriptor makes every file name safe for native code: stray bytes, "%03d", "http:".
    numbered = f"/proc/self/fd/{job.video}"
    fields = {
        "reader": job.reader,
        "path": numbered if os.path.exists(numbered) else job.path,
        "header": asdict(job.header),
        "sampling": asdict(job.sampling),
        "max_side": job.max_side,
        "arena": arena,
        "parent": os.getpid(),
    }
    assert child.stdin is not None
    try:
        os.write(child.stdin.fileno(), json.dumps(fields).encode() + b"\n")
    except BrokenPipeError:
        logger.debug("the child ended before it was asked; _listen tells how")


def _listen(child: subprocess.Popen[bytes], receive: int, deadline_seconds: float) -> dict[str, Any]:
    """Wait for the child's answer, its end, or the deadline."""
    limit, start, buffer = deadline_seconds, time.monotonic(), b""
    poll = select.poll()
    poll.register(receive, select.POLLIN)
    while True:
        left = start + limit - time.monotonic()
        if left <= 0 or not poll.poll(left * 1000):
            raise ReaderError(f"no answer within {limit:.0f} s", "hang")
        piece = os.read(receive, 1 << 16)
        if not piece:
            raise ReaderError(_ended(child), "crash")
        *lines, buffer = (buffer + piece).split(b"\n")
        for line in lines:
            message: dict[str, Any] = json.loads(line)
            if message["event"] == "opened":
                limit += min(message["seconds"] or 0.0, LONGEST_SECONDS) / 60 * SECONDS_PER_MINUTE
            elif message["event"] == "failed":
                raise ReaderError(message["why"], message["code"])
            else:
                return message


def _ended(child: subprocess.Popen[bytes]) -> str:
    try:
        status = child.wait(timeout=5)
    except subprocess.TimeoutExpired:
        return "closed its pipe and went on"
    if status < 0:
        return f"crashed ({signal.Signals(-status).name})"
    return f"ended with status {status} and no answer"


def _printed(noise: int) -> str:
    """The last lines that the child's libraries printed."""
    size = os.fstat(noise).st_size
    return os.pread(noise, NOISE_BYTES, max(0, size - NOISE_BYTES)).decode("utf-8", "replace").strip()


def _map(arena: int, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    total = int(np.prod(shape, dtype=np.int64))
    if os.fstat(arena).st_size != total:
        raise ReaderError("delivered another number of bytes than it said", "crash")
    return np.frombuffer(mmap.mmap(arena, total), dtype=np.uint8).reshape(shape)
