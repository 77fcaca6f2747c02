# SPDX-License-Identifier: Apache-2.0
"""Visual tokens, what a method decided about them, and the one place where they are gathered and merged.

Dimension letters used in the whole package: T frames, N tokens per frame, D width of the language model, M survivors.
A flat index is ``t * N + n``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from vidcomp.core.arguments import checked, expect, typed

__all__ = [
    "CompressedTokens",
    "Links",
    "Reduction",
    "Span",
    "TokenView",
    "apply_reduction",
    "compose",
    "identity",
    "merge_rows",
    "sum_bags",
]


@dataclass(frozen=True)
class Span:
    """Consecutive frames treated together, both ends included.

    ``static`` counts the positions that stay similar over the whole span and are stored once.

    Attributes:
        start, end: frame indices, both included.
        static: positions that stay similar over the whole span and are stored once.
    """

    start: int
    end: int
    static: int = 0

    def __post_init__(self) -> None:
        for item in fields(self):
            object.__setattr__(self, item.name, typed(f"Span: {item.name}", getattr(self, item.name), int))
        if not 0 <= self.start <= self.end:
            raise ValueError(f"a span needs 0 <= start <= end, got {self.start}..{self.end}")

    def __iter__(self) -> Iterator[int]:
        return iter((self.start, self.end))

    def __len__(self) -> int:
        return self.end - self.start + 1


@dataclass(frozen=True)
class TokenView:
    """The visual tokens of one video as the language model would see them, and the signals that methods may ask for.

    Everything per token comes from the last used layer of the vision tower, brought to the grid of the features by the
    same pooling. "Class" is the tower's class token; attention is softmax attention, mean over heads. A signal is added
    only when a method's source asks for it.

    Attributes:
        features: [T, N, D], after projector and pooling, any float dtype.
        grid: (H, W) with H * W == N, row-major.
        times: [T] seconds, presentation time of each frame.
        salience: [T, N], attention that each token receives, mean over all queries.
        cls_attention: [T, N], attention of the class token on each patch; towers without one (SigLIP) have
            ``salience`` here, as the published ports of such methods do.
        cls_by_layer: [T, N, L], ``cls_attention`` of each of the L layers that run, first to last.
        summary_attention: [T, N], attention of whatever sums a frame up: the class token, else the mean of all queries
            (softmax of the mean query's products, not the mean of the softmax).
        trusted_attention: [T, N], attention that each token receives from the patches that themselves receive more than
            30 times the mean, or from all where there are none.
        keys: [T, N, K], keys, mean over heads.
        value_norm: [T, N], sum of absolute entries of the values, which are averaged over heads first.
        value_similarity: [T, N], softmax over the tokens of the class value's products with every value, without a
            scale, mean over heads; only towers with a class token have it.
        encoder_features: [T, N, C], the tower's output before the projector.
        frame_features: [T, F], one vector per frame: what the segmenter saw, region after region, when a network is
            named; else the mean of the frame's features.
        query: [L, D], input embeddings of the question's own tokens, without the chat template.
        deepstack: [T, N, D] each, added to the tokens after the first layers of the language model. No signal: it
            follows the features wherever they go.
        spans: those that the method is to work in, side by side over all frames; none where it finds its own.

    Raises:
        ValueError: shapes or spans that do not fit together.
    """

    features: Tensor
    grid: tuple[int, int]
    times: Tensor
    salience: Tensor | None = None
    cls_attention: Tensor | None = None
    cls_by_layer: Tensor | None = None
    summary_attention: Tensor | None = None
    trusted_attention: Tensor | None = None
    keys: Tensor | None = None
    value_norm: Tensor | None = None
    value_similarity: Tensor | None = None
    encoder_features: Tensor | None = None
    frame_features: Tensor | None = None
    query: Tensor | None = None
    deepstack: tuple[Tensor, ...] = ()
    spans: tuple[Span, ...] = ()

    def __post_init__(self) -> None:
        for item in fields(self):
            value, optional = getattr(self, item.name), item.default is None
            if item.name not in ("grid", "deepstack", "spans"):
                good = isinstance(value, Tensor) or (value is None and optional)
                expect(f"TokenView: {item.name}", value, good, "a tensor or None" if optional else "a tensor")
        pair = (
            isinstance(self.grid, (tuple, list)) and len(self.grid) == 2 and all(isinstance(n, int) for n in self.grid)
        )
        expect("TokenView: grid", self.grid, pair, "(rows, columns)")
        if self.features.dim() != 3 or 0 in self.features.shape:
            raise ValueError(f"features must be [T, N, D] and not empty, got {list(self.features.shape)}")
        frames, tokens, width = self.features.shape
        if self.grid[0] * self.grid[1] != tokens:
            raise ValueError(f"grid {self.grid} does not hold {tokens} tokens")
        ends = [-1, *(span.end for span in self.spans)]
        if self.spans and ([span.start for span in self.spans], frames) != (
            [end + 1 for end in ends[:-1]],
            ends[-1] + 1,
        ):
            raise ValueError(f"spans must lie side by side over all {frames} frames")
        for name, value in {"times": self.times, **self.signals}.items():
            if name == "query":
                if value.dim() != 2 or value.shape[1] != width:
                    raise ValueError(f"query must be [L, {width}], got {list(value.shape)}")
                continue
            lead = (frames,) if name in ("times", "frame_features") else (frames, tokens)
            if tuple(value.shape[: len(lead)]) != lead:
                raise ValueError(f"{name} must start with {list(lead)}, got {list(value.shape)}")

    @property
    def signals(self) -> dict[str, Tensor]:
        """The signals that this view carries, by name."""
        named = {item.name: getattr(self, item.name) for item in fields(self)[3:]}
        return {name: value for name, value in named.items() if isinstance(value, Tensor)}

    @property
    def total(self) -> int:
        """T * N, the uncompressed number of tokens."""
        return self.features.shape[0] * self.features.shape[1]

    def __repr__(self) -> str:
        return f"TokenView(features={list(self.features.shape)}, grid={self.grid}, signals={list(self.signals)})"


@dataclass(frozen=True)
class Links:
    """Further contributions to survivors, for rules in which one token feeds several of them.

    Attributes:
        token: [E] int64, flat index of the giver.
        survivor: [E] int64, 0..M-1.
        weight: [E] float32, share of the token in that survivor.
    """

    token: Tensor
    survivor: Tensor
    weight: Tensor


@dataclass(frozen=True)
class Reduction:
    """A method's decision. Data about tokens, not their features: everything else follows from it.

    Attributes:
        anchors: [M] int64, flat index of each survivor, in the order the language model reads them.
        assign: [T * N] int64, the survivor (0..M-1) that absorbed each token, -1 for a dropped one.
        weights: [T * N] float32, share of each token in its survivor.
        spans: the spans the method worked on, covering all frames, if it uses spans.
        raster: True when anchors must be ascending; a method that reproduces another published order says False.
        more: contributions beyond ``assign``, None in most methods. A token that only feeds several survivors a little
            still belongs to one of them in ``assign``, with its weight there.

    Raises:
        ValueError: no survivor, repeated or unsorted anchors, an index out of range, a weight that is not finite.
    """

    anchors: Tensor
    assign: Tensor
    weights: Tensor
    spans: tuple[Span, ...] = ()
    raster: bool = True
    more: Links | None = None

    def __post_init__(self) -> None:
        for name in ("anchors", "assign", "weights"):
            expect(f"Reduction: {name}", getattr(self, name), isinstance(getattr(self, name), Tensor), "a tensor")
        survivors, total = self.anchors.numel(), self.assign.numel()
        if self.anchors.dim() != 1 or self.assign.dim() != 1 or self.weights.shape != self.assign.shape:
            raise ValueError("a reduction holds anchors [M], assign [T*N] and weights [T*N]")
        if not 1 <= survivors <= total:
            raise ValueError(f"a reduction keeps between 1 and {total} tokens, not {survivors}")
        if (fault := self._fault(total)) is not None:
            raise ValueError(fault)

    def _fault(self, total: int) -> str | None:
        ordered = self.anchors if self.raster else self.anchors.sort().values
        survivors = self.anchors.numel()
        checks = torch.stack(  # one transfer to the host for all checks
            [
                (ordered[:1] >= 0).all() & (ordered[-1:] < total).all(),
                (ordered[1:] > ordered[:-1]).all(),
                (self.assign >= -1).all() & (self.assign < survivors).all(),
                torch.isfinite(self.weights).all(),
                *([] if self.more is None else [_links_fit(self.more, survivors, total)]),
            ]
        ).tolist()
        messages = (
            "anchors outside the video",
            "anchors repeat" + (" or are not ascending" if self.raster else ""),
            "assign outside the survivors",
            "weights that are not finite",
            "links outside the video or the survivors, or of weights that are not finite",
        )
        return next((text for good, text in zip(checks, messages, strict=False) if not good), None)

    @property
    def kept(self) -> int:
        """M, the number of survivors."""
        return self.anchors.numel()

    @property
    def members(self) -> Tensor:
        """[M] int64, how many tokens each survivor stands for, by ``assign``."""
        owned = self.assign[self.assign >= 0]
        return torch.zeros_like(self.anchors).index_add_(0, owned, torch.ones_like(owned))

    def in_raster_order(self) -> Reduction:
        """The same decision with survivors sorted by their flat index."""
        order = self.anchors.argsort()
        rank = torch.empty_like(order)
        rank[order] = torch.arange(order.numel(), device=order.device)
        assign = torch.where(self.assign >= 0, rank[self.assign.clamp(min=0)], self.assign)
        more = self.more and replace(self.more, survivor=rank[self.more.survivor])
        return Reduction(self.anchors[order], assign, self.weights, self.spans, more=more)

    def __repr__(self) -> str:
        return f"Reduction(kept={self.kept}, of={self.assign.numel()}, spans={len(self.spans)})"


def _links_fit(links: Links, survivors: int, total: int) -> Tensor:
    """[] bool: every link leads from a token of the video to a survivor, with a finite weight."""
    inside = (links.token >= 0) & (links.token < total) & (links.survivor >= 0) & (links.survivor < survivors)
    return (inside & torch.isfinite(links.weight)).all()


@dataclass(frozen=True)
class CompressedTokens:
    """Survivors after gathering and merging.

    Attributes:
        features: [M, D] in the dtype of the view.
        positions: [M] int64, flat index t * N + n at which each survivor stands.
        members: [M] int64, how many original tokens each survivor stands for, itself included.
        deepstack: [M, D] each, gathered and merged like the features.
    """

    features: Tensor
    positions: Tensor
    members: Tensor
    deepstack: tuple[Tensor, ...] = ()

    def __len__(self) -> int:
        return self.features.shape[0]


@checked
def apply_reduction(view: TokenView, reduction: Reduction) -> CompressedTokens:
    """Gather and merge: survivor m = sum of ``weights[i] * features[i]`` over the tokens assigned or linked to m, in
    float32.

    Args:
        view: features [T, N, D].
        reduction: a decision about the same T * N tokens.

    Returns:
        features [M, D] in the view's dtype, with their positions and member counts.

    Raises:
        ValueError: the reduction is about another number of tokens, or a merged feature is not finite.
    """
    expect("view", view, isinstance(view, TokenView), "a TokenView")
    expect("reduction", reduction, isinstance(reduction, Reduction), "a Reduction")
    flat = view.features.reshape(view.total, -1)  # [T*N, D]
    if reduction.assign.numel() != view.total:
        raise ValueError(f"the reduction is about {reduction.assign.numel()} tokens, the view holds {view.total}")
    owner, weights, index = reduction.assign, reduction.weights, None
    if (more := reduction.more) is not None:
        index = torch.cat([torch.arange(view.total, device=owner.device), more.token])
        owner, weights = torch.cat([owner, more.survivor]), torch.cat([weights, more.weight])
    merged = merge_rows(flat, owner, weights, reduction.kept, index)
    if not all(math.isfinite(extreme) for extreme in torch.stack(merged.aminmax()).tolist()):
        raise ValueError("merged features are not finite")
    dtype, levels = view.features.dtype, (level.reshape(view.total, -1) for level in view.deepstack)
    deepstack = tuple(merge_rows(level, owner, weights, reduction.kept, index).to(dtype) for level in levels)
    return CompressedTokens(merged.to(dtype), reduction.anchors, reduction.members, deepstack)


def merge_rows(rows: Tensor, owner: Tensor, weights: Tensor, count: int, index: Tensor | None = None) -> Tensor:
    """Weighted sums of rows by owner, in float32, in a fixed order of addition on every device.

    Args:
        rows: [R, D] any float dtype.
        owner: [E] int64, the sum (0..count-1) that each entry belongs to, -1 for none.
        weights: [E] float32.
        count: number of sums.
        index: [E] int64, the row of each entry; None when entry i is row i.

    Returns:
        [count, D] float32; a sum without rows is zero.
    """
    used = (owner >= 0).nonzero()[:, 0]
    order = used[owner[used].argsort(stable=True)]
    first = torch.searchsorted(owner[order], torch.arange(count, device=owner.device))
    return sum_bags(rows, order if index is None else index[order], first, weights[order])


def sum_bags(rows: Tensor, order: Tensor, first: Tensor, weights: Tensor) -> Tensor:
    """:func:`merge_rows` for a ready list: sum b adds rows[order[i]] * weights[i] for first[b] <= i < first[b + 1].

    One read of the rows that are used and no copy of them in float32; other dtypes are widened in blocks of columns.

    Args:
        rows: [R, D]; order: [U] int64; first: [B] int64, starts with 0; weights: [U] float32.

    Returns:
        [B, D] float32.
    """
    if rows.device.type == "mps":  # has no embedding_bag
        bag = torch.searchsorted(first, torch.arange(order.numel(), device=first.device), right=True) - 1
        sums = rows.new_zeros(first.numel(), rows.shape[1], dtype=torch.float32)
        return sums.index_add_(0, bag, rows[order].float() * weights[:, None])
    if rows.dtype == torch.float32:
        return embedding_bag(order, rows, first, mode="sum", per_sample_weights=weights)
    limit = 4 << 20 if rows.device.type == "cpu" else 256 << 20  # of one block: a CPU's cache, or enough work for a GPU
    step = max(1, limit // (4 * max(1, order.numel())))
    every = torch.arange(order.numel(), device=order.device)
    sums = rows.new_empty(first.numel(), rows.shape[1], dtype=torch.float32)
    for at in range(0, rows.shape[1], step):
        wide = rows[:, at : at + step].index_select(0, order).float()
        sums[:, at : at + step] = embedding_bag(every, wide, first, mode="sum", per_sample_weights=weights)
    return sums


def identity(frames: int, tokens: int, device: torch.device | str = "cpu") -> Reduction:
    """The reduction that keeps all T * N tokens as they are."""
    every = torch.arange(frames * tokens, device=device)
    return Reduction(every, every.clone(), torch.ones(frames * tokens, device=device))


def compose(kept_frames: Tensor, source: Tensor, inner: Reduction, tokens: int) -> Reduction:
    """Express a decision about the encoded frames as one about all frames of the video.

    A frame that was not encoded is absorbed, position by position, by the encoded frame that stands for it: the copies
    share its weight, so that features stay as the method merged them, and member counts are those of all frames. The
    method itself weighs every encoded frame once, however many frames it stands for.

    Args:
        kept_frames: [E] int64, original index of each encoded frame, ascending.
        source: [T] int64, for each original frame the encoded frame (0..E-1) that stands for it.
        inner: decision about E * N tokens.
        tokens: N.

    Returns:
        A decision about T * N tokens, with spans in original frame indices.
    """
    position = torch.arange(tokens, device=source.device)
    flat = (source[:, None] * tokens + position).reshape(-1)  # [T*N] index into the encoded tokens
    copies = torch.zeros_like(kept_frames).index_add_(0, source, torch.ones_like(source))
    weights = inner.weights[flat] / copies[source].repeat_interleave(tokens)
    anchors = kept_frames[inner.anchors // tokens] * tokens + inner.anchors % tokens
    last = [int(frame) for frame in kept_frames[1:].tolist()] + [source.numel()]
    first = kept_frames.tolist()
    spans = tuple(Span(first[s.start] if s.start else 0, last[s.end] - 1, s.static) for s in inner.spans)
    more = inner.more and _copied_links(inner.more, source, copies, tokens)
    return Reduction(anchors, inner.assign[flat], weights, spans, inner.raster, more)


def _copied_links(links: Links, source: Tensor, copies: Tensor, tokens: int) -> Links:
    """Links from encoded tokens as links from all frames: the copies of a frame share its weight."""
    frame, position = links.token // tokens, links.token % tokens
    times = copies[frame]
    place = torch.arange(int(times.sum()), device=frame.device) - (times.cumsum(0) - times).repeat_interleave(times)
    first = torch.searchsorted(source, frame)  # source does not fall
    token = (first.repeat_interleave(times) + place) * tokens + position.repeat_interleave(times)
    return Links(token, links.survivor.repeat_interleave(times), (links.weight / times).repeat_interleave(times))
