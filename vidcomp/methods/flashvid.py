# SPDX-License-Identifier: Apache-2.0
"""FlashVID, outer stage: attended and mutually different tokens per frame, and trees of similar tokens across frames.

Needs: salience.

In plain words, for T frames of N tokens, b = ceil(N * r * expansion) tokens per frame, q = ceil(b * alpha) of them
chosen:
1. Segments: cut where the mean tokens of neighbouring frames have a cosine below ``cut``; fewer than ``segments``
   pieces are cut further at the least similar steps. Spans that are given (``--segmenter``) take their place.
2. Chosen (ADTS), per frame: the distance from token i to token j is (1 - cosine) times the weight of j, which is the
   salience of j and, with ``event``, the mean product of j with the mean tokens of its segment's frames. The first
   token is the one whose nearest other token is farthest, then again and again the one farthest from all chosen ones.
3. Trees (TSTM), per segment of several frames: a token that is not chosen hangs on the most similar unchosen token of
   the frame before when their cosine is above ``link``; the threshold rises where fewer than b tokens per frame would
   be left. A tree becomes the mean of its tokens and stands at its root.
4. The roots of each frame are clustered (DPC-KNN) down to their share of the budget; a cluster is the plain mean of its
   trees and stands at its centre.
Survivors are in raster order. Counts are rounded up per frame, so a little more than asked for survives.

Equal to the published function with three of its defects repaired: the sum over a tree is divided by the number of its
tokens, not of the root's children; in a segment of one frame chosen tokens are not clustered once more; a token is
never chosen twice, for which a negative product in ``event`` counts as 0. Noise in the densities is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from vidcomp.core.budget import guarded_ceil
from vidcomp.core.source import Source
from vidcomp.core.tokens import Reduction, Span, TokenView, merge_rows
from vidcomp.methods.base import Method, Parity, check_keep, signal
from vidcomp.methods.blocks.cosine import unit_rows
from vidcomp.methods.blocks.dpc_knn import cluster_groups, squared_distances
from vidcomp.methods.blocks.equal import first_equal
from vidcomp.methods.blocks.maxmin import spread_out
from vidcomp.methods.blocks.merge import weighted_mean
from vidcomp.methods.blocks.similarity import block_bytes

__all__ = ["Flashvid", "attended_and_different", "cut_segments"]

_SEGMENTS = 8
_QWEN = {"segments": 4, "event": False}
_SAME = 1 - 2.0**-18  # cosines above differ from one by rounding only


@dataclass(frozen=True)
class Flashvid(Method):
    """Parameters.

    Attributes:
        alpha: share of the budget that is chosen rather than merged, in [0, 1].
        expansion: factor on the budget. The published scripts use 1.25 and prune inside the language model to reach the
            ratio on average over its layers; here the ratio is that of the tokens that enter it, so the default is 1.
        cut: cosine of neighbouring frames below which a segment ends.
        segments: least number of segments; None is 8, and 4 with the Qwen families, as in the scripts.
        link: cosine above which a token hangs on one of the frame before.
        event: weigh by the product with the segment's mean tokens too; None is yes, and no with the Qwen families.
        k: neighbours of the density in DPC-KNN.
    """

    alpha: float = 0.7
    expansion: float = 1.0
    cut: float = 0.9
    segments: int | None = None
    link: float = 0.8
    event: bool | None = None
    k: int = 7

    name: ClassVar[str] = "flashvid"
    summary: ClassVar[str] = "keeps attended and mutually different tokens, merges the rest in trees across frames"
    source: ClassVar[Source] = Source("FlashVID", "ICLR 2026", "2602.08024", "https://github.com/Fanziyang-v/FlashVID")
    needs: ClassVar[frozenset[str]] = frozenset({"salience"})
    inner: ClassVar[str | None] = "flashvid"
    span_rule: ClassVar[str] = "fall"
    by_family: ClassVar[Mapping[str, Mapping[str, Any]]] = dict.fromkeys(
        ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe"), _QWEN
    )
    parity: ClassVar[Parity] = "goldens"
    differs: ClassVar[str] = "has two lines of the published code repaired"
    rule: ClassVar[str] = "rounds up per frame, and makes one token of each tree"

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha must be in [0, 1], got {self.alpha}")
        if not self.expansion > 0:
            raise ValueError(f"expansion must be above 0, got {self.expansion}")
        for name in ("segments", "k"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")

    def __call__(self, view: TokenView, keep: float) -> Reduction:
        """Choose, link and cluster; between b - 1 and b + 1 tokens per frame survive, where there are as many roots."""
        check_keep(keep)
        features = view.features.detach()
        tokens = features.shape[1]
        budget = min(tokens, max(1, guarded_ceil(tokens * keep * self.expansion)))
        chosen_count = guarded_ceil(budget * self.alpha)
        middle = features.mean(dim=1, dtype=torch.float32)  # [T, D]
        spans = view.spans or cut_segments(middle, self.cut, _SEGMENTS if self.segments is None else self.segments)
        weight = signal(view, "salience", self.name).float().nan_to_num(nan=0.0).clamp(min=0)
        if self.event is not False:
            weight = weight * _event(features, middle, spans)
        chosen = attended_and_different(features, weight, chosen_count)
        root = self._trees(features, chosen, spans, budget)
        return self._clustered(features, root, chosen, spans, budget - chosen_count)

    def _trees(self, features: Tensor, chosen: Tensor, spans: tuple[Span, ...], budget: int) -> Tensor:
        """Flat index of the root of each token's tree: [T, N]; a token that hangs on none is its own."""
        parent, similarity = _parents(features, chosen)
        frames, tokens = chosen.shape
        root = torch.arange(frames * tokens, device=chosen.device).reshape(frames, tokens).clone()
        for span in spans:
            inside = slice(span.start + 1, span.end + 1)
            linked = similarity[inside] > self._threshold(similarity[inside], len(span) * (tokens - budget))
            for frame in range(span.start + 1, span.end + 1):
                above = root[frame - 1].gather(0, parent[frame])
                root[frame] = torch.where(linked[frame - span.start - 1], above, root[frame])
        return root

    def _threshold(self, similarity: Tensor, most: int) -> float:
        """The cosine above which at most ``most`` tokens are linked."""
        if int((similarity > self.link).sum()) <= most:
            return self.link
        return max(float(similarity.flatten().topk(most).values[-1]), -1 + 1e-6) if most else 2.0

    def _clustered(
        self, features: Tensor, root: Tensor, chosen: Tensor, spans: tuple[Span, ...], left: int
    ) -> Reduction:
        """Trees to the budget of ``left`` tokens per frame."""
        index = torch.arange(root.numel(), device=root.device).reshape(root.shape)
        roots = (root == index) & ~chosen  # [T, N]
        found = roots.sum(dim=1).cpu()
        counts = found.clone()
        for span in spans:
            inside = slice(span.start, span.end + 1)
            ratio = left * len(span) / max(1, int(found[inside].sum()))
            if ratio < 1:
                counts[inside] = torch.tensor([guarded_ceil(int(count) * ratio) for count in found[inside]])
        size = torch.zeros(root.numel(), device=root.device).index_add_(
            0, root.flatten(), torch.ones(root.numel(), device=root.device)
        )
        anchor = self._merge_trees(features, root, roots, found, counts)[root.flatten()]
        return weighted_mean(anchor, 1 / size[root.flatten()], spans)

    def _merge_trees(self, features: Tensor, root: Tensor, roots: Tensor, found: Tensor, counts: Tensor) -> Tensor:
        """[T * N] int64: for each root the root of the tree it is merged into, -1 for a dropped one."""
        target = torch.arange(root.numel(), device=root.device)
        target[(roots & (counts == 0).to(root.device)[:, None]).flatten()] = -1
        groups = ((counts > 0) & (counts < found)).nonzero()[:, 0]
        if groups.numel() == 0:
            return target
        busy = torch.zeros_like(roots)
        busy[groups.to(root.device)] = roots[groups.to(root.device)]
        place = busy.flatten().nonzero()[:, 0]  # [R] flat index of each root to cluster
        number = torch.full_like(target, -1)
        number[place] = torch.arange(place.numel(), device=root.device)
        means = _tree_means(features, number[root.flatten()], place.numel())
        sizes = found[groups].numpy()
        start = sizes.cumsum() - sizes

        def fetch(low: int, high: int, most: int) -> Tensor:
            block = means.new_zeros(high - low, most, means.shape[1])
            for row, group in enumerate(range(low, high)):
                rows = means[start[group] : start[group] + sizes[group]]
                block[row, : len(rows)] = rows - rows[:1]
            return block

        owner = cluster_groups(sizes, counts[groups].numpy(), self.k, fetch, means.shape[1], root.device)
        for group, (first, size) in enumerate(zip(start, sizes, strict=True)):
            mine = place[first : first + size]
            target[mine] = mine[owner[group, :size]]
        return target


def cut_segments(middle: Tensor, cut: float, least: int) -> tuple[Span, ...]:
    """Segments of T frames from their mean tokens [T, D]: step 1 of the module."""
    unit = unit_rows(middle)
    similarity = (unit[:-1] * unit[1:]).sum(dim=1).cpu()
    after = similarity < cut
    more = min(least, len(middle)) - 1 - int(after.sum())
    if more > 0:
        after[similarity.masked_fill(after, torch.inf).argsort(stable=True)[:more]] = True
    ends = [*after.nonzero()[:, 0].tolist(), len(middle) - 1]
    return tuple(Span(start, end) for start, end in zip([0, *(end + 1 for end in ends)], ends, strict=False))


def attended_and_different(features: Tensor, weight: Tensor, count: int) -> Tensor:
    """Step 2 of the module, frame by frame.

    Args:
        features: [T, N, D]; weight: [T, N], not negative; count: tokens per frame.

    Returns:
        [T, N] bool; of equals the lower index is taken.
    """
    step = max(1, block_bytes(features.device) // (features.shape[1] * (features.shape[2] + features.shape[1])))
    chosen = []
    for low in range(0, len(features), step):
        unit = unit_rows(features[low : low + step])
        valid = torch.ones(unit.shape[:2], dtype=torch.bool, device=unit.device)
        away = squared_distances(unit - unit[:, :1], valid)[0] * (unit.shape[2] / 2)  # [t, N, N], 1 - cosine
        counts = torch.full((len(unit),), count, device=unit.device)
        chosen.append(spread_out(away * weight[low : low + step, None, :], counts))
    return torch.cat(chosen)


def _event(features: Tensor, middle: Tensor, spans: tuple[Span, ...]) -> Tensor:
    """Mean product of each token with the mean tokens of its segment's frames, negative ones as zero: [T, N]."""
    found = torch.empty(features.shape[:2], device=features.device)
    for span in spans:
        centre = middle[span.start : span.end + 1].mean(dim=0)
        for frame in range(span.start, span.end + 1):
            found[frame] = (features[frame].float() * centre).sum(dim=1)
    return found.clamp(min=0)


def _parents(features: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Most similar unchosen token of the frame before, by position, and its cosine: [T, N] each.

    The cosine is -1 in the first frame and where the token, or every token of the frame before, is chosen.
    """
    frames, tokens = chosen.shape
    parent = torch.zeros(chosen.shape, dtype=torch.int64, device=chosen.device)
    similarity = torch.full(chosen.shape, -1.0, device=chosen.device)
    label = first_equal(features.reshape(frames * tokens, -1)).reshape(frames, tokens)
    earlier = torch.ones(tokens, tokens, dtype=torch.bool, device=chosen.device).tril(-1)
    before = unit_rows(features[0])
    for frame in range(1, frames):
        here, free = unit_rows(features[frame]), ~chosen[frame - 1]
        same = label[frame - 1, :, None] == label[frame - 1, None, :]
        hidden = ~free | (same & earlier & free).any(dim=1)  # of equal tokens only the first may be a parent
        best = (here @ before.T).masked_fill_(hidden, -1.0).max(dim=1)
        alike = (label[frame, :, None] == label[frame, None, :]).byte().argmax(dim=1)
        value = best.values[alike]
        parent[frame] = best.indices[alike]
        similarity[frame] = torch.where(value > _SAME, 1.0, value).masked_fill(chosen[frame], -1.0)
        before = here
    return parent, similarity


def _tree_means(features: Tensor, tree: Tensor, count: int) -> Tensor:
    """Means [count, D] float32 of the tokens of each tree; tree [T * N] holds its number, -1 for none."""
    sizes = torch.bincount(tree[tree >= 0], minlength=count).float()
    share = torch.where(tree >= 0, 1 / sizes[tree.clamp(min=0)], 0.0)
    return merge_rows(features.reshape(tree.numel(), -1), tree, share, count)
