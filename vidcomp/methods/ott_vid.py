# SPDX-License-Identifier: Apache-2.0
"""OTT-Vid: attended tokens that cover their frame, merged back in time along an optimal transport.

Paper: "OTT-Vid: Optimal Transport Temporal Token Compression for Video Large Language Models". Needs: salience.

In plain words, for a keep ratio r:
1. Every frame keeps K = N * r ** (1 - share) tokens, chosen one by one: the next one is the token that adds most to
   how well all tokens of the frame are covered, each by its most similar chosen one, weighted by salience.
2. A chosen token's mass is low when many attended tokens have it, and no other, as their cover: a softmax over
   ``mass``.
3. For neighbouring frames, entropic optimal transport between their chosen tokens, by mass; the cost mixes cosine and
   distance on the grid, the more of the first the more the frames differ.
4. What is still too many is merged: pairs of frames get merges by a softmax of minus their transport cost over
   ``budget``; within a pair the strongest entries of the transport are taken, each token of the later frame once. It
   joins the token of the earlier frame where their cost is at most ``threshold``, else it is dropped with all that had
   joined it.
A survivor is the mean of its tokens, and stands where the earliest of them stood. Survivors are in raster order.

Merges go back in time, so the first frame keeps K whatever happens. Not as published: the number is exact (published:
by the rounding of two ports, ``official``); every frame but the first may lose its last token where the budget is
smaller than K + T - 1, which the published code exceeds; a single frame keeps its budget, not K; the grid is the true
one (the LLaVA port assumes 13 x 13).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vidcomp.core.budget import guarded_floor, token_budget
from vidcomp.core.source import Source
from vidcomp.core.tokens import Reduction, TokenView
from vidcomp.methods.base import Method, Parity, exact_unless, signal
from vidcomp.methods.blocks.merge import mean_of_members
from vidcomp.methods.blocks.similarity import block_bytes, cosines

__all__ = ["OttVid", "Pairs", "covering", "masses", "merge_budgets"]

_SMALL = 1e-8


@dataclass(frozen=True)
class OttVid(Method):
    """Exactly the ceiling of ``keep * T * N`` tokens.

    Attributes:
        share: how much of the reduction is left to merging over time, in [0, 1].
        mass: temperature of step 2, above 0; None for equal masses.
        budget: temperature of step 4, above 0.
        threshold: greatest cost at which a token joins; None lets all join.
        eps: weight of the entropy in the transport, above 0.
        iterations: rounds of Sinkhorn, at least 1.
        official: ``qwen`` or ``llava``, the counts of that published port, and with ``llava`` its masses, for which the
            attention of tokens that were not chosen is lost.
    """

    share: float = 0.3
    mass: float | None = 0.3
    budget: float = 0.3
    threshold: float | None = 0.3
    eps: float = 0.01
    iterations: int = 200
    official: str | None = None

    name: ClassVar[str] = "ott_vid"
    summary: ClassVar[str] = "keeps tokens that cover their frame, and merges them back in time by optimal transport"
    source: ClassVar[Source] = Source("OTT-Vid", arxiv="2605.11803", code="https://github.com/minseokii/OTT-Vid")
    needs: ClassVar[frozenset[str]] = frozenset({"salience"})
    exact: ClassVar[bool] = exact_unless("official")
    parity: ClassVar[Parity] = "goldens"
    equal_with: ClassVar[str] = "official=qwen or official=llava"
    differs: ClassVar[str] = "meets the budget exactly"

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ValueError(f"share must be in [0, 1], got {self.share}")
        if not (self.budget > 0 and self.eps > 0 and (self.mass is None or self.mass > 0)):
            raise ValueError("mass, budget and eps must be above 0")
        if not isinstance(self.iterations, int) or self.iterations < 1:
            raise ValueError(f"iterations must be a whole number of at least 1, got {self.iterations!r}")
        if self.official not in (None, "qwen", "llava"):
            raise ValueError(f"official must be qwen or llava, got {self.official!r}")

    def __call__(self, view: TokenView, keep: float) -> Reduction:
        """Choose, transport and merge."""
        features = view.features.detach()
        frames, tokens = features.shape[:2]
        each, target = self._counts(frames, tokens, keep)
        weight = signal(view, "salience", self.name).float().nan_to_num(nan=0.0).clamp(min=0)
        table = [cosines(frame, frame) for frame in features]
        chosen = covering(table, weight, each).sort(dim=1).values  # [T, each]
        anchor = torch.full((frames, tokens), -1, device=chosen.device)
        own = chosen + torch.arange(frames, device=chosen.device)[:, None] * tokens
        anchor.scatter_(1, chosen, own)
        if frames > 1 and (surplus := frames * each - target) > 0:
            known = _unknown_averaged(weight, chosen) if self.official == "llava" else weight
            mass = masses(table, known, chosen, self.mass)
            pairs = Pairs.of(features, chosen, view.grid, mass, self.eps, self.iterations)
            floor = 1 if self.official or target >= each + frames - 1 else 0
            caps = np.full(frames - 1, each - floor)
            merges = merge_budgets(pairs.total.cpu().double().numpy(), caps, surplus, self.budget)
            anchor.scatter_(1, chosen, self._roots(pairs, own, merges))
        return mean_of_members(anchor.flatten())

    def _counts(self, frames: int, tokens: int, keep: float) -> tuple[int, int]:
        """Tokens per frame after step 1, and survivors."""
        target = token_budget(frames * tokens, keep)
        spatial = keep ** (1 - self.share)
        each = min(tokens, max(1, guarded_floor(tokens * spatial)))
        if self.official == "qwen":
            return each, min(frames * each, max(1, round(frames * tokens * keep)))
        if self.official == "llava":
            each = min(tokens, max(1, round(tokens * spatial)))
            return each, min(frames * each, max(1, round(frames * each * (keep / spatial))))
        return min(target, max(each, -(-target // frames)) if frames > 1 else target), target

    def _roots(self, pairs: Pairs, own: Tensor, merges: NDArray[np.int64]) -> Tensor:
        """[T, K] flat index of the survivor that each chosen token joins, -1 for a dropped one."""
        value, partner = pairs.plan.max(dim=1)  # [P, K], of each token of the later frame
        rank = value.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        taken = rank < torch.from_numpy(merges).to(rank.device)[:, None]
        root = own.clone()
        for pair in range(len(partner)):
            above = root[pair, partner[pair]]
            if self.threshold is not None:
                joins = pairs.cost[pair].gather(0, partner[pair][None])[0] <= self.threshold
                above = torch.where(joins, above, -1)
            root[pair + 1] = torch.where(taken[pair], above, root[pair + 1])
        return root


def covering(table: list[Tensor], weight: Tensor, count: int) -> Tensor:
    """Step 1 of the module: [T, count] int64 in the order of choosing, of equals the lower index.

    Args:
        table: T tables of cosines [N, N]; weight: [T, N], not negative.
    """
    frames, tokens = weight.shape
    weight = weight / (weight.sum(dim=1, keepdim=True) + _SMALL)
    step, found = max(1, block_bytes(weight.device) // (4 * tokens * tokens)), []
    for low in range(0, frames, step):
        cosine = torch.stack(table[low : low + step])
        covered = torch.zeros(cosine.shape[:2], device=weight.device)
        free, picks = torch.zeros_like(covered), []
        for _ in range(count):
            added = (cosine - covered[:, None]).clamp_(min=0)  # symmetric, so row j is what token j covers
            gain = added.mul_(weight[low : low + step, None]).sum(dim=2)
            best = (gain + free).argmax(dim=1, keepdim=True)
            picks.append(best)
            free.scatter_(1, best, -torch.inf)
            covered = torch.maximum(covered, cosine.gather(1, best[:, :, None].expand(-1, 1, tokens))[:, 0])
        found.append(torch.cat(picks, dim=1))
    return torch.cat(found)


def masses(table: list[Tensor], weight: Tensor, chosen: Tensor, temperature: float | None) -> Tensor:
    """Step 2 of the module: [T, K] float32, each frame sums to one."""
    if temperature is None:
        return torch.full(chosen.shape, 1 / chosen.shape[1], device=chosen.device)
    found = []
    for cosine, share, picks in zip(table, weight / (weight.sum(dim=1, keepdim=True) + _SMALL), chosen, strict=True):
        best, index = cosine[:, picks].topk(min(2, len(picks)), dim=1)
        margin = best[:, 0] - (best[:, 1] if len(picks) > 1 else 0.0)
        part = torch.zeros(len(picks), device=cosine.device)
        part.index_add_(0, index[:, 0], share * margin.clamp(min=0))
        found.append((-part / (part.max() + _SMALL) / temperature).softmax(dim=0))
    return torch.stack(found)


def _unknown_averaged(weight: Tensor, chosen: Tensor) -> Tensor:
    """Salience [T, N] of the chosen tokens, and their mean for all others."""
    some = weight.gather(1, chosen)
    return some.mean(dim=1, keepdim=True).expand_as(weight).scatter(1, chosen, some)


@dataclass(frozen=True)
class Pairs:
    """Neighbouring frames, P = T - 1: cost and transport [P, K, K] (row: the earlier frame), mix [P], total [P].

    Attributes:
        mix: weight of unlikeness against distance.
        cost: of moving one unit of mass.
        plan: mass that is moved.
        total: cost of the whole plan.
    """

    mix: Tensor
    cost: Tensor
    plan: Tensor
    total: Tensor

    @classmethod
    def of(
        cls, features: Tensor, chosen: Tensor, grid: tuple[int, int], mass: Tensor, eps: float, iterations: int
    ) -> Pairs:
        """Step 3 of the module."""
        place = torch.stack([chosen // grid[1] / max(1, grid[0] - 1), chosen % grid[1] / max(1, grid[1] - 1)], dim=2)
        mix, cost = [], []
        for at in range(len(features) - 1):
            one, two = features[at].float(), features[at + 1].float()
            change = 1 - torch.cosine_similarity(one, two, dim=1).mean()
            mix.append(0.5 + 0.5 * change.clamp(0, 1))
            unlike = 1 - cosines(features[at, chosen[at]], features[at + 1, chosen[at + 1]]).clamp(min=0)
            cost.append(mix[at] * unlike + (1 - mix[at]) * torch.cdist(place[at], place[at + 1]) / 2**0.5)
        costs = torch.stack(cost)
        plan = transport(costs, mass[:-1], mass[1:], eps, iterations)
        return cls(torch.stack(mix), costs, plan, (plan * costs).sum(dim=(1, 2)))


def transport(cost: Tensor, before: Tensor, after: Tensor, eps: float, iterations: int) -> Tensor:
    """Entropic optimal transport [P, K, K] between masses [P, K], by Sinkhorn in logarithms."""
    kernel = -cost / eps
    log_before, log_after = ((mass / mass.sum(dim=1, keepdim=True)).clamp(min=1e-30).log() for mass in (before, after))
    left = torch.zeros_like(log_before)
    for _ in range(iterations):
        right = log_after - (kernel + left[:, :, None]).logsumexp(dim=1)
        left = log_before - (kernel + right[:, None, :]).logsumexp(dim=2)
    return (kernel + left[:, :, None] + right[:, None, :]).exp()


def merge_budgets(
    cost: NDArray[np.float64], caps: NDArray[np.int64], total: int, temperature: float
) -> NDArray[np.int64]:
    """Merges of each of P pairs, at most ``caps`` and ``total`` in all, by a softmax of minus their cost: [P]."""
    given, left = np.zeros(len(caps), dtype=np.int64), min(total, int(caps.sum()))
    while left > 0:
        open_ = given < caps
        share = np.where(open_, np.exp((cost[open_].min() - cost) / temperature), 0.0)
        exact = share / share.sum() * left
        counts = np.floor(exact + 1e-9).astype(np.int64)
        fraction = np.where(open_, np.round(exact - counts, 9), -1.0)
        counts[np.argsort(-fraction, kind="stable")[: left - counts.sum()]] += 1
        counts = np.minimum(counts, caps - given)
        given, left = given + counts, left - int(counts.sum())
    return given
