"""``read_frames``: look at the file, try the readers in order, say what is missing."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vidcomp.errors import IncompleteVideo, InputError, UsageError
from vidcomp.video.files import display_name, open_video, refuse_text
from vidcomp.video.header import Header, read_header, refuse_absurd
from vidcomp.video.reader import READERS, ReaderError

if TYPE_CHECKING:
    from vidcomp.video.sampling import Sampling
    from vidcomp.video.types import Frames

__all__ = ["DEADLINE_SECONDS", "read_frames"]

logger = logging.getLogger(__name__)

DEADLINE_SECONDS = 30.0
# The container's length may include sound that goes on after the last picture, and rounds the last frame.
EXACT_SLACK_SECONDS = 0.1  # the length of the video track itself, from an MP4 index
ROUGH_SLACK_SECONDS = 1.0  # the length of the longest track
CONVERT = "check that the file plays; converting it may help: ffmpeg -i IN -c:v libx264 -an OUT.mp4"
Failures = list[tuple[str, ReaderError]]


def read_frames(
    path: str | os.PathLike[str],
    sampling: Sampling,
    *,
    readers: Sequence[str] | None = None,
    deadline_seconds: float | None = None,
    max_side: int | None = None,
    strict: bool = False,
) -> Frames:
    """Read sampled frames of a video file, in a child process.

    Args:
        path: a regular file; any name that the system allows.
        sampling: which frames.
        readers: names from ``READERS``, or ``"module:class"``, tried in this order; all of ``READERS`` by default.
        deadline_seconds: wall time for each reader before it is killed and the next one is tried, 30 by default. One
            second per minute of video is added to it.
        max_side: shrink frames while decoding so that no side is longer; None keeps the full size.
        strict: raise when a part of the video is missing or damaged, instead of returning ``degraded`` frames.

    Returns:
        At least one frame. ``Frames.info.reader`` names the reader that succeeded.

    Raises:
        InputError: the file cannot be read. Its ``code`` is one of ``bad_name``, ``missing``, ``symlink_loop``,
            ``no_permission``, ``directory``, ``not_regular``, ``empty``, ``not_a_video``, ``no_video_stream``,
            ``unsupported_codec``, ``no_index``, ``no_frames``, ``implausible_header``, ``too_large`` or ``unreadable``.
        IncompleteVideo: ``strict``, and something is missing; code ``incomplete``.
        UsageError: a reader that does not exist.
        ValueError: ``deadline_seconds`` or ``max_side`` out of range.
    """
    names = _require_readers(readers)
    limit = _require_positive("deadline_seconds", DEADLINE_SECONDS if deadline_seconds is None else deadline_seconds)
    if max_side is not None:
        _require_positive("max_side", max_side)
    name = display_name(path)
    video = open_video(path)
    try:
        refuse_text(video, name)
        header = read_header(video)
        refuse_absurd(header, os.fstat(video).st_size, name)
        frames = _try_readers(names, video, Path(path), header, sampling, max_side, limit)
    finally:
        os.close(video)
    if frames.degraded and strict:
        raise IncompleteVideo(
            f"{name} is incomplete", why=frames.degraded, hint="without --strict the part that is there is used"
        )
    return frames


def _require_readers(readers: Sequence[str] | None) -> list[str]:
    names = list(READERS if readers is None else readers)
    unknown = [name for name in names if name not in READERS and ":" not in name]
    if unknown or not names:
        raise UsageError(
            f"no such video reader: {unknown[0]}" if unknown else "no video reader was named",
            why="a reader has a built-in name or is written module:class",
            hint=f"use one of: {', '.join(READERS)}",
        )
    return names


def _require_positive(name: str, value: float) -> float:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be a positive number, got {value}")
    return value


def _try_readers(
    names: Sequence[str],
    video: int,
    path: Path,
    header: Header,
    sampling: Sampling,
    max_side: int | None,
    limit: float,
) -> Frames:
    from vidcomp.video.isolation import Job, run_job

    failures: Failures = []
    for reader in names:
        job = Job(reader, video, os.path.abspath(path), header, sampling, max_side)
        try:
            answer, pixels = run_job(job, limit)
        except ReaderError as error:
            logger.info("%s cannot read %s: %s", reader, display_name(path), error)
            failures.append((reader, error))
            continue
        return _build(path, reader, header, answer, pixels)
    raise _explain(display_name(path), header, failures)


def _build(path: Path, reader: str, header: Header, answer: dict[str, Any], pixels: Any) -> Frames:
    import numpy as np

    from vidcomp.video.types import Frames, VideoInfo

    seconds: float = answer["seconds"]
    total: int = answer["frames_total"]
    width, height = answer["size"]
    info = VideoInfo(path, total, seconds, width, height, total / seconds if seconds else 0.0, reader)
    return Frames(
        pixels=pixels,
        indices=np.asarray(answer["indices"], dtype=np.int64),
        times=np.asarray(answer["times"], dtype=np.float64),
        info=info,
        degraded=_missing(header, answer),
    )


def _missing(header: Header, answer: dict[str, Any]) -> str | None:
    """What of the video could not be decoded, in words.

    Only the index of an MP4 tells the length of the picture track. Other containers tell that of their longest track,
    which counts as missing pictures only when the file is cut short or the decoder complained.
    """
    decoded: float = answer["seconds"]
    claimed: float | None = header.seconds if header.seconds is not None else answer["claimed"]
    step = decoded / answer["frames_total"]
    exact = header.seconds is not None
    slack = max(1.5 * step, EXACT_SLACK_SECONDS) if exact else max(1.5 * step, ROUGH_SLACK_SECONDS)
    if claimed is not None and claimed - decoded > slack and (exact or header.cut_short or answer["damage"]):
        return f"decoded {decoded:.1f} s of {claimed:.1f} s"
    if answer["damage"]:
        return f"damaged picture data ({answer['damage']})"
    return "the file is cut short" if header.cut_short else None


def _explain(name: str, header: Header, failures: Failures) -> InputError:
    """One error for a file that no reader could read, with every reader's cause."""
    codes = {error.code for _, error in failures}
    causes = "; ".join(f"{reader}: {' '.join(error.why.split())}" for reader, error in failures)
    what, why, hint, code = f"cannot read {name}", causes, CONVERT, "unreadable"
    if not header.has_index:
        why = "its index is missing: the recording or the copy was cut off" + (" early" if header.cut_short else "")
        hint, code = "copy or download it again, or repair it with a tool that rebuilds the index", "no_index"
    elif {"no_video_stream", "no_frames"} <= codes or (header.has_video and "no_video_stream" in codes):
        why = f"no installed reader decodes its video codec{header.codec and f' ({header.codec})'}"
        hint, code = "convert it: ffmpeg -i IN -c:v libx264 -an OUT.mp4", "unsupported_codec"
    elif header.has_video is False or (header.has_video is None and "no_video_stream" in codes):
        what, why = f"{name} has no pictures", "it holds sound or other data, and no video stream that can be decoded"
        hint, code = "name a video file", "no_video_stream"
    elif "too_large" in codes:
        hint, code = "ask for fewer frames or set a smaller max_side", "too_large"
    elif "no_frames" in codes and not codes & {"hang", "crash"}:
        hint, code = "copy or download it again: the header is there, and no picture can be decoded", "no_frames"
    elif header.kind == "unknown" and codes <= {"failed", "doubt"}:
        what, why = f"{name} is not a video", "its content is of no known video format"
        hint, code = "name a video file", "not_a_video"
    error = InputError(what, why=why, hint=hint, code=code)
    error.__cause__ = failures[-1][1]
    return error
