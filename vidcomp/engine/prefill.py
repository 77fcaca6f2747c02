# SPDX-License-Identifier: Apache-2.0
"""The compressed sequence: survivors, separators and text in the order in which the language model reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from vidcomp.core.tokens import CompressedTokens
from vidcomp.engine.decoder import AttentionBalance, CompressedCache
from vidcomp.engine.generate import Prefill
from vidcomp.errors import UsageError
from vidcomp.families import Family
from vidcomp.families.base import Turn
from vidcomp.families.layout import Layout
from vidcomp.families.prompt import Arrangement, Prompt
from vidcomp.schedules import Schedule

__all__ = ["assembled", "check_prompt", "joined_rows"]

Cache = TypeVar("Cache", bound=CompressedCache)


@torch.no_grad()
def assembled(
    family: Family,
    layout: Layout,
    tokens: CompressedTokens,
    question: str,
    positions: str,
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
        positions: ``keep``, ``compact`` or ``ppe``.
        schedule: what is reduced inside the language model.
        history: turns before the question.
        facts: what it may know about survivors and separators, in that order, each [M + S].
        balance: notes what the answer looks at.
        members: [M, K], K members of each survivor whose positions it carries, for ``ppe``.

    Raises:
        UsageError: the sequence is longer than the model can place, or its rows have several rotary axes under ``ppe``.
    """
    prompt, separators = family.prompt(question, layout, history), family.separators().to(tokens.features)
    _check_positions(family, positions, schedule, len(family.position_rows(prompt, layout)))
    rows = prompt.arranged(tokens.positions.cpu(), layout.tokens, len(separators))
    several = None if members is None else _member_positions(family, layout, prompt, rows, members.cpu())
    joined, cache = joined_rows(
        CompressedCache, family, layout, rows, tokens, separators, family.embed(rows.text), schedule, facts or {},
        balance=balance, places=several,
    )  # fmt: skip
    places = _positions(family, layout, prompt, rows, positions)
    _check_length(family, int(places.max()) + 1, len(rows.text), layout, positions)
    ids = torch.cat([torch.full((len(tokens) + len(separators),), family.visual_id), rows.text])[rows.order]
    return Prefill(
        joined, ids, places.to(joined.device), cache, rows.order < len(tokens), len(separators),
        len(rows.text) - rows.markers, rows.markers, rows.dropped, survivor=rows.order[rows.order < len(tokens)],
    )  # fmt: skip


def joined_rows(
    kind: type[Cache],
    family: Family,
    layout: Layout,
    rows: Arrangement,
    tokens: CompressedTokens,
    separators: Tensor,
    text: Tensor,
    schedule: Schedule | None,
    facts: Mapping[str, Tensor],
    **more: Any,
) -> tuple[Tensor, Cache]:
    """Survivors [M, D], separators [s, D] and text [n, D] in the order in which the model reads them: [S, D].

    Args:
        kind: of the cache, which holds the plan for these rows.
        family, layout: the model, and the whole clip.
        rows: their order.
        schedule: what is reduced inside the language model.
        facts: what it may know about survivors and separators, in that order, each [M + s].
        more: of the cache.
    """
    joined, visual = torch.cat([tokens.features, separators, text]), len(tokens) + len(separators)
    config = family.model.config.get_text_config()
    among, survivors = (rows.order[rows.order < count].to(joined.device) for count in (visual, len(tokens)))
    cache = kind(
        config, rows.order < visual, schedule, config.num_hidden_layers,
        {name: values[among] for name, values in facts.items()},
        uncompressed=layout.slices * layout.tokens + len(separators),
        deepstack=[level[survivors] for level in tokens.deepstack], **more,
    )  # fmt: skip
    return joined[rows.order.to(joined.device)], cache


def _positions(family: Family, layout: Layout, prompt: Prompt, rows: Arrangement, policy: str) -> Tensor:
    """[1, S], or [R, 1, S] with R rotary axes: renumbered, or those of the uncompressed sequence."""
    full = family.position_rows(prompt, layout)
    if policy == "compact":
        chosen = torch.arange(rows.full.numel()).expand(len(full), -1)
    else:
        chosen = full[:, rows.full.to(full.device)]
    return chosen if len(full) == 1 else chosen[:, None]


def _member_positions(family: Family, layout: Layout, prompt: Prompt, rows: Arrangement, members: Tensor) -> Tensor:
    """[K, S]: the positions of K members for each survivor, all the same for every other row."""
    full = family.position_rows(prompt, layout)
    _, first = prompt.places(layout.tokens, len(family.separators()))
    stood = first[members // layout.tokens] + members % layout.tokens  # [M, K] in the uncompressed sequence
    places, survivor = rows.full.expand(members.shape[1], -1).clone(), rows.order < len(members)
    places[:, survivor] = stood[rows.order[survivor]].T
    return full[0, places]


def check_prompt(family: Family, question: str, policy: str, schedule: Schedule | None) -> None:
    """Raise what writing and numbering the prompt would raise for any video.

    Raises:
        UsageError: as :func:`assembled`. ModelError: the checkpoint has no usable chat template.
    """
    layout = family.layout([0.0, 1.0], 448, 448, 2.0)
    axes = len(family.position_rows(family.prompt(question, layout), layout))
    _check_positions(family, policy, schedule, axes)


def _check_positions(family: Family, policy: str, schedule: Schedule | None, axes: int) -> None:
    """Raise UsageError when rows of this model, which have so many rotary axes, cannot be numbered as asked."""
    renumbers = schedule is not None and schedule.renumbers
    if axes > 1 and (policy == "ppe" or renumbers):
        raise UsageError(
            "--positions ppe" if policy == "ppe" else "positions cannot be renumbered inside this model",
            why=f"rows have {axes} rotary axes in {family.model_type} models",
            hint="--positions keep" if policy == "ppe" else "positions=keep",
            code="bad_option",
        )


def _check_length(family: Family, needed: int, text: int, layout: Layout, policy: str) -> None:
    """The hint names what helps: rows that were dropped leave their positions behind, unless these are renumbered."""
    limit = family.position_limit
    if limit and needed > limit:
        fit = max(1, layout.frames * max(limit - text, 0) // max(needed - text, 1))
        other = "a smaller --keep" if policy == "compact" else "--positions compact, which counts only what is kept"
        raise UsageError(
            f"{needed} positions, and the model was made for {limit}",
            why=f"{layout.frames} frames and the question are too long for it",
            hint=f"--frames {fit}, or {other}" if text < limit else "a shorter question",
            code="too_long",
        )
