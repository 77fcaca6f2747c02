"""The nursery: a small process that has the decoding libraries loaded and forks a child for every job.

Starting Python, numpy and the decoders takes a quarter of a second, longer than many clips take to decode; a fork takes
milliseconds. The nursery itself never decodes, so it cannot hang, and as the parent of every child it alone may kill
one without ever hitting a process that happens to have the same number.

Each job arrives as one byte on the line to the parent, with five descriptors: a control socket, the video, the memory
file (which first holds the request), the message pipe, and the file for noise. When the control socket's other end
closes, the job is killed; when the child has ended, its exit status is written there. When the line closes, or the
parent process is gone, all jobs are killed and the nursery ends.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import select
import signal
import socket
import sys
from typing import Any

__all__ = ["DESCRIPTORS", "main"]

DESCRIPTORS = 5
# Loaded one after the other while there is nothing to do; a job that comes earlier loads what it needs itself.
LIBRARIES = (
    "vidcomp.video.worker",
    "av",
    "vidcomp.video.pyav_reader",
    "decord",
    "vidcomp.video.decord_reader",
    "cv2",
    "vidcomp.video.opencv_reader",
)
HEAP_BYTES = 4 << 30  # private memory of a child; one 8K picture is 100 MB, a decoder holds about twenty
PARENT_SECONDS = 1.0  # between two looks whether the parent is still there
SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)


def main(line_number: int, parent: int) -> None:
    """Serve jobs until the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends its jobs
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGCHLD, lambda *_: None)  # only so that the wake-up descriptor is written
    wake, woken = os.pipe()
    for end in (wake, woken):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    with socket.socket(fileno=line_number) as line:
        _Nursery(line, wake, parent).run()
    os._exit(0)  # without native destructors, some of which hang


class _Nursery:
    """The running jobs: child process number to its control socket."""

    def __init__(self, line: socket.socket, wake: int, parent: int) -> None:
        self.line, self.wake, self.parent = line, wake, parent
        self.jobs: dict[int, socket.socket] = {}
        self.ending: set[int] = set()
        self.libraries = list(reversed(LIBRARIES))

    def run(self) -> None:
        while os.getppid() == self.parent:
            poll = select.poll()
            for end in (self.line.fileno(), self.wake):
                poll.register(end, select.POLLIN)
            controls = {control.fileno(): pid for pid, control in self.jobs.items() if pid not in self.ending}
            for end in controls:
                poll.register(end, select.POLLIN)
            ready = dict(poll.poll(0 if self.libraries else PARENT_SECONDS * 1000))
            if not ready and self.libraries:
                self._load(self.libraries.pop())
            if self.wake in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(self.wake, 1 << 16)
                self._reap()
            for end in ready.keys() & controls.keys():
                if (pid := controls[end]) in self.jobs:
                    self._stop(pid)
            if self.line.fileno() in ready and not self._accept():
                break
        for pid in self.jobs:
            self._stop(pid)
        while self.jobs:
            self._reap(0)

    def _load(self, library: str) -> None:
        with contextlib.suppress(Exception):  # one that is missing or broken is told by the job that needs it
            importlib.import_module(library)

    def _accept(self) -> bool:
        """Take one job; False when the line is closed."""
        try:
            mark, descriptors, _, _ = socket.recv_fds(self.line, 1, DESCRIPTORS)
        except OSError:
            return False
        if not mark:
            return False
        control = socket.socket(fileno=descriptors[0])
        pid = os.fork()
        if pid == 0:
            self._become_child(control, descriptors[1:])
        for descriptor in descriptors[1:]:
            os.close(descriptor)
        self.jobs[pid] = control
        self.line.send(b"+")
        return True

    def _become_child(self, control: socket.socket, descriptors: list[int]) -> None:
        """Never returns."""
        try:
            signal.set_wakeup_fd(-1)
            self.line.close()
            for other in self.jobs.values():
                other.close()
            _child(control, *descriptors)
        except BaseException as error:
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
        os._exit(1)

    def _reap(self, how: int = os.WNOHANG) -> None:
        """Take the exit status of every child that has ended; of every child with ``how=0``."""
        for pid in list(self.jobs):
            ended, status = os.waitpid(pid, how)
            if ended:
                self.ending.discard(pid)
                self._tell(self.jobs.pop(pid), status)

    def _stop(self, pid: int) -> None:
        """Kill a child; its end is noticed later, so that the next job need not wait for it."""
        self.ending.add(pid)
        os.kill(pid, signal.SIGKILL)  # not reaped yet, so the number is still its own

    def _tell(self, control: socket.socket, status: int) -> None:
        with contextlib.suppress(OSError):
            control.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))
        control.close()


def _child(control: socket.socket, video: int, arena: int, pipe: int, noise: int) -> None:
    """Set the limits of a decoding child and do its job."""
    from vidcomp.video.worker import Answer, Request, serve

    nursery = os.getppid()
    os.dup2(noise, 1)
    os.dup2(noise, 2)
    _limit_memory()
    _die_with(nursery)
    control.close()
    request = Request.parse(os.pread(arena, os.fstat(arena).st_size, 0))
    os.ftruncate(arena, 0)
    numbered = f"/proc/self/fd/{video}"  # naming the descriptor makes every file name safe for native code
    serve(request.at(numbered) if os.path.exists(numbered) else request, Answer(pipe, arena))
    os._exit(0)


def _die_with(nursery: int) -> None:
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != nursery:
            os._exit(1)


def _limit_memory() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":  # elsewhere this limit does not count mapped memory
        hard: Any = resource.getrlimit(resource.RLIMIT_DATA)[1]
        resource.setrlimit(resource.RLIMIT_DATA, (HEAP_BYTES if hard < 0 else min(HEAP_BYTES, hard), hard))
