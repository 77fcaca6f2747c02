# SPDX-License-Identifier: Apache-2.0
"""VTC-CLS: keep the patches with the most attention of the class token, added up over several tower layers.

Paper: "[CLS] Token Tells Everything Needed for Training-free Efficient MLLMs".
Needs: cls_by_layer (attention received, in towers without a class token).

In plain words, per frame: add the class token's attention over the layers from ``start`` up to the one whose output is
used, and keep the patches with the largest sums, in raster order.

Our reading: which first layer is best is not published per budget; the default starts in the middle of the tower. The
source treats one image; here the budget is spread evenly over the frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from vidcomp.core.source import Source
from vidcomp.core.tokens import Reduction, TokenView
from vidcomp.methods.base import Method, check_keep, signal, tower_layer
from vidcomp.methods.blocks.select import even_budgets, keep_marked, top_mask

__all__ = ["VtcCls"]


@dataclass(frozen=True)
class VtcCls(Method):
    """Parameters.

    Attributes:
        start: first layer that counts, 0-based; None is half of the layers.
        normalize: bring each layer's attention on the patches to the sum one before adding; not published.
    """

    start: int | None = None
    normalize: bool = False

    name: ClassVar[str] = "vtc_cls"
    summary: ClassVar[str] = "keeps the patches with the most class-token attention, summed over tower layers"
    source: ClassVar[Source] = Source("VTC-CLS", arxiv="2412.05819", code="https://github.com/THU-MIG/VTC-CLS")
    needs: ClassVar[frozenset[str]] = frozenset({"cls_by_layer"})
    exact: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.start is not None and (not isinstance(self.start, int) or self.start < 0):
            raise ValueError(f"start must be a layer number of at least 0, got {self.start!r}")

    def __call__(self, view: TokenView, keep: float) -> Reduction:
        """Select exactly ``ceil(keep * T * N)`` tokens.

        Raises:
            ValueError: keep outside (0, 1], or a view without the signal.
            UsageError: the tower has no layer ``start``.
        """
        check_keep(keep)
        attention = signal(view, "cls_by_layer", self.name).float()  # [T, N, L]
        depth = attention.shape[2]
        start = depth // 2 if self.start is None else tower_layer(self.name, "start", self.start, depth)
        used = attention[..., start:]
        if self.normalize:
            used = used / used.sum(dim=1, keepdim=True).clamp(min=1e-12)
        return keep_marked(top_mask(used.sum(dim=2), even_budgets(view, keep)))
