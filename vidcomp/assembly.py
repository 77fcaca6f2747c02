"""The compressed sequence: survivors, separators and text in the order in which the language model reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from vidcomp.errors import UsageError
from vidcomp.generation import Prefill
from vidcomp.inllm import AttentionBalance, CompressedCache, Schedule
from vidcomp.models import Family
from vidcomp.models.base import Turn
from vidcomp.models.layout import Layout
from vidcomp.models.prompt import Arrangement, Prompt
from vidcomp.tokens import CompressedTokens

__all__ = ["assembled"]


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
    prompt, separators = family.prompt(question, layout, history), family.separators()
    rows = prompt.arranged(tokens.positions.cpu(), layout.tokens, len(separators))
    joined = torch.cat([tokens.features, separators.to(tokens.features), family.embed(rows.text)])
    order = rows.order.to(joined.device)
    visual = rows.order < len(tokens) + len(separators)
    in_order = {name: values[order[visual.to(order.device)]] for name, values in (facts or {}).items()}
    text = family.model.config.get_text_config()
    deepstack = [level[order[order < len(tokens)]] for level in tokens.deepstack]
    whole = layout.slices * layout.tokens + len(separators)
    several = None if members is None else _member_positions(family, layout, prompt, rows, members.cpu())
    cache = CompressedCache(
        text, visual, schedule, text.num_hidden_layers, in_order, balance, whole, deepstack, several
    )
    places = _positions(family, layout, prompt, rows, positions)
    _check_length(family, int(places.max()) + 1, layout)
    ids = torch.cat([torch.full((len(tokens) + len(separators),), family.visual_id), rows.text])[rows.order]
    return Prefill(
        joined[order], ids, places.to(joined.device), cache, rows.order < len(tokens), len(separators),
        len(rows.text) - rows.markers, rows.markers, rows.dropped,
    )  # fmt: skip


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
    if len(full) > 1:
        raise UsageError(
            "--positions ppe",
            why=f"rows have {len(full)} rotary axes in {family.model_type} models",
            hint="--positions keep",
            code="bad_option",
        )
    _, first = prompt.places(layout.tokens, len(family.separators()))
    stood = first[members // layout.tokens] + members % layout.tokens  # [M, K] in the uncompressed sequence
    places, survivor = rows.full.expand(members.shape[1], -1).clone(), rows.order < len(members)
    places[:, survivor] = stood[rows.order[survivor]].T
    return full[0, places]


def _check_length(family: Family, needed: int, layout: Layout) -> None:
    limit = family.position_limit
    if limit and needed > limit:
        raise UsageError(
            f"{needed} positions, and the model was made for {limit}",
            why=f"{layout.frames} frames and the question are too long for it",
            hint="fewer --frames, a smaller --keep, or --positions compact",
            code="too_long",
        )
