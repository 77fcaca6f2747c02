# SPDX-License-Identifier: Apache-2.0
"""Turbo, in FOLDER's one-shot form: merge similar pairs, and spare the tokens that the tower attends to.

Needs: the class token's attention (attention received, in towers
without one).

In plain words, per frame: tokens at even places choose the most similar token at an odd place. A pair's score is the
cosine of its features minus ``alpha`` * 30 * the attention on the even token; the best pairs merge, at most half of
the tokens in a pass, and passes repeat until the frame's budget is reached. Merged tokens are means by size and stand
where their odd token stood.

Our reading: Turbo works in every tower layer with a factor that depends on the layer (one by default); FOLDER merges
once and has no attention term; this is FOLDER with Turbo's term. Attention of merged tokens is the mean of their
members'. The published factor on the length of merged tokens, which comes and goes with the token count by accident,
is the option ``log_size``. The budget is spread evenly over the frames, and a frame that gets none of it is dropped.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from vidcomp.core.source import Source
from vidcomp.core.tokens import Reduction, TokenView
from vidcomp.methods.base import Method, check_keep, signal
from vidcomp.methods.blocks.folding import fold
from vidcomp.methods.blocks.merge import mean_of_members
from vidcomp.methods.blocks.select import even_budgets

__all__ = ["Turbo"]

_FACTOR = 30.0


@dataclass(frozen=True)
class Turbo(Method):
    """Parameters.

    Attributes:
        alpha: weight of attention against similarity; 0 is FOLDER. The scripts use 1, and 5 with BLIP.
        log_size: multiply a merged token of s members by 1 + log(s).
    """

    alpha: float = 1.0
    log_size: bool = False

    name: ClassVar[str] = "turbo"
    summary: ClassVar[str] = "merges similar pairs of each frame's tokens, sparing the attended ones"
    source: ClassVar[Source] = Source(
        "Turbo",
        "ECCV 2024",
        "2407.11717",
        "https://github.com/anakin-skywalker-Joseph/Folder",
        licence="no licence file",
        note="with FOLDER, ICCV 2025, arXiv 2501.02430",
    )
    needs: ClassVar[frozenset[str]] = frozenset({"cls_attention"})
    exact: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.alpha >= 0:
            raise ValueError(f"alpha must be at least 0, got {self.alpha}")

    def __call__(self, view: TokenView, keep: float) -> Reduction:
        """Exactly ``ceil(keep * T * N)`` tokens survive."""
        check_keep(keep)
        reluctance = signal(view, "cls_attention", self.name).float() * (self.alpha * _FACTOR)
        reduction = mean_of_members(fold(view.features.detach(), even_budgets(view, keep), reluctance).anchors())
        if not self.log_size:
            return reduction
        longer = 1 + reduction.members.float().log()
        return replace(reduction, weights=reduction.weights * longer[reduction.assign.clamp(min=0)])
