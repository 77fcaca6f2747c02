# SPDX-License-Identifier: Apache-2.0
"""Workers of this process, and the jobs that they do (``worker.py``).

A worker is warm: starting Python with the decoding libraries takes a quarter of a second, longer than many clips take
to decode. One that crashes, hangs or meets an unexpected error is ended, and the next job gets another one. Importing
this module loads nothing heavy: starting a worker early is what it is for.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import logging
import mmap
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Sequence
from contextlib import ExitStack
from typing import IO, TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from vidcomp.video.process.messages import Message, Request
    from vidcomp.video.readers.base import ReaderError

__all__ = ["Job", "start_worker", "stop_workers"]

Scalar = TypeVar("Scalar", bound="np.uint8 | np.int64")

logger = logging.getLogger(__name__)

START_SECONDS = 30.0  # that a new worker may take beyond the deadline, for loading its libraries
END_SECONDS = 1.0  # a process that was asked to end is gone within this unless something is wrong
SECONDS_PER_MINUTE = 1.0  # added to the deadline for every minute of video
LONGEST_SECONDS = 6 * 3600.0  # a file may claim any length; no more than this counts
LOG_BYTES = 2000  # that an error quotes
MOST_IDLE = 2  # workers that wait for a job: one reads while the other inspects
ENVIRONMENT = {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    # Memory of one frame serves the next: asking the system for it anew costs a fifth of decoding 720p.
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(256 << 20),
}
# -I: the worker imports what this process would import, and nothing from the current directory by accident.
BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]);"
    "from vidcomp.video.process.worker import main; main(int(sys.argv[2]))"
)


class _Worker:
    """A decoding process.

    Attributes:
        socket: of this process, to it.
        log: the file into which its libraries print.
        used: it has taken a job before.
    """

    def __init__(self) -> None:
        self.used = False
        with ExitStack() as opened:
            self.log = opened.enter_context(_anonymous_file("vidcomp-log"))
            self.socket, far = socket.socketpair()
            opened.enter_context(self.socket)
            with far:
                folders = json.dumps([os.path.abspath(entry) for entry in sys.path])
                self.process = subprocess.Popen(
                    [sys.executable, "-I", "-c", BOOT, folders, str(far.fileno())],
                    stdin=subprocess.PIPE,  # its lifeline: nothing is written, and it ends when this end closes
                    stdout=self.log,
                    stderr=self.log,
                    pass_fds=(far.fileno(),),
                    env={**os.environ, **ENVIRONMENT},
                )
            opened.pop_all()

    def end(self) -> None:
        """End the process. May be called twice."""
        self.process.kill()
        self.process.wait()
        self.close()

    def printed(self) -> str:
        """Return the last lines that its libraries printed in this job."""
        size = os.fstat(self.log.fileno()).st_size
        return os.pread(self.log.fileno(), LOG_BYTES, max(0, size - LOG_BYTES)).decode("utf-8", "replace").strip()

    def close(self) -> None:
        """Close this process's ends of what connects it with the worker."""
        for end in (self.process.stdin, self.socket, self.log):
            assert end is not None
            end.close()


class _Pool:
    """The workers of this process, and the jobs whose inspection goes on."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.all: set[_Worker] = set()
        self.idle: list[_Worker] = []
        self.inspecting: weakref.WeakSet[Job] = weakref.WeakSet()

    def take(self) -> _Worker:
        """Return an idle worker, or a new one. Raises OSError when none can be started."""
        for job in list(self.inspecting):
            job.verdict(wait=False)  # its worker may be free by now
        with self.lock:
            if self.idle:
                return self.idle.pop()
            worker = _Worker()
            self.all.add(worker)
            return worker

    def put(self, worker: _Worker) -> None:
        """Keep a worker for the next job, or end it."""
        with self.lock:
            if keep := len(self.idle) < MOST_IDLE:
                self.idle.append(worker)
        if not keep:
            self.end(worker)

    def end(self, worker: _Worker) -> None:
        """End a worker."""
        with self.lock:
            self.all.discard(worker)
            self.idle = [other for other in self.idle if other is not worker]
        worker.end()


_POOL = _Pool()


def start_worker() -> None:
    """Load the decoding libraries in their process now, so that the first video need not wait for it."""
    _POOL.put(_POOL.take())


def stop_workers() -> None:
    """End all decoding processes; the next video starts another one."""
    for worker in list(_POOL.all):
        _POOL.end(worker)


def _begin_anew() -> None:
    """In a forked process: leave the workers to their own parent, which alone keeps them alive."""
    global _POOL
    inherited, _POOL = _POOL.all, _Pool()
    for worker in inherited:
        worker.close()
        worker.process.returncode = 0  # no child of this process: there is nothing to kill or to wait for


atexit.register(stop_workers)
os.register_at_fork(after_in_child=_begin_anew)


def _end(worker: _Worker, memory: IO[bytes]) -> None:
    memory.close()
    _POOL.end(worker)


class Job:
    """One request in the hands of a worker. Leaving it early, or forgetting it, ends the worker.

    Args:
        request: what to do.
        video: open descriptor of the file.
        deadline_seconds: wall time for each reader, to which one second per minute of claimed video is added once it
            is known. It starts anew with every reader and with the inspection.

    Raises:
        ReaderError: no worker can be started (``crash``) or it takes no job (``hang``).
        OSError: this process may open no more files, or has no memory.
    """

    def __init__(self, request: Request, video: int, deadline_seconds: float) -> None:
        self._limit, self._lock, self._verdict = deadline_seconds, threading.Lock(), ""
        while not self._begin(request, video):
            pass

    def _begin(self, request: Request, video: int) -> bool:
        """Hand the request to a worker; False when that one has ended meanwhile."""
        from vidcomp.video.process.messages import Channel
        from vidcomp.video.readers.base import ReaderError

        with ExitStack() as opened:
            self._memory = opened.enter_context(_anonymous_file("vidcomp-frames"))
            self._worker = worker = _POOL.take()
            self._leave = weakref.finalize(self, _end, worker, self._memory)
            self._leave.atexit = False
            opened.callback(self._leave)
            self._channel = Channel(worker.socket)
            worker.socket.settimeout(self._limit + (0.0 if worker.used else START_SECONDS))
            try:
                self._channel.send(request, [video, self._memory.fileno()])
                started = self._channel.receive()[0] is not None
            except TimeoutError as error:
                raise ReaderError(f"the decoding process took no job within {self._limit:.0f} s", "hang") from error
            except ConnectionError:
                started = False
            if not started and not worker.used:
                raise self._failure("crash", "the decoding process cannot be started")
            if started:
                opened.pop_all()
        worker.used, self._start = True, time.monotonic()
        return started

    def receive(self, wait: bool = True) -> Message | None:
        """Return the next message; None after the last one, and when there is none yet and ``wait`` is False.

        Raises:
            ReaderError: the reader failed, hung (``hang``) or crashed (``crash``). Its ``__cause__`` holds the last
                lines that the native libraries printed, when they printed any.
        """
        from vidcomp.video.process.messages import Failed

        if not self._leave.alive:
            return None
        left = max(0.0, self._start + self._limit - time.monotonic())
        late = False
        message: Message | None = None
        try:
            self._worker.socket.settimeout(left if wait else 0.0)
            message, _ = self._channel.receive()
        except (TimeoutError, BlockingIOError):
            if left and not wait:
                return None
            late = True
        except OSError as error:  # in a process that was forked meanwhile
            logger.debug("a worker is gone: %s", error)
        if late:
            raise self._failure("hang", f"no answer within {self._limit:.0f} s")
        if message is None:
            raise self._failure("crash")
        if isinstance(message, Failed):
            raise self._failure(message.code, message.why, broken=message.broken)
        self._follow(message)
        return message

    def verdict(self, wait: bool) -> str | None:
        """Return what the inspection found, in words; empty when nothing, None while it goes on."""
        from vidcomp.video.process.messages import Inspected
        from vidcomp.video.readers.base import ReaderError

        if not self._lock.acquire(blocking=wait):
            return None
        try:
            message = self.receive(wait)
            if isinstance(message, Inspected) and message.damage:
                self._verdict = f"damaged data ({message.damage})"
        except ReaderError as error:
            self._verdict = f"the inspection for damage did not end well ({error.why})"
        finally:
            self._lock.release()
        return None if self._leave.alive else self._verdict

    def array(self, kind: type[Scalar], shape: Sequence[int]) -> NDArray[Scalar]:
        """Map the memory file from its start on. The array lives on when the job has ended; it is writable.

        Raises:
            ReaderError: the file is shorter than that.
        """
        import numpy as np

        from vidcomp.video.readers.base import ReaderError

        total = int(np.prod(shape, dtype=np.int64)) * np.dtype(kind).itemsize
        if os.fstat(self._memory.fileno()).st_size < total:
            raise ReaderError("delivered fewer bytes than it said", "crash")
        return np.frombuffer(mmap.mmap(self._memory.fileno(), total), dtype=kind).reshape(shape)

    def close(self) -> None:
        """Leave the job. May be called twice."""
        self._memory.close()
        self._leave()

    def _follow(self, message: Message) -> None:
        """Adjust the deadline, and release the worker with the last message."""
        from vidcomp.video.process.messages import Delivered, Inspected, Listed, Opened, Refused

        if isinstance(message, Opened):
            self._limit += min(message.seconds, LONGEST_SECONDS) / 60 * SECONDS_PER_MINUTE
        elif isinstance(message, Refused | Delivered):
            self._start = time.monotonic()
        if isinstance(message, Delivered):
            self._memory.close()  # what was mapped stays
        if isinstance(message, Delivered) and message.inspecting:
            _POOL.inspecting.add(self)
        elif isinstance(message, Listed | Inspected | Delivered):
            self._release()

    def _release(self) -> None:
        self._leave.detach()
        _POOL.inspecting.discard(self)
        _POOL.put(self._worker)

    def _failure(self, code: str, why: str = "", broken: bool = True) -> ReaderError:
        """End the worker if it is broken; return an error with what it printed. By default, how it ended."""
        from vidcomp.video.readers.base import ReaderError

        process = self._worker.process
        if self._worker.log.closed:  # by ``stop_workers``, or in the process that this one was forked from
            self.close()
            return ReaderError("the decoding processes were stopped", code)
        if not why:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(END_SECONDS)  # it has closed its socket
        printed = self._worker.printed()
        if broken:
            self.close()
        else:
            self._release()
        error = ReaderError(why or _how_it_ended(process.returncode), code)
        error.__cause__ = RuntimeError(printed) if printed else None
        logger.debug("a job failed: %s; it printed: %s", error, printed)
        return error


def _how_it_ended(status: int) -> str:
    return f"crashed ({signal.Signals(-status).name})" if status < 0 else f"ended with status {status} and no answer"


def _anonymous_file(name: str) -> IO[bytes]:
    """Open a file without a name, in memory where the system knows such files."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create(name), "r+b", buffering=0)
    return tempfile.TemporaryFile(buffering=0)
