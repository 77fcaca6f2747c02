# SPDX-License-Identifier: Apache-2.0
"""Patches of a clip that look as they did when their row of the vision tower was last computed."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["AUTO_LIMIT", "WHOLE_EVERY", "RepeatedPatches"]

AUTO_LIMIT = 0.06  # of full brightness; 0.06 to 0.12 is a flat optimum on nano's questions
WHOLE_EVERY = 16
_HALO = 1  # patches around a changed one that are computed too: without them answers suffer
_PARTS = 2  # a patch is compared in so many parts a side: noise averages out, a small change does not
_MOST = 0.75  # a slice with more rows of its own is computed whole: what is around the others is new


class RepeatedPatches:
    """Says slice by slice which patches need a row of their own; remembers between calls.

    A patch is compared with the picture that its present row was computed from, not with the slice before, so a slow
    drift adds up and is seen. The first slice is whole, and at least every ``every``-th one.

    Args:
        limit: difference of the mean of a part of a patch, in any colour, that still counts as the same picture, as a
            share of full brightness. At 0 a slice is the same only when every pixel is.
        every: slices from one whole slice to the next, at most.
    """

    def __init__(self, limit: float, every: int = WHOLE_EVERY) -> None:
        self.limit, self.every = limit, every
        self._shown: Tensor | None = None  # [H, W, C], what the present rows were computed from
        self._since = 0

    def own(self, patches: Tensor) -> Tensor:
        """Patches of the next slices, [t, H, W, C, p, p] in shares of full brightness, to [t, H, W] bool."""
        seen = patches if not self.limit else F.adaptive_avg_pool2d(patches.flatten(0, 2), _PARTS)
        return torch.stack([self._next(cells) for cells in seen.reshape(*patches.shape[:3], -1)])

    def _next(self, cells: Tensor) -> Tensor:
        own = self._changed(cells)
        if own.float().mean() > _MOST:
            own = torch.ones_like(own)
        self._since = 1 if own.all() else self._since + 1
        shown = cells if self._shown is None else torch.where(own[..., None], cells, self._shown)
        self._shown = shown.clone()
        return own

    def _changed(self, cells: Tensor) -> Tensor:
        """[H, W] bool, with the halo."""
        if self._shown is None or self._since >= self.every:
            return torch.ones(cells.shape[:2], dtype=torch.bool)
        changed = ((cells - self._shown).abs() > self.limit).any(-1)
        if not self.limit:
            return changed.any().expand(changed.shape)
        near: Tensor = F.max_pool2d(changed.float()[None], 2 * _HALO + 1, 1, _HALO)[0]
        return near.bool()
