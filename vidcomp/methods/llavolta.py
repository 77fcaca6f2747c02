# SPDX-License-Identifier: Apache-2.0
"""LLaVolta, test-time part: average pooling along the raster of the whole visual sequence.

Paper: "Efficient Large Multi-modal Models via Visual Context Compression".
Needs nothing but features. Its training schedule is out of scope.

In plain words: cut the sequence of all T * N tokens into runs of s neighbours, across row and frame ends, and average
each run. A run stands at its middle token.

Our reading: the published stride is a whole number and drops the tail that does not fill a run. Here the keep ratio
decides the number of runs, their lengths differ by at most one, and nothing is dropped; where 1 / keep is a whole
number s that divides T * N, both are the same. The published position of a run is the mean of its tokens' positions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from vidcomp.core.budget import token_budget
from vidcomp.core.source import Source
from vidcomp.core.tokens import Reduction, TokenView
from vidcomp.methods.base import Method

__all__ = ["Llavolta"]


@dataclass(frozen=True)
class Llavolta(Method):
    """No parameters: exactly ``ceil(keep * T * N)`` runs."""

    name: ClassVar[str] = "llavolta"
    summary: ClassVar[str] = "averages runs of neighbouring tokens along the raster of the whole video"
    source: ClassVar[Source] = Source("LLaVolta", "NeurIPS 2024", "2406.20092", "https://github.com/Beckschen/LLaVolta")
    exact: ClassVar[bool] = True

    def __call__(self, view: TokenView, keep: float) -> Reduction:
        """Average runs; every token is a member of one."""
        budget = token_budget(view.total, keep)
        edges = torch.arange(budget + 1, device=view.features.device) * view.total // budget
        run = torch.repeat_interleave(torch.arange(budget, device=edges.device), edges.diff())
        return Reduction((edges[:-1] + edges[1:]) // 2, run, (1 / edges.diff().float())[run])
