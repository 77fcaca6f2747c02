# SPDX-License-Identifier: Apache-2.0
"""Layout of one clip as tokens: settled from its size and times, before a pixel is touched.

A *slice* is what the tower turns into one grid of tokens: a frame in most families, a pair of frames in Qwen's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Layout"]


@dataclass(frozen=True)
class Layout:
    """Slices and tokens of one clip of F frames.

    Attributes:
        frame_times: [F] seconds at which each frame appears.
        duration: seconds, of the whole video.
        size: (height, width) of the pictures that the tower reads.
        grid: (H, W) of the tokens of one slice; N = H * W.
        patches: patches of the tower per slice, for memory bounds.
        frames_per_slice: P, how many frames the tower joins into a slice. An odd last frame is doubled.
    """

    frame_times: tuple[float, ...]
    duration: float
    size: tuple[int, int]
    grid: tuple[int, int]
    patches: int
    frames_per_slice: int = 1

    @property
    def frames(self) -> int:
        """F."""
        return len(self.frame_times)

    @property
    def slices(self) -> int:
        """T."""
        return -(-self.frames // self.frames_per_slice)

    @property
    def tokens(self) -> int:
        """N, tokens per slice."""
        return self.grid[0] * self.grid[1]

    @property
    def times(self) -> tuple[float, ...]:
        """[T] seconds: the middle between the first and the last frame of each slice."""
        ends = [self.members(index) for index in range(self.slices)]
        return tuple((self.frame_times[first] + self.frame_times[last]) / 2 for first, last in ends)

    def members(self, index: int) -> tuple[int, int]:
        """First and last frame of a slice."""
        first = index * self.frames_per_slice
        return first, min(first + self.frames_per_slice, self.frames) - 1

    def frames_of(self, slices: Tensor) -> int:
        """Number of frames in these slices [E]."""
        return sum(last - first + 1 for first, last in map(self.members, slices.tolist()))

    def gather(self, frames: NDArray[np.uint8], slices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The frames of some slices: [F, h, w, 3] to [len(slices) * P, h, w, 3]."""
        wanted = slices[:, None] * self.frames_per_slice + np.arange(self.frames_per_slice)
        chosen: NDArray[np.uint8] = frames[np.minimum(wanted, self.frames - 1).reshape(-1)]
        return chosen

    def by_slice(self, regions: Tensor) -> Tensor:
        """Join features of frames per slice: [F, R, C] to [T, P * R, C]."""
        missing = self.slices * self.frames_per_slice - self.frames
        padded = regions if not missing else regions[[*range(self.frames), *[self.frames - 1] * missing]]
        return padded.reshape(self.slices, -1, regions.shape[-1])
