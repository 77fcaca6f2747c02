# SPDX-License-Identifier: Apache-2.0
"""This process's line to its nursery (``nursery.py``). Imports nothing heavy: starting early is what it is for."""

from __future__ import annotations

import atexit
import json
import logging
import os
import socket
import subprocess
import sys
import threading

__all__ = ["END_SECONDS", "adopt", "start_nursery", "stop_nursery"]

logger = logging.getLogger(__name__)

END_SECONDS = 1.0  # a process that was asked to end, or killed, is gone within this unless something is wrong
ENVIRONMENT = {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    # Memory of one frame serves the next: asking the system for it anew costs a fifth of decoding 720p.
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(256 << 20),
}
# -I: the nursery imports what this process would import, and nothing from the current directory by accident.
BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]);"
    "from vidcomp.video.process.server import main; main(int(sys.argv[2]), int(sys.argv[3]))"
)


class _Line:
    """The nursery is started when it is first needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._line: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0
        self._used = False  # without a job it may be killed while it still loads its libraries

    def start(self) -> None:
        """Start the process if there is none; returns at once, while it loads its libraries."""
        with self._lock:
            self._require()

    def adopt(self, descriptors: list[int], seconds: float) -> None:
        """Hand a job on; returns once a child has it.

        Raises:
            TimeoutError: the process does not answer within so many seconds; it was killed.
            OSError: there is no process to take it.
        """
        with self._lock:
            for attempt in range(2):
                line = self._require()
                line.settimeout(seconds)
                try:
                    socket.send_fds(line, [b"j"], descriptors)
                    if line.recv(1):
                        self._used = True
                        return
                except TimeoutError:
                    self._drop(kill=True)
                    raise
                except OSError as error:
                    logger.debug("the nursery is gone (%s), attempt %d", error, attempt)
                self._drop()
        raise ConnectionError("the nursery does not live")

    def stop(self, kill: bool = False) -> None:
        """End the process and wait for it."""
        with self._lock:
            self._drop(kill)

    def leave(self) -> None:
        """Close this process's end; the nursery is another's."""
        if self._line is not None:
            self._line.close()

    def _require(self) -> socket.socket:
        if self._line is not None and self._owner == os.getpid() and self._process and self._process.poll() is None:
            return self._line
        if self._owner == os.getpid():
            self._drop()
        self._line, far = socket.socketpair()
        with far:
            folders = [os.path.abspath(entry) for entry in sys.path]
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-c", BOOT, json.dumps(folders), str(far.fileno()), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(far.fileno(),),
                env={**os.environ, **ENVIRONMENT},
            )
        self._owner = os.getpid()
        return self._line

    def _drop(self, kill: bool = False) -> None:
        if self._line is not None:
            self._line.close()
        if self._process is not None and self._owner == os.getpid():
            if kill or not self._used:
                self._process.kill()
            try:
                self._process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._line, self._process, self._used = None, None, False


_LINE = _Line()


def start_nursery() -> None:
    """Load the decoding libraries in their process now, so that the first video need not wait for it."""
    _LINE.start()


def adopt(descriptors: list[int], seconds: float) -> None:
    """Give a job to a decoding child, and return once it has it. Raises as :meth:`_Line.adopt`."""
    _LINE.adopt(descriptors, seconds)


def stop_nursery(kill: bool = False) -> None:
    """End the decoding process, at once if so asked; the next video starts another one."""
    _LINE.stop(kill)


def _begin_anew() -> None:
    """In a process that was forked: another thread may have held the lock, and its nursery has to see the line end."""
    global _LINE
    _LINE.leave()
    _LINE = _Line()


atexit.register(stop_nursery)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)
