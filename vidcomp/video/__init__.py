# SPDX-License-Identifier: Apache-2.0
"""Reading video: true frames with true times, in a child process that may hang or crash without harm.

    frames = read_frames("movie.mp4", Sampling(frames=32))
    frames.pixels, frames.times, frames.degraded

Importing this package starts no native library; its names are imported on first use. The child process is the only
place where videos are decoded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vidcomp.core.lazy import lazily

if TYPE_CHECKING:
    from vidcomp.video.files import display_name
    from vidcomp.video.read import DEADLINE_SECONDS, read_frames
    from vidcomp.video.readers.base import READERS, ReaderError, VideoReader
    from vidcomp.video.sampling import Sampling
    from vidcomp.video.types import Frames, Partial, VideoInfo

__all__ = [
    "DEADLINE_SECONDS",
    "READERS",
    "Frames",
    "Partial",
    "ReaderError",
    "Sampling",
    "VideoInfo",
    "VideoReader",
    "display_name",
    "read_frames",
]

__getattr__ = lazily(
    __name__,
    {
        "display_name": "files",
        "DEADLINE_SECONDS": "read",
        "read_frames": "read",
        "READERS": "readers.base",
        "ReaderError": "readers.base",
        "VideoReader": "readers.base",
        "Sampling": "sampling",
        "Frames": "types",
        "Partial": "types",
        "VideoInfo": "types",
    },
)
