# SPDX-License-Identifier: Apache-2.0
"""Recoverable Compression: salient tokens, tokens brought back for the question, and clusters of the rest.

Needs: the class token's attention (attention received, in
towers without one), the tower's keys, the question's embeddings.

In plain words, per frame:
1. Keep the tokens the tower attends to most; as many as the attention has outliers (local outlier factor, 20
   neighbours).
2. Bring back the others most similar to the question, as many as these similarities have outliers.
3. Of the rest the most attended become centres, as many as the share of outliers (10 neighbours) times the tokens
   kept. Each takes in its 32 nearest tokens (cosine of keys plus 50 times similarity to the question), weighted by
   their attention.
4. What is left becomes one more token, the mean weighted by attention; it stands at the most attended of them.
Survivors are in raster order.

Our reading: by default the outliers decide only the proportions, and the budget, spread evenly over the frames, the
number; ``adaptive`` lets them decide both, as published, whatever the keep ratio. The question's similarity is the
cosine of a token with the mean of the question's embeddings, in place of a paired text tower. A token joins one
centre only, and weights are normalised (the published sums let a token count several times). Neighbours are looked up
among the tokens they belong to; the published code looks at other keys.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vidcomp.core.budget import allocate
from vidcomp.core.source import Source
from vidcomp.core.tokens import Reduction, TokenView
from vidcomp.methods.base import Method, check_keep, exact_unless, signal
from vidcomp.methods.blocks.cosine import unit_rows
from vidcomp.methods.blocks.merge import weighted_mean
from vidcomp.methods.blocks.outliers import outlier_share
from vidcomp.methods.blocks.select import even_budgets, top_mask
from vidcomp.methods.blocks.similarity import products

__all__ = ["Recoverable"]

_NEIGHBOURS, _FEWER = 20, 10  # of the outlier factors
_TEXT_WEIGHT = 50.0


@dataclass(frozen=True)
class Recoverable(Method):
    """Parameters.

    Attributes:
        adaptive: let outliers decide how many tokens survive, and ignore the keep ratio unless it is 1.
        nearest: tokens that a centre takes in at most.
    """

    adaptive: bool = False
    nearest: int = 32

    name: ClassVar[str] = "recoverable"
    summary: ClassVar[str] = "salient tokens, tokens recovered for the question, the rest merged to a few"
    source: ClassVar[Source] = Source(
        "Recoverable Compression", "AAAI 2025", "2409.01179", "https://github.com/banjiuyufen/Recoverable-Compression"
    )
    needs: ClassVar[frozenset[str]] = frozenset({"cls_attention", "keys", "query"})
    exact: ClassVar[bool] = exact_unless("adaptive")

    def __post_init__(self) -> None:
        if not isinstance(self.nearest, int) or self.nearest < 1:
            raise ValueError(f"nearest must be a whole number of at least 1, got {self.nearest!r}")

    def __call__(self, view: TokenView, keep: float) -> Reduction:
        """Exactly ``ceil(keep * T * N)`` tokens survive, unless ``adaptive``."""
        check_keep(keep)
        attention = signal(view, "cls_attention", self.name).float().nan_to_num(nan=0.0).clamp(min=0)
        keys = signal(view, "keys", self.name)
        question = question_similarity(view.features.detach(), signal(view, "query", self.name))
        counts = _counts(attention, question, None if self.adaptive and keep < 1 else even_budgets(view, keep))
        salient, recovered, centres, last = (torch.from_numpy(column).to(attention.device) for column in counts.T)
        kept = top_mask(attention, salient)
        kept |= top_mask(question.masked_fill(kept, -torch.inf), recovered)
        centre = top_mask(attention.masked_fill(kept, -torch.inf), centres)
        anchor = torch.where(kept | centre, torch.arange(kept.shape[1], device=kept.device), -1)  # [T, N] positions
        for frame in range(len(kept)):
            self._merge(anchor[frame], centre[frame], attention[frame], keys[frame], question[frame], bool(last[frame]))
        start = torch.arange(len(kept), device=kept.device)[:, None] * kept.shape[1]
        weight = torch.where(kept | centre, 1.0, attention.clamp(min=1e-12))
        return weighted_mean(torch.where(anchor >= 0, anchor + start, -1).flatten(), weight.flatten())

    def _merge(
        self, anchor: Tensor, centre: Tensor, attention: Tensor, keys: Tensor, question: Tensor, last: bool
    ) -> None:
        """Steps 3 and 4 of the module for one frame: fills in the rest of ``anchor`` [N]."""
        rest, middle = (anchor < 0).nonzero()[:, 0], centre.nonzero()[:, 0]
        if rest.numel() == 0:
            return
        nearness = torch.full((middle.numel(), rest.numel()), -torch.inf, device=keys.device)
        if middle.numel():
            cosine = products(unit_rows(keys[middle]), unit_rows(keys[rest]))
            listed = (cosine + _TEXT_WEIGHT * question[rest]).argsort(dim=1, descending=True, stable=True)
            listed = listed[:, : self.nearest]
            nearness.scatter_(1, listed, cosine.gather(1, listed))
        joins = (nearness > -torch.inf).any(dim=0)
        if last:
            alone = int(torch.where(joins, -torch.inf, attention[rest]).argmax())
            if bool(joins[alone]):  # all of them would join a centre
                alone = int(attention[rest].argmax())
            joins[alone] = False
            anchor[rest[~joins]] = rest[alone]
        if middle.numel():
            anchor[rest[joins]] = middle[nearness[:, joins].argmax(dim=0)]


def question_similarity(features: Tensor, query: Tensor) -> Tensor:
    """Cosine of each token with the mean of the question's embeddings [L, D]: [T, N]; zero without a question."""
    words = unit_rows(query.float().mean(dim=0)) if len(query) else query.new_zeros(query.shape[1])
    return torch.stack([(unit_rows(features[frame]) * words).sum(dim=1) for frame in range(len(features))])


def _counts(attention: Tensor, question: Tensor, budgets: Tensor | None) -> NDArray[np.int64]:
    """Salient, recovered, centres, and whether there is a last token: [T, 4]; budgets [T], None for adaptive."""
    tokens = attention.shape[1]
    first = outlier_share(attention, _NEIGHBOURS)
    kept = top_mask(attention, (first * tokens + 1e-4).long())
    second = outlier_share(torch.where(kept, question.amin(dim=1, keepdim=True), question), _NEIGHBOURS)
    third = outlier_share(torch.where(kept, attention.amin(dim=1, keepdim=True), attention), _FEWER)
    first, second, third = (share.cpu().double() for share in (first, second, third))
    salient = first * tokens
    recovered = (tokens - salient) * second
    parts = torch.stack([salient, recovered, (salient + recovered) * third], dim=1).numpy()
    counts = np.zeros((len(parts), 4), dtype=np.int64)
    if budgets is None:
        counts[:, 0], counts[:, 1] = parts[:, 0] + 1e-4, parts[:, 1] + 1e-4
        counts[:, 2] = (counts[:, 0] + counts[:, 1]) * third.numpy() + 1e-4
        counts[:, 3] = 1
        return counts
    for row, part, budget in zip(counts, parts, budgets.tolist(), strict=True):
        row[3] = int(budget > 1)
        row[:3] = allocate(part, budget - int(row[3]), [tokens] * 3)
    return counts
