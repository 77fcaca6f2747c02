# SPDX-License-Identifier: Apache-2.0
"""The worker: a process that has the decoding libraries loaded, and does one job after the other (``decode.py``).

It decodes by native code that may hang with the interpreter lock held, so it cannot watch over itself. Its parent kills
it at the deadline; and when the parent ends, the kernel does: the parent holds the other end of standard input, and a
pipe that closes sends the signal SIGIO, whose default is to end a process (Linux).
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import os
import resource
import select
import signal
import socket
import sys
from dataclasses import replace
from typing import Any

__all__ = ["limit_heap", "main", "trim_heap"]

# Loaded one after the other while there is nothing to do; a job that comes earlier loads what it needs itself, and so
# does the rare one that comes to decord.
LIBRARIES = (
    "vidcomp.video.process.decode",
    "av",
    "vidcomp.video.readers.pyav",
    "cv2",
    "vidcomp.video.readers.opencv",
)
MOST_BYTES = 192 << 20  # of memory that a worker may keep after a job; half of that are its libraries
HEAP_BYTES = 1536 << 20  # private memory; an 8K picture of ten bits is 100 MB, a decoder holds about ten
LIFELINE, LOG = 0, 2


def main(number: int) -> None:
    """Serve jobs until the parent is gone, a job breaks the worker, or it has grown."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends its jobs
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _end_with_parent()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with socket.socket(fileno=number) as line:
        _load_while_idle(line)
        from vidcomp.video.process.messages import Channel

        channel = Channel(line)
        while _serve(channel) and not _has_grown():
            pass
    os._exit(0)  # without native destructors, some of which hang


def limit_heap(limit: int = HEAP_BYTES) -> None:
    """Set how much private memory this process may have from now on."""
    if sys.platform == "linux":  # elsewhere this limit does not count mapped memory
        hard: Any = resource.getrlimit(resource.RLIMIT_DATA)[1]
        resource.setrlimit(resource.RLIMIT_DATA, (limit if hard < 0 else min(limit, hard), hard))


def trim_heap() -> None:
    """Give freed memory back to the system."""
    import ctypes

    if sys.platform == "linux":
        with contextlib.suppress(AttributeError):  # a C library without it
            ctypes.CDLL(None).malloc_trim(0)


def _end_with_parent() -> None:
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    fcntl.fcntl(LIFELINE, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(LIFELINE, fcntl.F_SETFL, fcntl.fcntl(LIFELINE, fcntl.F_GETFL) | os.O_ASYNC)
    if _is_ready(LIFELINE, 0):  # the parent has ended already
        os._exit(0)


def _load_while_idle(line: socket.socket) -> None:
    for library in LIBRARIES:
        if _is_ready(line.fileno(), 0):
            return
        with contextlib.suppress(Exception):  # one that is missing or broken is named by the job that needs it
            importlib.import_module(library)


def _is_ready(descriptor: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def _serve(channel: Any) -> bool:
    """Do one job; False when there should be no other one."""
    from vidcomp.video.process.decode import Memory, serve
    from vidcomp.video.process.messages import Failed, Request, Started

    request, descriptors = channel.receive()
    if not isinstance(request, Request):
        return False
    os.ftruncate(LOG, 0)
    os.lseek(LOG, 0, os.SEEK_SET)
    channel.send(Started())
    limit_heap()
    video, memory = descriptors
    numbered = f"/proc/self/fd/{video}"  # naming the descriptor makes every file name safe for native code
    path = numbered if os.path.exists(numbered) else request.path
    last = serve(replace(request, path=path), Memory(memory), channel.send)
    for descriptor in descriptors:
        os.close(descriptor)
    channel.send(last)
    return not (isinstance(last, Failed) and last.broken)


def _has_grown() -> bool:
    """Check whether this process holds more memory than it may keep, and cannot give it back."""
    if _resident_bytes() > MOST_BYTES:
        trim_heap()
    return _resident_bytes() > MOST_BYTES


def _resident_bytes() -> int:
    """Return the memory of this process that is in use; 0 where the system does not tell."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * resource.getpagesize()
    except OSError:
        return 0
