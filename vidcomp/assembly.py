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
    facts: Mapping[str, Tensor] | None = None,
    balance: AttentionBalance | None = None,
    spread: Tensor | None = None,
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
        facts: what it may know about survivors and separators, in that order, each [M + S].
        balance: notes what the answer looks at.
        spread: [M, K] int64, for ``ppe``: tokens whose positions each survivor carries, flat index t * N + n.
        history: turns before the question.
        facts: what it may know about survivors and separators, in that order, each [M + S].
        balance: notes what the answer looks at.
        members: [M, K], K members of each survivor whose positions it carries, for ``ppe``.

    Raises:
        UsageError: the sequence is longer than the model can place, or rows of this family have several positions.
    """
    prompt, separators = family.prompt(question, layout, history), family.separators()
    rows = prompt.arranged(tokens.positions.cpu(), layout.tokens, len(separators))
    joined = torch.cat([tokens.features, separators.to(tokens.features), family.embed(rows.text)])
    order = rows.order.to(joined.device)
    visual = rows.order < len(tokens) + len(separators)
    in_order = {name: values[order[visual.to(order.device)]] for name, values in (facts or {}).items()}
    text = family.model.config.get_text_config()
    deepstack = [level[order[order < len(tokens)]] for level in tokens.deepstack]
    several = None if spread is None else _several(family, layout, prompt, rows, spread.cpu())
    cache = CompressedCache(
        text, visual, schedule, text.num_hidden_layers, in_order, balance,
        uncompressed=layout.slices * layout.tokens + len(separators), deepstack=deepstack, places=several,
    )  # fmt: skip
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


def _several(family: Family, layout: Layout, prompt: Prompt, rows: Arrangement, spread: Tensor) -> Tensor:
    """Positions [K, S] of each row: those of K members for a survivor, K times its own for any other row."""
    full = family.position_rows(prompt, layout)
    if len(full) > 1:
        why = f"a row of {family.model_type} models has {len(full)} positions already"
        raise UsageError("--positions ppe", why=why, hint="--positions keep", code="bad_option")
    _, starts = prompt.places(layout.tokens)
    survivors = rows.order < len(spread)
    places = rows.full.repeat(spread.shape[1], 1)
    members = spread[rows.order[survivors]]
    places[:, survivors] = (starts[members // layout.tokens] + members % layout.tokens).T
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
