# SPDX-License-Identifier: Apache-2.0
"""Symbolic visual tokens: the scene state as vectors at the pooled resolution, without pixels or vision tower.

They let the language model practise on endless fresh videos while the vision tower is still learning to see.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from training.nano.model import GRID, WIDTH
from vidcomp.bench.world.videos import COLORS, SHAPES, Sight, Video, digit_at, state

Floats = NDArray[np.float32]

_COLOR, _SHAPE = 0, len(COLORS)
_PLACE = _SHAPE + len(SHAPES)  # offset x, y, radius, presence, then the centre in several codes
_BACKGROUND = _PLACE + 4 + 10
_POSITION = _BACKGROUND + 4
_DIGIT = _POSITION + 16
SYMBOLS = _DIGIT + 10
"""Length of a symbolic token."""
FOREGROUND = [*range(len(COLORS)), *range(_DIGIT, SYMBOLS)]
"""Parts that are zero where there is only background."""

_COLORS, _HALF = list(COLORS), 0.5 / GRID
_ROW, _COLUMN = (a.ravel() for a in np.mgrid[:GRID, :GRID])
_X, _Y = ((_COLUMN + 0.5) / GRID).astype(np.float32), ((_ROW + 0.5) / GRID).astype(np.float32)


def _waves(x: Floats | float, y: Floats | float, rates: Sequence[int]) -> list[Floats | float]:
    """Sines and cosines of a place."""
    return [wave(k * np.pi * p) for p in (x, y) for k in rates for wave in (np.sin, np.cos)]


_POSITIONS = np.stack([np.asarray(w) for w in _waves(_X, _Y, (1, 2, 4, 8))], 1).astype(np.float32)


class SymbolicProjector(nn.Module):
    """Stands in for tower and projector: [..., SYMBOLS] to [..., D]."""

    def __init__(self) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(SYMBOLS, WIDTH)
        self.linear_2 = nn.Linear(WIDTH, WIDTH)
        nn.init.normal_(self.linear_1.weight, 0, 0.12)
        nn.init.normal_(self.linear_2.weight, 0, 0.09)

    def forward(self, symbols: Tensor) -> Tensor:
        """Embed symbolic tokens."""
        embedded: Tensor = self.linear_2(nn.functional.gelu(self.linear_1(symbols)))
        return embedded


def symbolic_tokens(
    video: Video, times: Sequence[float], rng: np.random.Generator, noise: float = 0.08, ground: bool = True
) -> Floats:
    """Symbolic tokens float32 [T, 36, SYMBOLS] at the given moments; `ground` gives every scene its own background."""
    tokens = np.zeros((len(times), GRID * GRID, SYMBOLS), np.float32)
    tokens[..., _POSITION:_DIGIT] = 0.5 * _POSITIONS
    grounds = [_ground(scene.background) for scene in video.scenes]
    known: dict[Sight, tuple[NDArray[np.int64], Floats]] = {}
    for i, time in enumerate(times):
        if ground:
            tokens[i, :, _BACKGROUND:_POSITION] = grounds[video.scene_at(time)]
        for sight in state(video, time):
            if sight not in known:
                known[sight] = _describe(sight, video.aspect)
            cells, values = known[sight]
            tokens[i, cells, :_BACKGROUND] += values
        digit = digit_at(video, time)
        if digit is not None:
            cells, share = _covered(digit.x, digit.y, 0.375 * digit.size / video.aspect, 0.5 * digit.size)
            tokens[i, cells, _DIGIT + digit.value] = share
    if noise:
        tokens += noise * rng.standard_normal(tokens.shape, dtype=np.float32)
    return tokens


def symbolic_batch(videos: Sequence[Video], times: Sequence[float], rng: np.random.Generator) -> Tensor:
    """Noisy symbolic tokens [B, T, 36, SYMBOLS]."""
    return torch.from_numpy(np.stack([symbolic_tokens(video, times, rng) for video in videos]))


def cells_of(sight: Sight, aspect: float, margin: float = 0.25) -> NDArray[np.int64]:
    """Indices of the pooled tokens that show an object."""
    wide = sight.radius / aspect
    near = (np.abs(_X - sight.x) < wide + margin / GRID) & (np.abs(_Y - sight.y) < sight.radius + margin / GRID)
    return np.nonzero(near)[0]


def _describe(sight: Sight, aspect: float) -> tuple[NDArray[np.int64], Floats]:
    """Cells that an object touches and what they say about it, [n] and [n, _BACKGROUND]."""
    cells, share = _covered(sight.x, sight.y, sight.radius / aspect, sight.radius)
    values = np.zeros((len(cells), _BACKGROUND), np.float32)
    values[:, _COLOR + _COLORS.index(sight.color)] = share
    values[:, _SHAPE + SHAPES.index(sight.shape)] = share
    values[:, _PLACE] = 4 * (sight.x - _X[cells])
    values[:, _PLACE + 1] = 4 * (sight.y - _Y[cells])
    values[:, _PLACE + 2] = 5 * sight.radius
    values[:, _PLACE + 3] = 1
    center = [3 * (sight.x - 0.5), 3 * (sight.y - 0.5), *_waves(sight.x, sight.y, (1, 3))]
    values[:, _PLACE + 4 : _BACKGROUND] = np.array(center, np.float32)
    return cells, values


def _covered(x: float, y: float, wide: float, tall: float) -> tuple[NDArray[np.int64], Floats]:
    """Cells under a box of half width `wide` and half height `tall`, and how much of them it covers, both [n]."""
    across = np.minimum(_X + _HALF, x + wide) - np.maximum(_X - _HALF, x - wide)
    down = np.minimum(_Y + _HALF, y + tall) - np.maximum(_Y - _HALF, y - tall)
    cover = np.clip(across * GRID, 0, 1) * np.clip(down * GRID, 0, 1)
    cells = np.nonzero(cover > 0.08)[0]
    return cells, np.minimum(1.0, 1.5 * cover[cells]).astype(np.float32)


def _ground(seed: int) -> Floats:
    """A smooth background [36, 4] that differs between scenes."""
    rng = np.random.default_rng(seed)
    base, slope_x, slope_y = rng.standard_normal((3, 4)) * np.array([[0.8], [0.3], [0.3]])
    return np.asarray(base + (_X[:, None] - 0.5) * slope_x + (_Y[:, None] - 0.5) * slope_y, np.float32)
