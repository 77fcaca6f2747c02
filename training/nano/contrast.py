# SPDX-License-Identifier: Apache-2.0
"""Contrast of the visual tokens: alike where the picture is alike, unlike where it differs, in time and within a frame.

Features of large image encoders have this property, and methods that merge what repeats rely on it. A tower trained
only to answer questions need not have it: it may tell a circle that turned red from a blue one by a short component of
an otherwise equal vector. Here the truth comes from the scene description: how much of each cell shows which object in
which colour, or the background of which scene. Noise, blur, brightness and JPEG artefacts are not part of it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from training.nano.model import GRID
from vidcomp.bench.world.render import DIGIT_LABEL, label_map
from vidcomp.bench.world.videos import Video

_FINE = 8  # pixels of the label map along one side of a cell
_GROUNDS = 3  # backgrounds of a video at most
_SLOTS = _GROUNDS + 9  # and as many objects in as many colours as a video can have, and a digit
_EQUAL, _OTHER = 0.01, 0.06  # difference of two cells below which they must be alike, and above which unlike
_ALIKE_IN_TIME, _ALIKE_IN_FRAME = 0.97, 0.85  # least cosine
_STEEP, _UNLIKE = 1.6, 0.3  # the most cosine allowed falls with the difference, down to this
_GROUND_WEIGHT = 0.05  # of two places that differ in the background only, against those that differ in their objects
_FRAMES_SEEN = 2  # frames of each video whose cells are compared with each other


def shares(videos: Sequence[Video], times: Sequence[float]) -> Tensor:
    """What every cell shows: [B, T, 36, slots], the parts of a cell add up to one."""
    return torch.from_numpy(np.stack([_shares_of(video, times) for video in videos]))


def _shares_of(video: Video, times: Sequence[float]) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """One video [T, 36, slots]; an object that turned is another thing than before, the last slot is a digit's."""
    table = np.zeros((len(times), GRID * GRID, _SLOTS), np.float32)
    slots: dict[tuple[int, int, str], int] = {}
    for i, time in enumerate(times):
        labels, sights = label_map(video, time, GRID * _FINE)
        cells = labels.reshape(GRID, _FINE, GRID, _FINE).transpose(0, 2, 1, 3).reshape(GRID * GRID, -1)
        for number, sight in enumerate(sights, start=1):
            slot = slots.setdefault((sight.scene, sight.thing, sight.color), _GROUNDS + len(slots))
            table[i, :, slot] = (cells == number).mean(1)
        table[i, :, video.scene_at(time)] = (cells == 0).mean(1)
        table[i, :, -1] = (cells == DIGIT_LABEL).mean(1)
    return table


def contrast_loss(tokens: Tensor, shown: Tensor) -> Tensor:
    """How far the cosines of visual tokens [B, T * 36, D] are from what `shown` [B, T, 36, slots] asks for.

    Compared are all moments of every place, and all places of a few frames.
    """
    batch, frames, cells, _ = shown.shape
    sight = functional.normalize(tokens.float(), dim=-1).view(batch, frames, cells, -1)
    chosen = torch.randperm(frames)[:_FRAMES_SEEN]
    over_time = _group_loss(sight.transpose(1, 2), shown.transpose(1, 2), _ALIKE_IN_TIME)
    return over_time + 0.5 * _group_loss(sight[:, chosen], shown[:, chosen], _ALIKE_IN_FRAME)


def _group_loss(sight: Tensor, shown: Tensor, alike: float) -> Tensor:
    """Hinge on the cosines of all pairs within groups [B, G, n, D], unlike and alike pairs averaged on their own."""
    cosine = sight @ sight.transpose(2, 3)
    apart = 0.5 * (shown[..., :, None, :] - shown[..., None, :, :]).abs()
    gap, objects = apart.sum(-1), apart[..., _GROUNDS:].sum(-1)
    same, other = (gap < _EQUAL).float(), (gap > _OTHER).float() * (objects + _GROUND_WEIGHT)
    low = functional.relu(alike - cosine) * same
    high = functional.relu(cosine - (1 - _STEEP * gap).clamp(min=_UNLIKE)) * other
    return low.sum() / same.sum().clamp(min=1) + high.sum() / other.sum().clamp(min=1)
