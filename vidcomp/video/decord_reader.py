"""decord, the first reader: fast, and wrong in known ways that are avoided or detected here.

What it does wrong (decord 0.6.0, measured on clips with the frame number burned in, see docs/reading.md), and what is
done about it:

- Edit lists: it counts hidden packets, returns copies at the end and hangs at the last index. Its own times betray it
  by starting below zero or by reaching beyond the edit. Such files are left to the next reader.
- Seeking on open groups of pictures lands 3 to 21 frames off: it maps key frames by decoding order. It is never asked
  to seek. ``skip_frames`` seeks as well when it crosses a key frame, so key frames are stepped over one by one.
- Transport streams lose their first group of pictures; AVI and program streams have no usable times. Only MP4 and
  Matroska are read with it.
- Packets that cannot be decoded come back as copies of the frame before. A copy makes the count suspicious, and the
  count is then confirmed by the other reader.
- Ctrl-C does nothing while it hangs. It runs only in the decoding child, which has a deadline.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from vidcomp.video.header import Header
from vidcomp.video.reader import ReaderError, VideoReader, shrink

__all__ = ["DecordReader"]

TRUSTED = frozenset({"iso", "matroska"})
OPENED = TRUSTED | {"unknown", "ogg"}  # the others may be sound alone, which only an attempt tells
UNRELIABLE = "its frame positions are not reliable in this kind of file"


class DecordReader(VideoReader):
    """Reads MP4 and Matroska files whose frame count and times decord gets right; refuses the others."""

    name: ClassVar[str] = "decord"

    def __init__(self) -> None:
        self._source: Any = None
        self._path = ""
        self._header = Header()
        self._keys: list[int] = []
        self._position = 0  # index of the frame that next() returns
        self._size = (0, 0)
        self._times = np.empty(0)

    def open(self, path: str, header: Header) -> None:
        if header.kind not in OPENED:
            raise ReaderError(UNRELIABLE, "doubt")
        if header.edits > 1:
            raise ReaderError(f"the file has {header.edits} edits, which it does not follow", "doubt")
        import decord

        self._path, self._header = path, header
        try:
            self._source = decord.VideoReader(path, num_threads=self.threads)
        except (decord.DECORDError, RuntimeError, AssertionError) as error:
            raise _open_error(str(error)) from error
        if header.kind not in TRUSTED:
            raise ReaderError(UNRELIABLE, "doubt")
        self._keys = self._source.get_key_indices()

    @property
    def claimed_seconds(self) -> float | None:
        return self._header.seconds

    def frame_times(self) -> NDArray[np.float64]:
        stamps = self._source.get_frame_timestamp(range(len(self._source)))  # [N, 2] start and end
        times = np.asarray(stamps[:, 0], dtype=np.float64)
        _require_plausible(times, self._header)
        self._times = times - times[0]
        return self._times

    def read(self, indices: Sequence[int], max_side: int | None) -> Iterator[NDArray[np.uint8]]:
        before: NDArray[np.uint8] | None = None
        last = len(self._source) - 1
        confirmed = False
        for index in indices:
            if index == last and index > self._position:
                before = self._take(index - 1)  # copies at the end show as two equal frames in a row
            image = self._take(index)
            if not confirmed and before is not None and np.array_equal(before, image):
                self._confirm_count()
                confirmed = True
            before = image
            yield shrink(image, max_side)

    @property
    def size(self) -> tuple[int, int]:
        return self._size

    def close(self) -> None:
        self._source = None

    def _take(self, index: int) -> NDArray[np.uint8]:
        """Decode forward to ``index`` without any seek and return that frame, ``[h, w, 3]``."""
        while self._position < index:
            following = bisect.bisect_right(self._keys, self._position)
            border = self._keys[following] - 1 if following < len(self._keys) else index
            count = min(index, border) - self._position
            if count > 0:
                self._source.skip_frames(count)
            else:
                self._source.next()
            self._position += max(count, 1)
        image: NDArray[np.uint8] = self._source.next().asnumpy()
        self._position += 1
        if image.ndim != 3:
            raise ReaderError(f"no picture at frame {index}")
        self._size = (image.shape[1], image.shape[0])
        return image

    def _confirm_count(self) -> None:
        """Equal frames may be a still scene, or copies in place of frames that do not exist: count them."""
        from vidcomp.video.opencv_reader import OpenCvReader

        with OpenCvReader() as other:
            other.open(self._path, self._header)
            found = len(other.frame_times())
        if found != len(self._source):
            raise ReaderError(f"it counts {len(self._source)} frames where {found} can be shown", "doubt")


def _open_error(text: str) -> ReaderError:
    if "cannot find video stream" in text:
        return ReaderError("no video stream that it can decode", "no_video_stream")
    lines = text.strip().splitlines()
    return ReaderError(lines[0].split(": ", 1)[-1][:200] if lines else "cannot open the file")


def _require_plausible(times: NDArray[np.float64], header: Header) -> None:
    """Refuse times that show that decord counts packets which are never shown, or lost their times."""
    why = ""
    if not len(times):
        raise ReaderError("no frames", "no_frames")
    if not np.isfinite(times).all() or times[0] < -1e-6:
        why = "frame times start before zero, as they do when an edit list hides frames"
    elif (np.diff(times) <= 0).any():
        why = "several frames have the same time"
    elif header.samples and header.samples != len(times):
        why = f"it counts {len(times)} frames where the index lists {header.samples}"
    elif header.edits and header.seconds is not None and times[-1] > header.seconds - 1e-3 and len(times) > 1:
        why = "frames lie beyond the end of the edit list"
    if why:
        raise ReaderError(why, "doubt")
