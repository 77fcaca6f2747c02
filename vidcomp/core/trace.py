# SPDX-License-Identifier: Apache-2.0
"""The fate of every visual token of one answer, as plain numbers for pictures and pages.

Letters: T slices, N tokens per slice, E encoded slices, M survivors of the outer stage.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Fate", "TokenTrace"]

Indices = NDArray[np.int64]


class Fate(IntEnum):
    """The end of a token."""

    KEPT = 0  # read by every layer of the language model
    LEFT = 1  # read by the first layers; it left, or became part of another row, at a later one
    MERGED = 2  # became part of a survivor before the language model
    DROPPED = 3  # removed before the language model, part of nothing


@dataclass(frozen=True, eq=False)
class TokenTrace:
    """Tokens and their fates; a token is named by its flat index t * N + n.

    Attributes:
        grid: (rows, columns) of the tokens of one slice.
        members: first and last sampled frame of each slice.
        times: [F] seconds at which each sampled frame appears.
        area: the part of the frame that the tower reads, (left, top, right, bottom) in shares of its sides.
        encoded: [E] slices that went through the vision tower; the others repeat the one before.
        similarity: [T - 1] of neighbouring slices, as a segmenter saw them, else the mean cosine of tokens at one
            position.
        anchors: [M] tokens that survived the outer stage, in the order the language model reads them.
        owner: [T * N] the survivor (0..M-1) that absorbed each token, -1 for none.
        links: [2, K] further contributions: token, survivor.
        inner: layer to the survivors (0..M-1) that it still read, for every layer at which their number changes.
    """

    grid: tuple[int, int]
    members: tuple[tuple[int, int], ...]
    times: tuple[float, ...]
    encoded: Indices
    similarity: NDArray[np.float64]
    anchors: Indices
    owner: Indices
    links: Indices = field(default_factory=lambda: np.zeros((2, 0), np.int64))
    inner: Mapping[int, Indices] = field(default_factory=dict)
    area: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)

    @property
    def slices(self) -> int:
        """T."""
        return len(self.members)

    @property
    def tokens(self) -> int:
        """N."""
        return self.grid[0] * self.grid[1]

    @cached_property
    def fates(self) -> NDArray[np.int8]:
        """[T, N] values of :class:`Fate`."""
        fate = np.where(self.owner >= 0, Fate.MERGED, Fate.DROPPED).astype(np.int8)
        fate[self.links[0]] = Fate.MERGED
        fate[self.anchors] = Fate.LEFT if self.inner else Fate.KEPT
        if self.inner:
            fate[self.anchors[self.inner[max(self.inner)]]] = Fate.KEPT
        return fate.reshape(self.slices, self.tokens)

    def counts(self) -> dict[str, int]:
        """Number of tokens of each fate."""
        return {fate.name.lower(): int((self.fates == fate).sum()) for fate in Fate}

    def to_dict(self) -> dict[str, Any]:
        """The ``tokens`` object of a page."""
        return {
            "grid": list(self.grid),
            "slices": [list(ends) for ends in self.members],
            "area": list(self.area),
            "encoded": self.encoded.tolist(),
            "similarity": np.round(self.similarity, 4).tolist(),
            "anchors": self.anchors.tolist(),
            "owner": self.owner.tolist(),
            "links": self.links.tolist(),
            "inner": {str(layer): kept.tolist() for layer, kept in sorted(self.inner.items())},
            "counts": self.counts(),
        }
