"""The decoding child process: one reader, one file, one answer.

Three descriptors are inherited: the video, an anonymous memory file for the pixels, and a pipe for messages (one JSON
object per line). Standard input carries the request and then stays open as a lifeline: when it closes, the parent is
gone and so is this process. Standard output and error are a file that collects the noise of native libraries.

Messages: ``{"event": "opened", "seconds"}``, then ``{"event": "done", ...}`` or ``{"event": "failed", "why", "code"}``.
"""

from __future__ import annotations

import json
import mmap
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidcomp.video.header import Header
from vidcomp.video.reader import ReaderError, VideoReader, create_reader
from vidcomp.video.sampling import Sampling, choose_frames

__all__ = ["main"]

LOG = 2  # descriptor of standard error
SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)
HEAP_BYTES = 4 << 30  # private memory of this process; one 8K picture is 100 MB, a decoder holds about twenty
MAX_OUTPUT_BYTES = 8 << 30
DAMAGE = re.compile(
    rb"error while decoding|concealing|corrupt|partial file|decode_slice|Error splitting|Invalid NAL|missing picture"
    rb"|ended prematurely|Read error|damaged at|Error at MB|Invalid data found|non-existing|truncat",
    re.IGNORECASE,
)
# Weaker signs, enough to ask the other reader. Complaints about "mmco" come with sound open groups of pictures.
SUSPICION = re.compile(
    DAMAGE.pattern + rb"|error|invalid|missing|could not find ref|out of range|overread|illegal", re.I
)
ADDRESS = re.compile(r" @ 0x[0-9a-f]+")  # differs from run to run
BLACK = re.compile(rb"Cannot convert interlaced")  # OpenCV then hands out black pictures and reports success


@dataclass(frozen=True)
class Request:
    """What the parent asks for. ``video`` and ``arena`` are inherited descriptors."""

    reader: str
    path: str
    header: Header
    sampling: Sampling
    max_side: int | None
    arena: int
    parent: int

    @staticmethod
    def parse(line: bytes) -> Request:
        fields: dict[str, Any] = json.loads(line)
        fields["header"] = Header(**fields["header"])
        fields["sampling"] = Sampling(**fields["sampling"])
        return Request(**fields)


def main(arguments: Sequence[str]) -> None:
    """Serve one request and leave without running native destructors, some of which hang."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends this process
    messages = os.fdopen(int(arguments[0]), "w", encoding="ascii")
    request = Request.parse(_read_line())
    _die_with_parent(request.parent)
    _limit_memory()

    def send(message: dict[str, Any]) -> None:
        messages.write(json.dumps(message) + "\n")
        messages.flush()

    try:
        answer = {"event": "done", **_serve(request, send)}
    except ReaderError as error:
        answer = {"event": "failed", "why": error.why, "code": error.code}
    except MemoryError:
        answer = {"event": "failed", "why": "out of memory", "code": "too_large"}
    except Exception as error:  # the border of the process: whatever a native library raised is told to the parent
        answer = {"event": "failed", "why": f"{type(error).__name__}: {error}"[:500], "code": "failed"}
    send(answer)
    os._exit(0)


def _read_line() -> bytes:
    line = bytearray()
    while not line.endswith(b"\n"):
        piece = os.read(0, 1 << 16)
        if not piece:
            os._exit(1)
        line += piece
    return bytes(line)


def _die_with_parent(parent: int) -> None:
    def watch() -> None:
        while os.read(0, 1):
            pass
        os._exit(1)

    threading.Thread(target=watch, name="lifeline", daemon=True).start()
    if sys.platform == "linux":  # works even when another process holds a copy of the lifeline
        import ctypes

        ctypes.CDLL(None).prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)


def _limit_memory() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":  # elsewhere this limit does not count mapped memory
        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        resource.setrlimit(resource.RLIMIT_DATA, (HEAP_BYTES if hard < 0 else min(HEAP_BYTES, hard), hard))


def _serve(request: Request, send: Any) -> dict[str, Any]:
    with create_reader(request.reader) as reader:
        reader.open(request.path, request.header)
        send({"event": "opened", "seconds": reader.claimed_seconds})
        times = reader.frame_times()
        chosen = choose_frames(times, request.sampling)
        shape = _store(reader, chosen, request)
        damage = _damage(reader.name)
        return {
            "shape": shape,
            "indices": chosen.tolist(),
            "times": times[chosen].tolist(),
            "frames_total": len(times),
            "seconds": _length(times, reader.claimed_seconds),
            "claimed": reader.claimed_seconds,
            "size": reader.size,
            "damage": damage,
        }


def _length(times: NDArray[np.float64], claimed: float | None) -> float:
    """Seconds from the first frame to the end of the last, which is taken to last as long as the median frame."""
    if len(times) == 1:
        return claimed or 0.0
    return float(times[-1] + np.median(np.diff(times)))


def _store(reader: VideoReader, chosen: NDArray[np.int64], request: Request) -> list[int]:
    """Write the frames into the memory file, one at a time; returns their shape ``[T, h, w, 3]``."""
    images: Iterator[NDArray[np.uint8]] = reader.read(chosen.tolist(), request.max_side)
    target: NDArray[np.uint8] | None = None
    count = 0
    for count, image in enumerate(images, start=1):
        if target is None:
            target = _reserve(request.arena, (len(chosen), *image.shape))
        if image.shape != target.shape[1:]:
            raise ReaderError(f"the picture size changes from {target.shape[1:3]} to {image.shape[:2]} (h, w)")
        target[count - 1] = image
    if target is None or count != len(chosen):
        raise ReaderError(f"delivered {count} of {len(chosen)} frames")
    return list(target.shape)


def _reserve(arena: int, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    total = int(np.prod(shape, dtype=np.int64))
    if total > MAX_OUTPUT_BYTES:
        raise ReaderError(f"{shape[0]} frames of {shape[2]} x {shape[1]} need {total / 2**30:.0f} GiB", "too_large")
    os.ftruncate(arena, total)
    return np.frombuffer(mmap.mmap(arena, total), dtype=np.uint8).reshape(shape)


def _damage(reader: str) -> str:
    """First complaint of the decoder about damaged data, empty when there is none.

    Raises:
        ReaderError: the complaint means that the delivered pictures are not the file's.
    """
    log = os.pread(LOG, 1 << 20, 0)
    if BLACK.search(log):
        raise ReaderError("gives black pictures for interlaced video", "doubt")
    if reader == "decord" and SUSPICION.search(log):  # it puts copies in place of frames that it cannot decode
        raise ReaderError("its decoder complains, and it fills gaps with copies", "doubt")
    complaint = next((line for line in log.splitlines() if DAMAGE.search(line)), b"")
    return ADDRESS.sub("", complaint.decode("utf-8", "replace"))[:200]
