"""Reading video: true frames with true times, in a child process that may hang or crash without harm.

    frames = read_frames("movie.mp4", Sampling(frames=32))
    frames.pixels, frames.times, frames.degraded

Importing this package starts no native library. The child process is the only place where decord and OpenCV decode.
"""

from vidcomp.video.files import display_name
from vidcomp.video.read import DEADLINE_SECONDS, read_frames
from vidcomp.video.reader import READERS, ReaderError, VideoReader
from vidcomp.video.sampling import Sampling, StockRule
from vidcomp.video.types import Frames, Partial, VideoInfo

__all__ = [
    "DEADLINE_SECONDS",
    "READERS",
    "Frames",
    "Partial",
    "ReaderError",
    "Sampling",
    "StockRule",
    "VideoInfo",
    "VideoReader",
    "display_name",
    "read_frames",
]
