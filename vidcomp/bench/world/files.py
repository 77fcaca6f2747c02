# SPDX-License-Identifier: Apache-2.0
"""Descriptions to H.264 files and back to the frames that the model samples."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np

from vidcomp.bench.world.render import Image, render
from vidcomp.bench.world.videos import Video

FPS = 25
WIDTH, HEIGHT = 320, 240
SECONDS = (6.0, 14.0)
"""Shortest and longest video that is encoded."""


def seconds_of(video: Video) -> float:
    """Length of the file of a video, drawn from its seed."""
    low, high = SECONDS
    return low + (high - low) * ((video.seed * 2_654_435_761) % 1000) / 999


def write_mp4(video: Video, path: Path, quality: int = 26) -> int:
    """Render and encode a video at 25 fps, 240 lines high; returns the number of frames."""
    import av  # only needed to write files, part of the development extras

    count = round(seconds_of(video) * FPS)
    width = WIDTH if video.aspect > 1.2 else HEIGHT
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = width, HEIGHT, "yuv420p"
        stream.time_base = Fraction(1, FPS)
        stream.options = {"crf": str(quality), "preset": "medium"}
        stream.codec_context.thread_count = 1
        for start in range(0, count, FPS):
            times = [k / (count - 1) for k in range(start, min(start + FPS, count))]
            for image in render(video, times, width, HEIGHT):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return count


def read_samples(path: Path, count: int) -> Image:
    """`count` frames uint8 RGB [count, h, w, 3], uniformly spaced from the first to the last one."""
    capture = cv2.VideoCapture(str(path))
    frames = []
    while True:
        found, frame = capture.read()
        if not found:
            break
        frames.append(frame)
    capture.release()
    wanted = np.linspace(0, len(frames) - 1, count).round().astype(int)
    return np.stack([np.asarray(frames[i][..., ::-1], np.uint8) for i in wanted])
