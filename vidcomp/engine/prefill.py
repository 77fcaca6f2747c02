# SPDX-License-Identifier: Apache-2.0
"""The compressed sequence: survivors, separators and text in the order in which the language model reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from vidcomp.core.tokens import CompressedTokens
from vidcomp.engine.decoder import AttentionBalance, CompressedCache, RowPlan
from vidcomp.engine.generate import Prefill
from vidcomp.engine.positions import PositionPolicy
from vidcomp.errors import UsageError
from vidcomp.families import Family
from vidcomp.families.base import Turn
from vidcomp.families.layout import Layout
from vidcomp.families.prompt import Arrangement
from vidcomp.schedules import Schedule

__all__ = ["assembled", "check_prompt", "joined_rows"]


@torch.no_grad()
def assembled(
    family: Family,
    layout: Layout,
    tokens: CompressedTokens,
    question: str,
    policy: PositionPolicy,
    schedule: Schedule | None = None,
    *,
    history: Sequence[Turn] = (),
    facts: Mapping[str, Tensor] | None = None,
    balance: AttentionBalance | None = None,
    members: Tensor | None = None,
) -> Prefill:
    """Input rows, position ids and an empty cache holding the plan, ready for the stock ``generate``.

    Args:
        family: writes the prompt, counts positions.
        layout: of the whole clip.
        tokens: survivors, [M, D].
        question: plain text.
        policy: where survivors stand.
        schedule: what is reduced inside the language model.
        history: turns before the question.
        facts: what it may know about survivors and separators, in that order, each [M + S].
        balance: notes what the answer looks at.
        members: [M, K], K members of each survivor whose positions it carries, for ``ppe``.

    Raises:
        UsageError: the sequence is longer than the model can place.
    """
    prompt, separators = family.prompt(question, layout, history), family.separators().to(tokens.features)
    rows = prompt.arranged(tokens.positions.cpu(), layout.tokens, len(separators))
    full = family.position_rows(prompt, layout)
    several = None
    if members is not None:
        first = prompt.places(layout.tokens, len(separators))[1]
        several = full[0, _member_rows(rows, first, members.cpu(), layout.tokens)]
    joined, plan = joined_rows(
        family, layout, rows, tokens, separators, family.embed(rows.text), schedule, facts or {}, positions=several
    )
    cache = CompressedCache(family.model.config.get_text_config(), plan, balance)
    places = policy.ids(full if len(full) == 1 else full[:, None], rows.full)
    _check_length(family, int(places.max()) + 1, len(rows.text), layout, policy)
    ids = torch.cat([torch.full((len(tokens) + len(separators),), family.visual_id), rows.text])[rows.order]
    return Prefill(
        joined, ids, places.to(joined.device), cache, rows.order < len(tokens), len(separators),
        len(rows.text) - rows.markers, rows.markers, rows.dropped, survivor=rows.order[rows.order < len(tokens)],
    )  # fmt: skip


def joined_rows(
    family: Family,
    layout: Layout,
    rows: Arrangement,
    tokens: CompressedTokens,
    separators: Tensor,
    text: Tensor,
    schedule: Schedule | None,
    facts: Mapping[str, Tensor],
    **more: Any,
) -> tuple[Tensor, RowPlan]:
    """Survivors [M, D], separators [s, D] and text [n, D] in the order in which the model reads them: [S, D], and the
    plan for these rows.

    Args:
        family, layout: the model, and the whole clip.
        rows: their order.
        schedule: what is reduced inside the language model.
        facts: what it may know about survivors and separators, in that order, each [M + s].
        more: of the plan.
    """
    joined, visual = torch.cat([tokens.features, separators, text]), len(tokens) + len(separators)
    among, survivors = (rows.order[rows.order < count].to(joined.device) for count in (visual, len(tokens)))
    plan = RowPlan(
        rows.order < visual, family.shape.layers, schedule, {name: values[among] for name, values in facts.items()},
        layout.slices * layout.tokens + len(separators), [level[survivors] for level in tokens.deepstack], **more,
    )  # fmt: skip
    return joined[rows.order.to(joined.device)], plan


def _member_rows(rows: Arrangement, first: Tensor, members: Tensor, tokens: int) -> Tensor:
    """[K, S]: where each row's members stand in the uncompressed sequence; rows without any stand for themselves.

    Args:
        rows: the sequence that is read.
        first: [T], where the tokens of each slice begin in the uncompressed sequence.
        members: [M, K], flat indices of the tokens whose positions a survivor carries.
        tokens: N.
    """
    stood = first[members // tokens] + members % tokens
    places, survivor = rows.full.expand(members.shape[1], -1).clone(), rows.order < len(members)
    places[:, survivor] = stood[rows.order[survivor]].T
    return places


def check_prompt(family: Family, question: str) -> None:
    """Raise what writing and numbering the prompt would raise for any video.

    Raises:
        ModelError: the checkpoint has no usable chat template.
    """
    layout = family.layout([0.0, 1.0], 448, 448, 2.0)
    family.position_rows(family.prompt(question, layout), layout)


def _check_length(family: Family, needed: int, text: int, layout: Layout, policy: PositionPolicy) -> None:
    """The hint names what helps: rows that were dropped leave their positions behind, unless these are renumbered."""
    limit = family.position_limit
    if limit and needed > limit:
        fit = max(1, layout.frames * max(limit - text, 0) // max(needed - text, 1))
        other = "a smaller --keep" if policy.renumbers else "--positions compact, which counts only what is kept"
        raise UsageError(
            f"{needed} positions, and the model was made for {limit}",
            why=f"{layout.frames} frames and the question are too long for it",
            hint=f"--frames {fit}, or {other}" if text < limit else "a shorter question",
            code="too_long",
        )
