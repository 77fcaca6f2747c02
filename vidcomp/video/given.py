# SPDX-License-Identifier: Apache-2.0
"""Videos that are no files: frames in memory, the bytes of a file, an open file.

Letters used in shapes: T frames given, h and w height and width.
"""

from __future__ import annotations

import io
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from vidcomp.config import VideoConfig
from vidcomp.core.arguments import checked, expect, shown, typed
from vidcomp.errors import InputError, UsageError
from vidcomp.video.options import readers_of
from vidcomp.video.read import read_frames
from vidcomp.video.sampling import Sampling, choose_frames
from vidcomp.video.types import Frames, Partial, VideoInfo

__all__ = ["FrameSequence", "StrPath", "VideoInput", "read_video"]

StrPath: TypeAlias = str | os.PathLike[str]

_WANTED = "a path, bytes, a file opened in binary mode, or frames [T, h, w, 3]"
_IN_MEMORY = Path("<frames>")


class FrameSequence:
    """Frames in memory, with the times at which they appear.

    Attributes:
        pixels: uint8 [T, h, w, 3], RGB.
        times: float64 [T] seconds, increasing.
        notes: what was assumed about them, a line each.
    """

    pixels: NDArray[np.uint8]
    times: NDArray[np.float64]
    notes: tuple[str, ...] = ()

    @checked
    def __init__(self, pixels: Any, times: Any = None, *, fps: float | None = None) -> None:
        """Take frames.

        Args:
            pixels: an array or tensor [T, h, w, 3], or [T, 3, h, w] where only one of the two can be meant, or a list
                of pictures of one size: arrays, tensors, Pillow images. uint8 as they are; floats must be from 0 to 1
                and are multiplied by 255 and rounded; other numbers are refused.
            times: seconds at which each frame appears, T increasing numbers from 0 on.
            fps: frames per second instead, from 0 on. With neither, one per second is assumed, and a note says so.

        Raises:
            UsageError: something else, or times and pixels do not fit together.
        """
        self.pixels = _as_uint8(_stacked(pixels))
        rate = typed("fps", fps, float | None)
        expect("fps", fps, rate is None or 0 < rate < float("inf"), "a number above 0")
        expect("fps", fps, rate is None or times is None, "left out where times are given")
        if times is None:
            self.times = np.arange(len(self.pixels), dtype=np.float64) / (rate or 1.0)
        else:
            self.times = _as_times(times, len(self.pixels))
        if times is None and rate is None and len(self.pixels) > 1:
            self.notes = ("the frames came without times; one per second is assumed (FrameSequence(pixels, times))",)

    def __len__(self) -> int:
        return len(self.pixels)

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.pixels.shape))
        return f"FrameSequence(pixels={shape} uint8, times={self.times[0]:.3f}..{self.times[-1]:.3f} s)"

    @property
    def seconds(self) -> float:
        """To the end of the last frame, which is shown as long as a frame is shown in the median."""
        return float(self.times[-1] + (np.median(np.diff(self.times)) if len(self) > 1 else 1.0))

    def sampled(self, sampling: Sampling, said: bool = False) -> Frames:
        """Sample them, by the rules for a file.

        Args:
            sampling: which frames; the rules ``keyframes`` and ``scene`` need a file.
            said: whether the caller knows that not all of them are read.

        Raises:
            UsageError: a rule that needs a file. InputError: no frame lies between start and end.
        """
        if sampling.rule in ("keyframes", "scene"):
            raise UsageError(f"sample={sampling.rule!r} with frames in memory", why="that rule looks at a video file",
                             hint="sample='uniform'", code="bad_option")  # fmt: skip
        chosen = choose_frames(self.times, sampling, seconds=self.seconds)
        if not len(chosen):
            raise InputError("no frame lies between start and end", why=f"the frames end at {self.seconds:.3f} s",
                             code="empty_range")  # fmt: skip
        left = f"{len(chosen)} of the {len(self)} frames given are read (frames={len(self)} takes all of them)"
        height, width = self.pixels.shape[1:3]
        info = VideoInfo(
            path=_IN_MEMORY, frames_total=len(self), duration_seconds=self.seconds, width=width, height=height,
            fps=len(self) / self.seconds, reader="memory",
            notes=self.notes if said or len(chosen) == len(self) else (*self.notes, left),
        )  # fmt: skip
        times, exact = self.times[chosen], tuple(Fraction(repr(time)) for time in self.times[chosen].tolist())
        return Frames(self.pixels[chosen], chosen, times, info, exact_times=exact)


VideoInput: TypeAlias = (
    StrPath
    | bytes
    | bytearray
    | memoryview
    | IO[bytes]
    | FrameSequence
    | Frames
    | NDArray[Any]
    | Tensor
    | Sequence[Any]
)
"""What stands for a video: a path, the bytes of a file, a file opened in binary mode, or frames; those that
:func:`~vidcomp.video.read_frames` returned are taken as they are."""


def read_video(
    video: VideoInput, config: VideoConfig, sampling: Sampling, on_ready: Callable[[Partial], None] | None = None
) -> Frames:
    """Sampled frames of whatever stands for a video.

    Bytes and open files are read as files are. An open file is read from its position on to its end.

    Args:
        video: see ``VideoInput``.
        config: deadline and strictness, and whether the caller has said which frames to take.
        sampling: which frames.
        on_ready: as in :func:`~vidcomp.video.read_frames`.

    Raises:
        UsageError: nothing that can stand for a video. InputError: as :func:`~vidcomp.video.read_frames`.
    """
    if isinstance(video, (str, os.PathLike, bytes, bytearray, memoryview)) or hasattr(video, "read"):
        with _file_of(video) as (path, name):
            try:
                frames = read_frames(
                    path, sampling, readers=readers_of(config), deadline_seconds=config.deadline,
                    strict=config.strict, on_ready=on_ready,
                )  # fmt: skip
            except InputError as error:
                raise (error if name is None else _renamed(error, path, name)) from error.__cause__
        return frames if name is None else replace(frames, info=replace(frames.info, path=Path(name)))
    if isinstance(video, Frames):
        frames = video
    else:
        sequence = video if isinstance(video, FrameSequence) else FrameSequence(video)
        said = any(getattr(config, name) is not None for name in ("frames", "fps", "sample", "start", "end"))
        frames = sequence.sampled(sampling, said)
    if on_ready is not None:
        on_ready(Partial(frames.pixels, len(frames), frames.times, frames.info.duration_seconds))
    return frames


@contextmanager
def _file_of(video: Any) -> Iterator[tuple[Path, str | None]]:
    """The path of a file that holds the video, and what to call it where that file is a passing copy."""
    path = _own_path(video)
    if path is not None:
        yield path, None
        return
    data = video if isinstance(video, (bytes, bytearray, memoryview)) else None
    named = getattr(video, "name", None) if data is None else "<bytes>"
    name = named if isinstance(named, str) and named else "<open file>"
    with tempfile.NamedTemporaryFile(prefix="vidcomp-", suffix=Path(name).suffix) as copy:
        try:
            if data is not None:
                copy.write(data)
            else:
                shutil.copyfileobj(video, copy, 1 << 20)
            copy.flush()
        except OSError as error:
            why = error.strerror or str(error)
            raise InputError(f"cannot read {name}", why=why, hint="is there room for a copy?") from error
        except (TypeError, ValueError) as error:  # a file in text mode, or one that is closed
            hint, code = "open(path, 'rb')", "bad_argument"
            raise UsageError(f"cannot read {name}", why=str(error), hint=hint, code=code) from error
        yield Path(copy.name), name


def _own_path(video: Any) -> Path | None:
    """The path of a video that is a file already, None for one that is not."""
    if isinstance(video, (str, os.PathLike)):
        return Path(os.fsdecode(video))
    raw = getattr(video, "raw", video)
    plain = isinstance(video, (io.BufferedReader, io.FileIO)) and isinstance(raw, io.FileIO) and not video.closed
    if not plain or not isinstance(video.name, (str, bytes)) or not video.seekable() or video.tell() != 0:
        return None
    path = Path(os.fsdecode(video.name))
    try:
        return path if os.path.samestat(os.fstat(video.fileno()), os.stat(path)) else None
    except OSError:
        return None


def _renamed(error: InputError, path: Path, name: str) -> InputError:
    """The same error, about what the caller gave instead of about its copy."""
    what, why, hint = (text.replace(str(path), name) for text in (error.what, error.why, error.hint))
    return type(error)(what, why=why, hint=hint, code=error.code)


def _stacked(pixels: Any) -> NDArray[Any]:
    """Frames as one array [T, h, w, 3] of any number format."""
    if isinstance(pixels, (list, tuple)):
        expect("video", pixels, bool(pixels), "at least one picture")
        pictures = [_picture(picture, f"picture {number}") for number, picture in enumerate(pixels)]
        for number, picture in enumerate(pictures):
            like = picture.shape == pictures[0].shape and picture.dtype == pictures[0].dtype
            expect(f"picture {number}", picture, like, f"like picture 0, {shown(pictures[0])}")
        return _channels_last(np.stack(pictures))
    array = _array(pixels)
    expect("video", pixels, array is not None, _WANTED)
    assert array is not None
    return _channels_last(array)


def _picture(picture: Any, name: str) -> NDArray[Any]:
    """One picture as an array; a Pillow image as RGB."""
    if hasattr(picture, "convert") and hasattr(picture, "mode"):
        picture = np.asarray(picture.convert("RGB"))
    array = _array(picture)
    expect(name, picture, array is not None and array.ndim == 3, "an array or tensor [h, w, 3] or a Pillow image")
    assert array is not None
    return array


def _array(value: Any) -> NDArray[Any] | None:
    """An array or tensor, wherever it lies, as an array; None for anything else."""
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        value = (value.float() if value.is_floating_point() else value).numpy()
    return value if isinstance(value, np.ndarray) else None


def _channels_last(array: NDArray[Any]) -> NDArray[Any]:
    """[T, h, w, 3] from that or [T, 3, h, w]."""
    wanted = "frames [T, h, w, 3] or [T, 3, h, w]"
    expect("video", array, array.ndim == 4 and array.size > 0, wanted, hint="one picture is pixels[None]")
    last, first = array.shape[3] == 3, array.shape[1] == 3
    expect("video", array, last or first, wanted, hint="RGB, three channels")
    expect("video", array, last != first, f"{wanted}, and not both", hint="a list of Pillow images has no such doubt")
    return array if last else array.transpose(0, 2, 3, 1)


def _as_uint8(array: NDArray[Any]) -> NDArray[np.uint8]:
    if np.issubdtype(array.dtype, np.floating):
        low, high = float(array.min()), float(array.max())
        expect(
            "video", array, 0 <= low and high <= 1, "uint8, or floats from 0 to 1",
            hint=f"these are from {low:g} to {high:g}; pixels.astype('uint8') where they are from 0 to 255",
        )  # fmt: skip
        return np.rint(array.astype(np.float64) * 255).astype(np.uint8)
    expect("video", array, array.dtype == np.uint8, "uint8, or floats from 0 to 1", hint="pixels.astype('uint8')")
    return np.ascontiguousarray(array)


def _as_times(times: Any, count: int) -> NDArray[np.float64]:
    wanted = f"{count} increasing seconds from 0 on, one per frame"
    array = _array(times)
    if array is None:
        plain = isinstance(times, (list, tuple, range)) and all(_is_number(time) for time in times)
        expect("times", times, plain, wanted)
        array = np.array([float(time) for time in times])
    expect("times", times, array.shape == (count,) and array.dtype.kind in "fiu", wanted)
    seconds = array.astype(np.float64)
    ordered = bool(np.isfinite(seconds).all() and seconds[0] >= 0 and (np.diff(seconds) > 0).all())
    expect("times", times, ordered, wanted)
    return seconds


def _is_number(value: Any) -> bool:
    try:
        typed("a time", value, float)
    except UsageError:
        return False
    return True
