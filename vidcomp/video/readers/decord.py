# SPDX-License-Identifier: Apache-2.0
"""decord, used where the packet scan proves it right, and refusing every other file.

What it does wrong (decord 0.6.0, measured on clips with the frame number burned in, see docs/reading.md), and what is
done about it:

- Having looked through a file it seeks back to its start, and lands elsewhere in fragmented MP4, and in any MP4 whose
  second key frame is sent before the first picture is due (a first group of one or two pictures, then B-frames). Such
  files are refused.
- Other seeks land up to 21 frames off, on open groups of pictures and on some closed ones. It is never asked to seek.
  ``skip_frames`` seeks as well when it crosses a key frame, so those are stepped over one by one.
- Edit lists: it counts hidden packets, returns copies at the end and hangs at the last index. Files with hidden
  packets, and files that it counts otherwise than the scan, are refused.
- Transport streams lose their first group of pictures; AVI and program streams have no usable times. Only MP4 and
  Matroska are read with it. Its own times are never used.
- Packets that cannot be decoded come back as copies of the frame before. It is not used on files that are cut short or
  whose packets are doubtful, and any complaint of its decoder discards what it gave.
- Damaged VP9 comes back as wrong pictures without any complaint. VP9 is refused.
- Packets without a picture (MPEG-4 that is not coded, HEVC that leads a splice) are counted: every later picture is
  another one, and the last are copies. Both codecs are refused.
- Of several descriptions of the codec in one MP4 it uses the first for all pictures.
- Ctrl-C does nothing while it hangs. It runs only in the decoding child, which has a deadline.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from vidcomp.video.container.header import Header
from vidcomp.video.container.scan import Scan, Timeline
from vidcomp.video.readers.base import ReaderError, Source, VideoReader, shrink

__all__ = ["DecordReader"]

TRUSTED = frozenset({"iso", "matroska"})
UNFIT = {  # codecs that it does not read truly
    "vp9": "its decoder gives wrong pictures of damaged data without a word",
    "mpeg4": "some packets may hold no picture, and it counts them",
    "hevc": "some packets may hold no picture that is shown, and it counts them",
}
LONGEST_DELAY = 16  # pictures that a decoder may hold back before it shows the first (H.264, A.3.1)


class DecordReader(VideoReader):
    """Reads MP4 and Matroska files whose frames it counts as the packets do; refuses the others."""

    name: ClassVar[str] = "decord"

    def __init__(self) -> None:
        self._file: Any = None
        self._source: Source
        self._scan: Scan
        self._keys: list[int] = []
        self._position = 0  # index of the frame that next() returns
        self._size = (0, 0)

    def open(self, source: Source) -> None:
        if why := _untrue_header(source.header) or _untrue_packets(source):
            raise ReaderError(why, "refused")
        import decord

        assert source.scan is not None
        self._source, self._scan = source, source.scan
        try:
            self._file = decord.VideoReader(source.path, num_threads=self.threads)
        except (decord.DECORDError, RuntimeError) as error:
            raise _open_error(str(error)) from error
        if len(self._file) != len(self._scan):
            raise ReaderError(f"it counts {len(self._file)} frames where {len(self._scan)} can be shown", "doubt")
        self._keys = self._file.get_key_indices()

    @property
    def claimed_seconds(self) -> float | None:
        return self._source.header.seconds

    def timeline(self) -> Timeline:
        return self._scan.timeline

    def read(self, indices: Sequence[int], max_side: int | None) -> Iterator[NDArray[np.uint8]]:
        for index in indices:
            yield shrink(self._take(index), max_side)

    @property
    def size(self) -> tuple[int, int]:
        return self._size

    def close(self) -> None:
        self._file = None

    def _take(self, index: int) -> NDArray[np.uint8]:
        """Decode forward to ``index`` and return that frame, ``[h, w, 3]``."""
        while self._position < index:
            following = bisect.bisect_right(self._keys, self._position)
            border = self._keys[following] - 1 if following < len(self._keys) else index
            count = min(index, border) - self._position
            if count > 0:
                self._file.skip_frames(count)
            else:
                self._file.next()
            self._position += max(count, 1)
        taken = self._file.next()
        self._position = index + 1
        image = np.asarray(np.from_dlpack(_Lent(taken)), dtype=np.uint8)
        if image.ndim != 3 or image.shape[2] != 3:  # so it is for most widths below 50
            raise ReaderError(f"gives frame {index} in the shape {image.shape}", "doubt")
        self._size = (image.shape[1], image.shape[0])
        return image


class _Lent:
    """A decord array for numpy, without a copy. decord hands out the old form of the protocol."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def __dlpack__(self, **_: Any) -> Any:
        return self.array.to_dlpack()

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0  # main memory


def _untrue_header(header: Header) -> str:
    """Why a file would not be read truly, by its headers; empty when it would."""
    if header.kind not in TRUSTED:
        return "its frame positions are not reliable in this kind of file"
    if header.fragmented:
        return "it begins fragmented files at another picture than the first"
    if header.edits > 1:
        return "an edit list hides frames, which it counts"
    if header.descriptions > 1:
        return "it takes the first of several descriptions of the codec for all pictures"
    if header.mirrored or (header.kind != "iso" and header.rotation):
        return "it does not know how this file is rotated"
    if header.cut_short:
        return "it puts copies in place of what is missing, and the file is cut short"
    return ""


def _untrue_packets(source: Source) -> str:
    """The same by the packets."""
    scan = source.scan
    if scan is None or not source.sound:
        return "it puts copies in place of what is missing, and this file is not whole"
    if source.facts.codec in UNFIT:
        return UNFIT[source.facts.codec]
    if source.facts.form.unusual:
        return f"it shows pictures as they are stored, and this file has {source.facts.form.unusual}"
    if scan.hidden:
        return "some of its packets show nothing, and it counts them"
    if source.facts.tracks > 1:
        return "there are several picture tracks, and it may take another one"
    keys = scan.order[scan.keys]
    # An MP4 is searched by decoding times, a Matroska file by presentation times.
    if source.header.kind == "iso" and ((keys > 0) & (keys <= LONGEST_DELAY)).any():
        return "a second key frame follows soon, and it may begin there"
    return ""


def _open_error(text: str) -> ReaderError:
    if "cannot find video stream" in text:
        return ReaderError("no video stream that it can decode", "no_video_stream")
    lines = text.strip().splitlines()
    return ReaderError(lines[0].split(": ", 1)[-1][:200] if lines else "cannot open the file")
