# SPDX-License-Identifier: Apache-2.0
"""FlowCut, in its single-layer form: patches that a frame's summary attends to, resembles and that carry much.

Paper: "FlowCut: Rethinking Redundancy via Information Flow for Efficient Vision-Language Models".
Needs: summary_attention, value_norm; reads value_similarity
where the tower has a class token.

In plain words, with a the attention of the frame's summary on a patch, e the similarity of its value to the summary's
and w the size of its value: score = (a / sum a + e / sum e) * w, and each frame keeps its best tokens. Without a class
token the published code leaves e out.

The published method cuts patches inside the tower, every second layer, and carries a running mean of the scores from
layer to layer (:func:`running_cut`); here the tower runs as it is and the scores of its last used layer decide.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vidcomp.core.source import Source
from vidcomp.core.tokens import Reduction, TokenView
from vidcomp.methods.base import Method, Parity, signal
from vidcomp.methods.blocks.select import even_budgets, keep_marked, top_mask

__all__ = ["Flowcut", "cut_count", "flow_scores", "running_cut"]


@dataclass(frozen=True)
class Flowcut(Method):
    """Exactly the ceiling of ``keep * T * N`` tokens, spread evenly over the frames."""

    name: ClassVar[str] = "flowcut"
    summary: ClassVar[str] = "keeps tokens that much information flows through in the tower's last layer"
    source: ClassVar[Source] = Source("FlowCut", "NeurIPS 2025", "2505.19536", "https://github.com/TungChintao/FlowCut")
    needs: ClassVar[frozenset[str]] = frozenset({"summary_attention", "value_norm"})
    wants: ClassVar[frozenset[str]] = frozenset({"value_similarity"})
    exact: ClassVar[bool] = True
    parity: ClassVar[Parity] = "goldens"

    def __call__(self, view: TokenView, keep: float) -> Reduction:
        """Keep the best of each frame.

        Raises:
            ValueError: keep outside (0, 1], or a view without the signals.
        """
        counts = even_budgets(view, keep)
        attention, norm = (signal(view, name, self.name) for name in ("summary_attention", "value_norm"))
        return keep_marked(top_mask(flow_scores(attention, norm, view.value_similarity), counts))


def flow_scores(attention: Tensor, norm: Tensor, similarity: Tensor | None = None) -> Tensor:
    """Scores of one layer.

    Args:
        attention, similarity: [F, N] of the summary on each token; without a class token there is no similarity.
        norm: [F, N], sum of absolute entries of each value.

    Returns:
        [F, N] float32.
    """
    parts = [part.float() for part in (attention, similarity) if part is not None]
    tiny = torch.finfo(torch.float32).tiny
    shares = [part / part.sum(dim=1, keepdim=True).clamp(min=tiny) for part in parts]
    return torch.stack(shares).sum(dim=0) * norm.float()


def cut_count(attention: Tensor, target: int, layers_left: int) -> int:
    """Number of N tokens that a layer drops on the way to ``target``: all of the surplus when no layer is left.

    Args:
        attention: [F, N]; the frame with the least even attention decides, as published. Zeros count as no attention;
            the published code fails on them.
        target: tokens in the end, the class token included.
        layers_left: layers after this one that could drop some.
    """
    wide = attention.cpu().double()
    share = wide / wide.sum(dim=1, keepdim=True)
    surplus, size = attention.shape[1] - target, attention.shape[1]
    if layers_left == 0 or size < 2:
        return surplus
    evenness = -torch.special.xlogy(share, share).sum(dim=1) / math.log(size)
    counts = (surplus / math.sqrt(layers_left) * (1 - evenness.square())).round()
    return int(counts.max())


def running_cut(layers: Sequence[tuple[Tensor, Tensor, Tensor | None]], target: int, layers_left: int) -> Tensor:
    """The published schedule, for a tower whose layers do not see that patches are gone.

    Args:
        layers: attention, norm and similarity [N] of each layer.
        target: tokens in the end, the class token included.
        layers_left: layers after the first one that could drop some.

    Returns:
        Indices of the survivors, ascending.
    """
    kept = torch.arange(layers[0][0].numel(), device=layers[0][0].device)
    running: Tensor | None = None
    for number, (attention, norm, similarity) in enumerate(layers):
        left = layers_left - number
        if kept.numel() + 1 <= target:
            break
        seen = [None if part is None else part[kept][None] for part in (attention, norm, similarity)]
        assert seen[0] is not None and seen[1] is not None
        score = flow_scores(seen[0], seen[1], seen[2])[0]
        running = score if running is None else (running + score) / 2
        if left % 2 == 0:
            drop = cut_count(seen[0], target, left)
            size = max(kept.numel() + 1 - drop, target) - 1
            chosen = top_mask(running[None], torch.tensor([size], device=kept.device))[0]
            kept, running = kept[chosen], running[chosen]
    return kept
