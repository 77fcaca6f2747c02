# SPDX-License-Identifier: Apache-2.0
"""``read_frames``: look at the file, try the readers in order, say what is missing."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from vidcomp.errors import IncompleteVideo, InputError
from vidcomp.video.container.header import Header, read_header, refuse_absurd
from vidcomp.video.files import open_video, refuse_text
from vidcomp.video.names import display_name, local_path
from vidcomp.video.readers.base import READERS, ReaderError, require_readers
from vidcomp.video.sampling import Sampling

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from vidcomp.video.process.client import Job
    from vidcomp.video.process.messages import Delivered, Listed, Request
    from vidcomp.video.types import Frames, Partial, VideoInfo

__all__ = ["DEADLINE_SECONDS", "MAX_BYTES", "list_file", "read_frames"]

logger = logging.getLogger(__name__)

DEADLINE_SECONDS = 30.0
MAX_BYTES = 256 << 20  # of all frames together; larger ones are shrunk while decoding
# The container's length may include sound that goes on after the last picture, and rounds the last frame.
EXACT_SLACK_SECONDS = 0.1  # the length of the video track itself, from an MP4 index
ROUGH_SLACK_SECONDS = 1.0  # the length of the longest track
CONVERT = "check that the file plays; converting it may help: ffmpeg -i IN -c:v libx264 -an OUT.mp4"
FINAL = frozenset({"cover", "empty_range"})  # causes that hold for every reader
BROKEN = frozenset(
    {"failed", "hang", "crash", "too_large"}
)  # of the reader rather than of the file, as far as can be known
OTHERS_MAY = frozenset({"unsupported_codec", "no_frames", "reader_refused", "unreadable"})
Failures = list[tuple[str, ReaderError]]


def read_frames(
    path: str | os.PathLike[str],
    sampling: Sampling,
    *,
    readers: Sequence[str] | None = None,
    deadline_seconds: float | None = None,
    max_side: int | None = None,
    max_bytes: int = MAX_BYTES,
    strict: bool = False,
    on_ready: Callable[[Partial], None] | None = None,
) -> Frames:
    """Read sampled frames of a video file, in a child process.

    Args:
        path: a regular file; any name that the system allows, or its ``file://`` address.
        sampling: which frames.
        readers: names from ``READERS``, or ``"module:class"``, tried in this order; all of ``READERS`` by default. A
            reader that cannot be trusted with a file refuses it, also when no other is named.
        deadline_seconds: wall time for each reader before it is killed and the next one is tried, 30 by default. One
            second per minute of video is added to it.
        max_side: shrink frames while decoding so that no side is longer; None keeps the full size.
        max_bytes: shrink frames so that all together need no more, but none below 448 pixels.
        strict: raise when a part of the video is missing or damaged, instead of returning ``degraded`` frames; looks
            for damage that decoders do not notice, whatever that costs.
        on_ready: called whenever frames have become ready, while the child decodes the next ones. Another ``pixels``
            than before means that another reader took over: what came before is void.

    Returns:
        At least one frame. ``Frames.info.reader`` names the reader that succeeded. Its inspection for
        damage may still go on (``Frames.wait``).

    Raises:
        InputError: the file cannot be read. Its ``code`` is one of ``bad_name``, ``missing``, ``symlink_loop``,
            ``no_permission``, ``directory``, ``not_regular``, ``empty``, ``address``, ``not_a_video``,
            ``no_video_stream``, ``unsupported_codec``, ``no_index``, ``no_frames``, ``implausible_header``,
            ``too_large``, ``empty_range``, ``reader_refused`` (the only reader that was named cannot be trusted with
            it) or ``unreadable``.
        IncompleteVideo: ``strict``, and something is missing; code ``incomplete``.
        UsageError: a reader that does not exist, or none that is installed was named.
        ValueError: ``deadline_seconds``, ``max_side`` or ``max_bytes`` out of range.
    """
    from vidcomp.video.process.messages import Request

    names = list(READERS) if readers is None else require_readers(readers)
    limit = _require_positive("deadline_seconds", DEADLINE_SECONDS if deadline_seconds is None else deadline_seconds)
    for label, value in (("max_side", max_side), ("max_bytes", max_bytes)):
        if value is not None:
            _require_positive(label, value)
    with _opened(path) as file:
        request = Request(
            tuple(names), file.absolute, file.header, sampling, max_side, max_bytes, strict, on_ready is not None
        )
        frames = _noted(_try_readers(file, request, limit, on_ready), sampling)
    if strict and (damage := frames.wait().degraded):
        raise IncompleteVideo(
            f"{file.name} is incomplete", why=damage, hint="without --strict the part that is there is used"
        )
    return frames


def _noted(frames: Frames, sampling: Sampling) -> Frames:
    """Say that a rate was not kept, because it would have taken more frames than are allowed."""
    info, most = frames.info, sampling.max_frames
    if sampling.fps is None or most is None or len(frames) < most:
        return frames
    seconds = min(sampling.end or math.inf, info.duration_seconds) - sampling.start
    wanted = min(int(seconds * sampling.fps), info.frames_total)
    if wanted <= most:
        return frames
    note = (
        f"{sampling.fps:g} frames a second would be {wanted} frames: {len(frames)} are read, evenly, "
        f"{len(frames) / seconds:.2g} a second (--max-frames {most})"
    )
    return replace(frames, info=replace(info, notes=(*info.notes, note)))


def list_file(
    path: str | os.PathLike[str], deadline_seconds: float = DEADLINE_SECONDS
) -> tuple[Header, Listed, NDArray[np.int64]]:
    """Read a file's headers and packets without decoding a picture.

    Returns:
        The header; what was listed; int64 ``[N + K]``, the ticks of all frames and the indices of the key frames,
        empty when the packets do not tell.

    Raises:
        InputError: as :func:`read_frames`.
    """
    import numpy as np

    from vidcomp.video.process.client import Job
    from vidcomp.video.process.messages import Listed, Request

    with _opened(path) as file:
        request = Request((), file.absolute, file.header, Sampling(), None, MAX_BYTES)
        try:
            with closing(Job(request, file.descriptor, deadline_seconds)) as job:
                listed = job.receive()
                assert isinstance(listed, Listed)
                scan = listed.scan
                numbers = job.array(np.int64, [scan.frames + scan.keys]) if scan else np.empty(0, np.int64)
        except ReaderError as error:
            raise _explain(file.name, file.header, [("pyav", error)]) from error
        return file.about(listed.facts.track), listed, numbers


@dataclass(frozen=True)
class _File:
    """An open file that has passed every check that needs no decoder."""

    path: Path
    name: str
    descriptor: int
    header: Header

    @property
    def absolute(self) -> str:
        return os.path.abspath(self.path)

    def about(self, track: int) -> Header:
        """The header, for the picture track that was read."""
        known = not track or self.header.track in (0, track)
        return self.header if known else read_header(self.descriptor, track)


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[_File]:
    path = local_path(path)
    name = display_name(path)
    descriptor = open_video(path)
    try:
        refuse_text(descriptor, name)
        header = read_header(descriptor)
        refuse_absurd(header, os.fstat(descriptor).st_size, name)
        yield _File(path, name, descriptor, header)
    finally:
        os.close(descriptor)


def _require_positive(name: str, value: float) -> float:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be a positive number, got {value}")
    return value


def _try_readers(
    file: _File, request: Request, deadline_seconds: float, on_ready: Callable[[Partial], None] | None
) -> Frames:
    from vidcomp.video.process.client import Job

    names, failures = request.readers, Failures()
    while len(failures) < len(names):
        left = replace(request, readers=names[len(failures) :])
        try:
            with ExitStack() as leaving:
                job = Job(left, file.descriptor, deadline_seconds)
                leaving.callback(job.close)
                frames = _collect(file, names, job, failures, on_ready)
                leaving.pop_all()  # the inspection may go on
                return frames
        except ReaderError as error:
            _note(failures, names, file, error)
            if error.code in FINAL:
                break
        except OSError as error:  # of this process: it may open no more files, or has no memory
            raise InputError(
                f"cannot read {file.name}", why=error.strerror or str(error), hint="look at the limits: ulimit -a"
            ) from error
    raise _explain(file.name, file.header, failures, alone=len(names) == 1)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _note(failures: Failures, names: Sequence[str], file: _File, error: ReaderError) -> None:
    reader = names[len(failures)]
    logger.info("%s cannot read %s: %s", reader, file.name, error)
    failures.append((reader, error))


def _collect(
    file: _File,
    names: Sequence[str],
    job: Job,
    failures: Failures,
    on_ready: Callable[[Partial], None] | None,
) -> Frames:
    """Follow one job to its end, handing on its frames as they come."""
    import numpy as np

    from vidcomp.video.process.messages import Delivered, Planned, Progress, Refused
    from vidcomp.video.types import Frames, Partial

    plan: Planned | None = None
    while (message := job.receive()) is not None:
        if isinstance(message, Refused):
            _note(failures, names, file, ReaderError(message.why, "refused"))
        elif isinstance(message, Planned):
            plan, pixels = message, job.array(np.uint8, message.shape)
            exact = tuple(ticks * plan.base for ticks in plan.ticks)  # while the worker decodes
            times = np.fromiter(map(float, exact), np.float64)
        elif isinstance(message, Progress) and plan and on_ready is not None:
            on_ready(Partial(pixels, message.ready, times, plan.seconds))
        elif isinstance(message, Delivered) and plan:
            info, missing = _facts(file, names, failures, message)
            inspection = job if message.inspecting and not missing else None
            return Frames(pixels, np.asarray(plan.indices, np.int64), times, info, missing, exact, inspection)
    raise ReaderError("ended without an answer", "crash")


def _facts(file: _File, names: Sequence[str], failures: Failures, delivered: Delivered) -> tuple[VideoInfo, str | None]:
    """Return facts about the file, and what is missing or damaged."""
    from vidcomp.video.types import VideoInfo

    # What an earlier reader said about damage holds for the file.
    earlier = next((error.why for _, error in failures if error.code in ("damaged", "no_frames")), "")
    reader, seconds, total = names[len(failures)], delivered.seconds, delivered.frames_total
    info = VideoInfo(
        file.path, total, seconds, *delivered.size, total / seconds if seconds else 0.0, reader,
        delivered.start, delivered.facts.container, delivered.facts.codec,
        notes=(*_broken(failures, reader), *delivered.notes),
    )  # fmt: skip
    return info, _missing(file.about(delivered.facts.track), delivered, delivered.damage or earlier)


def _broken(failures: Failures, reader: str) -> tuple[str, ...]:
    """Notes about the reader that should have read the file, when it broke and another one took over."""
    first = next(iter(failures), None)
    if first is None or first[1].code not in BROKEN:
        return ()
    return (f"{first[0]} failed ({_one_line(first[1].why)}) and {reader} took over: vidcomp doctor tests the readers",)


def _missing(header: Header, delivered: Delivered, damage: str) -> str | None:
    """The part of the video that could not be decoded, in words.

    Only the index of an MP4 tells the length of the picture track. Other containers tell that of their longest track,
    which counts as missing pictures only when the file is cut short or the decoder complained.
    """
    decoded, exact = delivered.seconds, header.seconds is not None
    claimed = header.seconds if exact else delivered.claimed
    slack = max(1.5 * decoded / delivered.frames_total, EXACT_SLACK_SECONDS if exact else ROUGH_SLACK_SECONDS)
    if claimed is not None and claimed - decoded > slack and (exact or header.cut_short or damage):
        return f"decoded {decoded:.1f} s of {claimed:.1f} s"
    if damage:
        return f"damaged picture data ({damage})"
    if delivered.flaw:
        return f"damaged data ({delivered.flaw})"
    if header.uneven:
        return f"{header.uneven}: times are uncertain"
    return "the file is cut short" if header.cut_short else None


def _explain(name: str, header: Header, failures: Failures, alone: bool = False) -> InputError:
    """One error for a file that no reader could read, with every reader's cause.

    Args:
        alone: no other reader was to be tried.
    """
    codes = {error.code for _, error in failures}
    causes = "; ".join(f"{reader}: {_one_line(error.why)}" for reader, error in failures)
    what, why, hint, code = f"cannot read {name}", causes, CONVERT, "unreadable"
    if not header.has_index:
        why = "its index is missing: the recording or the copy was cut off" + (" early" if header.cut_short else "")
        hint, code = "copy or download it again, or repair it with a tool that rebuilds the index", "no_index"
    elif header.kind == "webp" and not header.cut_short:
        why, code = "animated WebP is not supported", "unsupported_codec"
        hint = "convert it with a program that reads it, to GIF, APNG or MP4"
    elif {"no_video_stream", "no_frames"} <= codes or (header.has_video and "no_video_stream" in codes):
        why = f"no installed reader decodes its video codec{header.codec and f' ({header.codec})'}"
        hint, code = "convert it: ffmpeg -i IN -c:v libx264 -an OUT.mp4", "unsupported_codec"
    elif "cover" in codes or header.has_video is False or (header.has_video is None and "no_video_stream" in codes):
        what, why = f"{name} has no pictures", "it holds sound or other data, and no video stream that can be decoded"
        hint, code = "name a video file", "no_video_stream"
    elif "empty_range" in codes:
        why = next(error.why for _, error in failures if error.code == "empty_range")
        hint, code = "look at its length: vidcomp probe FILE", "empty_range"
    elif "too_large" in codes:
        hint, code = "ask for fewer frames or set a smaller max_side", "too_large"
    elif "no_frames" in codes and not codes & {"hang", "crash"}:
        hint, code = "copy or download it again: the header is there, and no picture can be decoded", "no_frames"
    elif header.kind == "unknown" and codes <= {"failed", "doubt", "damaged", "refused"}:
        what, why = f"{name} is not a video", "its content is of no known video format"
        hint, code = "name a video file", "not_a_video"
    elif alone and codes <= {"refused", "doubt"}:
        reader, error = failures[0]
        what, why, code = f"{reader} cannot be trusted with {name}", _one_line(error.why), "reader_refused"
    if alone and code in OTHERS_MAY:
        hint = "--reader auto lets the other readers try"
    explained = InputError(what, why=why, hint=hint, code=code)
    explained.__cause__ = failures[-1][1]
    return explained
