# SPDX-License-Identifier: Apache-2.0
"""Any method's decision brought to an exact number of survivors.

A method that decides by thresholds, or rounds per frame, keeps what it finds; comparisons at equal tokens, and
``--keep-tokens``, need a number. From its decision, whatever the method:

- Too many: the least important survivors go. Important is what the vision tower attended to, summed over the members;
  where the view carries no attention, what is unlike the survivors before it. A method that drops tokens loses them
  with their members; one that absorbs every token joins them to the most similar of those that stay, and a survivor's
  weight in the other is its number of members. Where spans are given, they join inside their span or not at all.
- Too few: the tokens that are least like any survivor come back as they are, in :data:`ROUNDS` rounds, so that the
  later ones differ from the earlier ones too. A token that had been absorbed leaves its survivor, whose other shares
  grow to one again. Each is read behind the last survivor of its frame.

Cost: every token against every survivor, in blocks; nothing where the number is met already.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from vidcomp.core.budget import even_split
from vidcomp.core.tokens import Links, Reduction, Span, TokenView
from vidcomp.methods.blocks.similarity import block_bytes, cosines

__all__ = ["ROUNDS", "fitted"]

ROUNDS = 8
_ATTENTION = ("cls_attention", "summary_attention", "salience")


def fitted(view: TokenView, reduction: Reduction, count: int) -> Reduction:
    """The same decision with exactly ``count`` survivors.

    Args:
        view: the tokens that were decided about.
        reduction: what a method decided.
        count: from 1 to T * N.

    Raises:
        ValueError: a count outside its range, or a reduction of other tokens.
    """
    if not 1 <= count <= view.total or reduction.assign.numel() != view.total:
        raise ValueError(
            f"cannot keep {count} of {view.total} tokens, {reduction.assign.numel()} of them decided about"
        )
    rows = view.features.detach().flatten(0, 1)
    if reduction.kept > count:
        return _fewer(view, reduction, _importance(view, rows, reduction), count)
    return _more(rows, reduction, count, view.features.shape[1]) if reduction.kept < count else reduction


def _importance(view: TokenView, rows: Tensor, reduction: Reduction) -> Tensor:
    """[M]: how much each survivor matters."""
    attention = next((view.signals[name] for name in _ATTENTION if name in view.signals), None)
    if attention is None:
        return -_nearest_before(rows[reduction.anchors])
    owned = reduction.assign >= 0
    mass = torch.zeros(reduction.kept, device=rows.device, dtype=torch.float32)
    return mass.index_add_(0, reduction.assign[owned], attention.detach().flatten().float()[owned])


def _nearest_before(points: Tensor) -> Tensor:
    """[M]: largest cosine of each of [M, D] with an earlier one; of two that are alike only the later is so."""
    found = torch.full((len(points),), -torch.inf, device=points.device)
    step = _step(points, len(points))
    for low in range(0, len(points), step):
        table = cosines(points[low : low + step], points[: low + step])
        earlier = torch.ones_like(table, dtype=torch.bool).tril(low - 1)
        found[low : low + step] = table.masked_fill(~earlier, -torch.inf).amax(dim=1)
    return found


def _fewer(view: TokenView, reduction: Reduction, importance: Tensor, count: int) -> Reduction:
    stays = torch.zeros(reduction.kept, dtype=torch.bool, device=importance.device)
    stays[importance.argsort(descending=True, stable=True)[:count]] = True
    number = torch.where(stays, stays.cumsum(0) - 1, -1)
    scale = stays.float()
    if bool((reduction.assign >= 0).all()) and reduction.kept < reduction.assign.numel():  # nothing is ever dropped
        left, gone = stays.nonzero()[:, 0], (~stays).nonzero()[:, 0]
        number[gone] = _host(view, reduction.anchors[gone], reduction.anchors[left])
        members = reduction.members.float() * (number >= 0)
        scale = members / torch.zeros(count, device=number.device).index_add_(0, number.clamp(min=0), members)[number]
    return _renumbered(reduction, reduction.anchors[stays], number, scale)


def _host(view: TokenView, gone: Tensor, left: Tensor) -> Tensor:
    """For each of the tokens ``gone`` the place in ``left`` of the most similar one of its span, -1 where none is."""
    rows, tokens = view.features.detach().flatten(0, 1), view.features.shape[1]
    found = torch.full_like(gone, -1)
    for span in view.spans or (Span(0, len(view.features) - 1),):
        here, there = (
            ((flat >= span.start * tokens) & (flat < (span.end + 1) * tokens)).nonzero()[:, 0] for flat in (gone, left)
        )
        if len(here) and len(there):
            found[here] = there[_nearest(rows, gone[here], left[there])[1]]
    return found


def _renumbered(reduction: Reduction, anchors: Tensor, number: Tensor, scale: Tensor) -> Reduction:
    """Survivor m becomes ``number[m]``, -1 for none, and its shares ``scale[m]`` of what they were; both [M]."""
    owner = reduction.assign.clamp(min=0)
    assign = torch.where(reduction.assign >= 0, number[owner], -1)
    weights = torch.where(assign >= 0, reduction.weights * scale[owner], 0.0)
    more = reduction.more
    if more is not None:
        more = _links(more.token, number[more.survivor], more.weight * scale[more.survivor])
    return _owned(replace(reduction, anchors=anchors, assign=assign, weights=weights, more=more))


def _links(token: Tensor, survivor: Tensor, weight: Tensor) -> Links | None:
    """Those that lead somewhere, None without any."""
    good = (survivor >= 0) & (weight > 0)
    return Links(token[good], survivor[good], weight[good]) if bool(good.any()) else None


def _owned(reduction: Reduction) -> Reduction:
    """A token that lost its survivor and feeds others still belongs to the first of those."""
    more = reduction.more
    if more is None:
        return reduction
    free = reduction.assign[more.token] < 0
    entry = torch.arange(more.token.numel(), device=free.device)
    first = torch.full_like(reduction.assign, entry.numel())
    first = first.scatter_reduce(0, more.token[free], entry[free], "amin")
    orphans = (first < entry.numel()).nonzero()[:, 0]
    taken = first[orphans]
    assign, weights = reduction.assign.clone(), reduction.weights.clone()
    assign[orphans], weights[orphans] = more.survivor[taken], more.weight[taken]
    rest = torch.ones_like(free)
    rest[taken] = False
    links = _links(more.token[rest], more.survivor[rest], more.weight[rest])
    return replace(reduction, assign=assign, weights=weights, more=links)


def _more(rows: Tensor, reduction: Reduction, count: int, tokens: int) -> Reduction:
    back = _least_alike(rows, reduction.anchors, count - reduction.kept)
    left = torch.ones_like(reduction.assign, dtype=torch.bool)
    left[back] = False
    assign = torch.where(left, reduction.assign, -1)
    weights, more = torch.where(left, reduction.weights, 0.0), reduction.more
    if more is not None:
        more = _links(more.token, torch.where(left[more.token], more.survivor, -1), more.weight)
    remaining = _whole(reduction.anchors, assign, weights, more)
    return _inserted(remaining, reduction, back, tokens)


def _whole(anchors: Tensor, assign: Tensor, weights: Tensor, more: Links | None) -> tuple[Tensor, Tensor, Links | None]:
    """Shares of every survivor sum to one again; one of which nothing is left is its anchor alone."""
    owner = assign.clamp(min=0)
    total = torch.zeros(len(anchors), device=weights.device).index_add_(0, owner, weights)
    if more is not None:
        total.index_add_(0, more.survivor, more.weight)
    empty = total <= 0
    weights = weights.index_add(0, anchors, empty.float())
    scale = torch.where(empty, 1.0, 1 / total)
    more = more and replace(more, weight=more.weight * scale[more.survivor])
    return assign, torch.where(assign >= 0, weights * scale[owner], 0.0), more


def _inserted(
    remaining: tuple[Tensor, Tensor, Links | None], reduction: Reduction, back: Tensor, tokens: int
) -> Reduction:
    """Tokens ``back`` as survivors of their own, each read behind the last survivor of its frame or an earlier one."""
    assign, weights, more = remaining
    anchors = torch.cat([reduction.anchors, back])
    order = anchors.argsort() if reduction.raster else _reading_order(reduction.anchors, back, tokens)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device)
    assign = torch.where(assign >= 0, rank[assign.clamp(min=0)], -1)
    assign[back], weights = rank[reduction.kept :], weights.index_fill(0, back, 1.0)
    more = more and replace(more, survivor=rank[more.survivor])
    return replace(reduction, anchors=anchors[order], assign=assign, weights=weights, more=more)


def _reading_order(anchors: Tensor, back: Tensor, tokens: int) -> Tensor:
    """Order of the survivors [M] as they are and of what came back, ``anchors`` first in the numbering."""
    place = torch.arange(len(anchors), device=anchors.device)
    frames = int(torch.cat([anchors, back]).max()) // tokens + 1
    last = torch.full((frames,), -1, device=anchors.device).scatter_reduce(0, anchors // tokens, place, "amax")
    behind = last.cummax(0).values[back // tokens]
    key = torch.cat([place, behind]) * 2 + torch.cat([torch.zeros_like(place), torch.ones_like(back)])
    by_position = torch.cat([place, back.argsort() + len(anchors)])
    return by_position[key[by_position].argsort(stable=True)]


def _least_alike(rows: Tensor, anchors: Tensor, missing: int) -> Tensor:
    """``missing`` tokens that are no anchors, those first whose most similar survivor is least similar."""
    free = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
    free[anchors] = False
    others = free.nonzero()[:, 0]
    likeness, new, found = torch.full((len(others),), -torch.inf, device=rows.device), anchors, []
    for part in even_split(missing, min(ROUNDS, missing)).tolist():
        likeness = torch.maximum(likeness, _nearest(rows, others, new)[0])
        order = likeness.argsort(stable=True)
        new, rest = others[order[:part]], order[part:].sort().values
        others, likeness = others[rest], likeness[rest]
        found.append(new)
    return torch.cat(found)


def _nearest(rows: Tensor, some: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """For each token of ``some`` [m] the largest cosine with ``targets`` [k], and which; of equals the first."""
    best = [cosines(rows[part], rows[targets]).max(dim=1) for part in torch.split(some, _step(rows, len(targets)))]
    return torch.cat([pair.values for pair in best]), torch.cat([pair.indices for pair in best])


def _step(rows: Tensor, columns: int) -> int:
    """Rows of a table at a time that fit into a block."""
    return max(1, block_bytes(rows.device) // (4 * max(columns, rows.shape[1])))
