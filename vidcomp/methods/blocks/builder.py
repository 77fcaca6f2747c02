# SPDX-License-Identifier: Apache-2.0
"""A reduction in the making, for methods that merge over spans of frames and within frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vidcomp.core.tokens import Reduction, Span, sum_bags
from vidcomp.methods.blocks.dpc_knn import Fetch, blend_shares, ranked_groups
from vidcomp.methods.blocks.select import listed

__all__ = ["ClusterRule", "Draft"]

_STATIC, _SINGLE, _CLUSTERED = range(3)  # kinds of survivors, in the order in which a frame lists them


@dataclass(frozen=True)
class ClusterRule:
    """Rule of clustering.

    Attributes:
        k: neighbours of the density.
        beta: weight of the centre, None for the plain mean.
        capped: whether there are no more neighbours than clusters.
        ranked: list clusters by falling density * separation of their centres, groups of more than this many tokens;
            None lists them by position.
    """

    k: int
    beta: float | None
    capped: bool = True
    ranked: int | None = None


class Draft:
    """Tables over T frames and N positions, on the device of the features.

    ``anchor`` [T, N] holds the flat index of each token's survivor, ``weight`` [T, N] its share in it. ``kinds``
    [T, 3, N] marks the survivors; read in order, the marks list span by span the tokens merged over frames, then frame
    by frame the single tokens and the clusters within the frame, each by position.
    """

    def __init__(self, features: Tensor, rule: ClusterRule) -> None:
        frames, self.tokens, self.width = features.shape
        self.rule, self.device = rule, features.device
        self.rows = features.reshape(-1, self.width)  # [T*N, D]
        self.every = torch.arange(frames * self.tokens, device=self.device).reshape(frames, self.tokens)
        self.anchor = torch.full_like(self.every, -1)
        self.weight = torch.zeros(self.every.shape, device=self.device)
        self.kinds = torch.zeros(frames, 3, self.tokens, dtype=torch.bool, device=self.device)
        self.key = self.every[0].repeat(frames, 1)  # what survivors of one frame and kind are ordered by

    def put(self, table: NDArray[np.generic]) -> Tensor:
        """A host table on the device."""
        return torch.from_numpy(np.ascontiguousarray(table)).to(self.device, non_blocking=True)

    def keep(self, chosen: Tensor) -> None:
        """Keep the tokens marked in ``chosen`` [T, N] as they are."""
        self.kinds[:, _SINGLE] = chosen
        self.anchor = torch.where(chosen, self.every, self.anchor)
        self.weight = torch.where(chosen, 1.0, self.weight)

    def merge_spans(self, spans: Sequence[Span], static: NDArray[np.bool_], counts: NDArray[np.int64]) -> None:
        """Average the static tokens of each span over its frames, cluster the averages, and drop those of count zero.

        Args:
            spans: S spans that cover all frames; static: [S, N]; counts: [S] survivors.
        """
        groups = np.flatnonzero(counts)
        if not groups.size:
            return
        chosen = [spans[group] for group in groups.tolist()]
        places = np.argsort(~static[groups], axis=1, kind="stable")  # static positions first, ascending
        sizes = static[groups].sum(axis=1)

        def means(low: int, high: int, most: int) -> Tensor:
            lists = [_bags(chosen[i], places[i, : sizes[i]], most, self.tokens) for i in range(low, high)]
            order, lengths, weights = (self.put(np.concatenate(column)) for column in zip(*lists, strict=True))
            return sum_bags(self.rows, order, lengths.cumsum(0) - lengths, weights).reshape(-1, most, self.width)

        owner, rank = self._cluster(sizes, counts[groups], means)
        start = self.put(np.array([span.start for span in chosen]))
        centre, share = self._tables(self.put(places[:, : sizes.max()]), sizes, owner, rank, start)  # [G, N]
        self.kinds[start, _STATIC] = centre == self.every[0]
        lengths = [len(span) for span in spans]
        row = np.zeros(len(spans), dtype=np.int64)
        row[groups] = np.arange(groups.size)
        row_of_frame = self.put(row.repeat(lengths))
        merged = self.put((static & (counts > 0)[:, None]).repeat(lengths, axis=0))  # [T, N]
        share = share / self.put(np.array(lengths, dtype=np.float32)[groups])[:, None]
        self.anchor = torch.where(merged, (centre + start[:, None] * self.tokens)[row_of_frame], self.anchor)
        self.weight = torch.where(merged, share[row_of_frame], self.weight)

    def merge_frames(self, left: Tensor, sizes: NDArray[np.int64], counts: NDArray[np.int64]) -> None:
        """Cluster tokens within each frame, and leave frames of count zero as they are.

        Args:
            left: [T, N] bool, tokens to cluster; sizes: [T], how many they are; counts: [T] survivors.
        """
        frames = np.flatnonzero(counts)
        if not frames.size:
            return
        sizes = sizes[frames]
        index = self.put(frames)
        places = (~left[index]).byte().argsort(dim=1, stable=True)[:, : sizes.max()]  # [G, P], tokens to cluster first

        def tokens(low: int, high: int, most: int) -> Tensor:
            rows = self.rows[self.every[index[low:high, None], places[low:high, :most]]].float()
            return rows - rows[:, :1]

        owner, rank = self._cluster(sizes, counts[frames], tokens)
        centre, share = self._tables(places, sizes, owner, rank, index)  # [G, N]
        member = centre >= 0
        self.kinds[index, _CLUSTERED] = centre == self.every[0]
        self.anchor[index] = torch.where(member, centre + index[:, None] * self.tokens, self.anchor[index])
        self.weight[index] = torch.where(member, share, self.weight[index])

    def _cluster(self, sizes: NDArray[np.int64], counts: NDArray[np.int64], fetch: Fetch) -> tuple[Tensor, Tensor]:
        return ranked_groups(sizes, counts, self.rule.k, fetch, self.width, self.device, self.rule.capped)

    def _tables(
        self, places: Tensor, sizes: NDArray[np.int64], owner: Tensor, rank: Tensor, frames: Tensor
    ) -> tuple[Tensor, Tensor]:
        """From members to positions.

        Args:
            places: [G, P] position of each member, padded at the end; sizes: [G]; owner, rank: [G, P].
            frames: [G], where the survivors stand.

        Returns:
            [G, N] position of the centre that each position belongs to, -1 for none; [G, N] share in its cluster.
        """
        size = self.put(sizes)
        share = blend_shares(owner, size, self.rule.beta)
        inside = torch.arange(owner.shape[1], device=self.device) < size[:, None]
        target = places.where(inside, self.tokens)  # padding goes to an extra column
        if self.rule.ranked is not None:
            ranked = inside & (size[:, None] > self.rule.ranked)
            table = torch.cat([self.key[frames], self.key[frames, :1]], dim=1)
            self.key[frames] = table.scatter(1, target, rank.where(ranked, places))[:, :-1]
        centre = places.new_full((len(sizes), self.tokens + 1), -1).scatter_(1, target, places.gather(1, owner))
        shares = share.new_zeros(len(sizes), self.tokens + 1).scatter_(1, target, share)
        return centre[:, :-1], shares[:, :-1]

    def finish(self, spans: tuple[Span, ...]) -> Reduction:
        """Number the survivors in the order of the marks."""
        return listed(self.kinds, self.anchor, self.weight, spans, None if self.rule.ranked is None else self.key)


def _bags(span: Span, places: NDArray[np.int64], most: int, tokens: int) -> tuple[NDArray[np.generic], ...]:
    """Terms to add up for each of a span's static positions: its mean over the frames, minus one token of the span.

    Returns:
        flat indices of tokens, lengths of the bags padded to ``most`` bags, weights.
    """
    frames = np.arange(span.start, span.end + 1)
    order = np.empty((places.size, frames.size + 1), dtype=np.int64)
    order[:, :-1] = places[:, None] + frames * tokens
    order[:, -1] = order[0, 0]
    weights = np.full(order.shape, 1 / frames.size, dtype=np.float32)
    weights[:, -1] = -1
    lengths = np.zeros(most, dtype=np.int64)
    lengths[: places.size] = order.shape[1]
    return order.ravel(), lengths, weights.ravel()
