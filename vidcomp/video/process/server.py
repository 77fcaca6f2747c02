# SPDX-License-Identifier: Apache-2.0
"""The nursery: a small process that has the decoding libraries loaded and gives every job to a child of its own.

Starting Python, numpy and the decoders takes a quarter of a second, longer than many clips take to decode; a fork takes
milliseconds. Even a fork has to touch two thousand pages again before its first frame, so a child whose job ended well
stays and takes the next one; a child that met damage, failed or hung ends with its job, and one that grew is given no
other. A child says that it is free before it closes its files, so that nobody waits for that. The nursery itself never
decodes, so it cannot hang, and as the parent of every child it alone may kill one without ever hitting a process that
happens to have the same number.

Each job arrives as one byte on the line to the parent, with five descriptors: a control socket, the video, the memory
file (which first holds the request), the message pipe, and the file for noise. When the control socket's other end
closes before the job is done, the child is killed; when the child has ended, its exit status is written there. When the
line closes, or the parent process is gone, all children are killed and the nursery ends.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import select
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn

__all__ = ["DESCRIPTORS", "limit_heap", "main", "trim_heap"]

DESCRIPTORS = 5
FREE, FULL = b"f", b"e"  # marks of a child: its job ended well; it keeps much memory
# Loaded one after the other while there is nothing to do; a job that comes earlier loads what it needs itself, and so
# does the rare one that comes to decord.
LIBRARIES = (
    "vidcomp.video.process.worker",
    "av",
    "vidcomp.video.readers.pyav",
    "cv2",
    "vidcomp.video.readers.opencv",
)
REQUEST_BYTES = 1 << 16  # at most: one line, of which the longest part is the name of the file
MOST_JOBS = 100  # then a new child starts afresh
GROWTH_BYTES = 64 << 20  # a child that keeps more than this after a job ends
HEAP_BYTES = 1536 << 20  # private memory of a child; an 8K picture of ten bits is 100 MB, a decoder holds about ten
PARENT_SECONDS = 1.0  # between two looks whether the parent is still there
SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)


def main(line_number: int, parent: int) -> None:
    """Serve jobs until the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends its jobs
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with socket.socket(fileno=line_number) as line:
        _Nursery(line, parent).run()
    os._exit(0)  # without native destructors, some of which hang


@dataclass(eq=False)
class _Child:
    """A decoding process.

    Attributes:
        pid: its number.
        line: jobs go there; it answers with a mark (``FREE``, ``FULL``), and the line ends when it does.
        control: of the job in hand, None when it has none.
        killed: it is about to be gone.
        retired: it gets no other job, and ends after the one that it may have been given.
    """

    pid: int
    line: socket.socket
    control: socket.socket | None = None
    killed: bool = False
    retired: bool = False

    @property
    def free(self) -> bool:
        """It can be given a job."""
        return self.control is None and not self.killed and not self.retired


class _Nursery:
    def __init__(self, line: socket.socket, parent: int) -> None:
        self.line, self.parent = line, parent
        self.children: list[_Child] = []
        self.libraries = list(reversed(LIBRARIES))

    def run(self) -> None:
        while os.getppid() == self.parent:
            ready = self._poll()
            if not ready and self.libraries:
                _load(self.libraries.pop())
            for child in list(self.children):
                if child.line.fileno() in ready:  # before the control socket: a job that is done is not to be killed
                    self._hear(child)
                elif child.control is not None and child.control.fileno() in ready:
                    self._stop(child)
            if self.line.fileno() in ready and not self._accept():
                break
        for child in list(self.children):
            self._stop(child)
            self._bury(child)

    def _poll(self) -> set[int]:
        """Descriptors that have something to say."""
        poll = select.poll()
        poll.register(self.line.fileno(), select.POLLIN)
        for child in self.children:
            poll.register(child.line.fileno(), select.POLLIN)
            if child.control is not None and not child.killed:
                poll.register(child.control.fileno(), select.POLLIN)
        return {number for number, _ in poll.poll(0 if self.libraries else PARENT_SECONDS * 1000)}

    def _accept(self) -> bool:
        """Take one job; False when the line is closed."""
        try:
            mark, descriptors, _, _ = socket.recv_fds(self.line, 1, DESCRIPTORS)
        except OSError:
            return False
        if not mark:
            return False
        child = next((child for child in self.children if child.free), None) or self._fork(descriptors)
        child.control = socket.socket(fileno=descriptors[0])
        with contextlib.suppress(OSError):  # it has just ended: its line says so
            socket.send_fds(child.line, [b"j"], descriptors[1:])
        for descriptor in descriptors[1:]:
            os.close(descriptor)
        self.line.send(b"+")
        return True

    def _fork(self, received: list[int]) -> _Child:
        """A new child, which keeps nothing of what this process holds: not even its first job, which it is sent."""
        line, far = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            for inherited in (
                self.line,
                line,
                *(end for child in self.children for end in (child.line, child.control)),
            ):
                if inherited is not None:
                    inherited.close()
            for descriptor in received:
                os.close(descriptor)
            _live(far)
        far.close()
        child = _Child(pid, line)
        self.children.append(child)
        return child

    def _controls(self) -> list[socket.socket]:
        return [child.control for child in self.children if child.control is not None]

    def _hear(self, child: _Child) -> None:
        """A child is free again, full, or gone."""
        mark = child.line.recv(1)
        if not mark:
            self._bury(child)
            return
        if mark == FREE:
            _tell(child, 0)
        # One that waits is enough.
        if mark == FULL or any(other.free and other is not child for other in self.children):
            child.retired = True
            child.line.shutdown(socket.SHUT_WR)  # it still finds a job that was sent, and it may have a message to send

    def _stop(self, child: _Child) -> None:
        """Kill a child; its line ends soon, so that the next job need not wait for it."""
        child.killed = True
        os.kill(child.pid, signal.SIGKILL)  # not buried yet, so the number is still its own

    def _bury(self, child: _Child) -> None:
        self.children.remove(child)
        _tell(child, os.waitstatus_to_exitcode(os.waitpid(child.pid, 0)[1]))
        child.line.close()


def _tell(child: _Child, status: int) -> None:
    if child.control is not None:
        with contextlib.suppress(OSError):
            child.control.sendall(b"%d\n" % status)
        child.control.close()
        child.control = None


def _load(library: str) -> None:
    with contextlib.suppress(Exception):  # one that is missing or broken is told by the job that needs it
        importlib.import_module(library)


def _live(line: socket.socket) -> NoReturn:
    """The life of a child: jobs, one after the other, while they end well."""
    try:
        nothing = os.open(os.devnull, os.O_WRONLY)
        _dump_nothing()
        _die_with(os.getppid())
        largest = _resident_bytes() + GROWTH_BYTES
        grown = False
        for job in range(1, MOST_JOBS + 1):
            mark, descriptors, _, _ = socket.recv_fds(line, 1, DESCRIPTORS - 1)
            if not mark or not _work(descriptors, partial(_offer, line, not grown and job < MOST_JOBS)):
                break
            for number in (1, 2):
                os.dup2(nothing, number)
            if grown := _has_grown(largest):
                line.send(FULL)
    except BaseException as error:
        os.write(2, f"{type(error).__name__}: {error}\n".encode())
        os._exit(1)
    os._exit(0)


def _offer(line: socket.socket, another: bool) -> bool:
    """Ask for another job, if there may be one."""
    if another:
        line.send(FREE)
    return another


def _has_grown(largest: int) -> bool:
    """This process holds more memory than it may keep, and cannot give it back."""
    if _resident_bytes() > largest:
        trim_heap()
    return _resident_bytes() > largest


def _work(descriptors: list[int], free: Callable[[], bool]) -> bool:
    """Do a job; True when the child may do another one."""
    from vidcomp.video.process.worker import Answer, Request, serve

    video, arena, pipe, noise = descriptors
    os.dup2(noise, 1)
    os.dup2(noise, 2)
    limit_heap()
    request = Request.parse(os.pread(arena, REQUEST_BYTES, 0).partition(b"\n")[0])
    numbered = f"/proc/self/fd/{video}"  # naming the descriptor makes every file name safe for native code
    again = serve(request.at(numbered) if os.path.exists(numbered) else request, Answer(pipe, arena), free)
    for descriptor in descriptors:
        os.close(descriptor)
    return again


def _resident_bytes() -> int:
    """Memory of this process that is in use; 0 where the system does not tell."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def _c_library() -> Any:
    import ctypes

    return ctypes.CDLL(None)


def _die_with(nursery: int) -> None:
    if sys.platform == "linux":
        _c_library().prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != nursery:
            os._exit(1)


def limit_heap(limit: int = HEAP_BYTES) -> None:
    """How much private memory this process may have from now on."""
    import resource

    if sys.platform == "linux":  # elsewhere this limit does not count mapped memory
        hard: Any = resource.getrlimit(resource.RLIMIT_DATA)[1]
        resource.setrlimit(resource.RLIMIT_DATA, (limit if hard < 0 else min(limit, hard), hard))


def trim_heap() -> None:
    """Give freed memory back to the system."""
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError):  # a C library without it
            _c_library().malloc_trim(0)


def _dump_nothing() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
