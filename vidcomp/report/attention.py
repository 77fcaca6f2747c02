# SPDX-License-Identifier: Apache-2.0
"""Attention of the answer, as a table and as JSON: MDI and AEI of every layer, compressed beside uncompressed."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from vidcomp.engine.decoder import AttentionBalance, LayerBalance
from vidcomp.report.sheet import Sheet

__all__ = ["attention_record", "render_attention"]

_NOTE = (
    "MDI: attention of a text key over that of a visual key, above 1 text dominates. AEI: share of the attention over "
    "share of the keys. Fewer visual keys move both by arithmetic alone."
)


def attention_record(compressed: AttentionBalance, plain: AttentionBalance | None) -> dict[str, Any]:
    """As in ``report --attention --json``; ``plain`` is the uncompressed run, None when there was none."""
    record: dict[str, Any] = {"compressed": _runs(compressed)}
    if plain is not None:
        record["plain"] = _runs(plain)
    return record


def _runs(balance: AttentionBalance) -> dict[str, Any]:
    groups = {name: _numbers(group) for name, group in balance.groups().items()}
    return {"layers": [_numbers(layer) for layer in balance.layers()], "groups": groups}


def _numbers(layer: LayerBalance) -> dict[str, float | None]:
    return {
        "text_mass": layer.text_mass, "visual_mass": layer.visual_mass, "text_keys": layer.text_keys,
        "visual_keys": layer.visual_keys, "mdi": layer.mdi, "aei_text": layer.aei_text,
        "aei_visual": layer.aei_visual,
    }  # fmt: skip


def render_attention(compressed: AttentionBalance, plain: AttentionBalance | None) -> RenderableType:
    """One line per layer, then the early, middle and late layers together."""
    columns = ("visual keys", "on vision", "MDI", "AEI text", "AEI vision")
    table = Sheet("layer", *columns, *(("plain on vision", "plain MDI") if plain else ()))
    beside = _labelled(plain) if plain else {}
    for label, layer in _labelled(compressed).items():
        other = beside.get(label)
        more = (f"{other.visual_mass:.1%}", _ratio(other.mdi)) if other else ()
        table.add_row(label, *_cells(layer), *more)
    return Group(table, Text(_NOTE))


def _labelled(balance: AttentionBalance) -> dict[str, LayerBalance]:
    return {**{str(index): layer for index, layer in enumerate(balance.layers())}, **balance.groups()}


def _cells(layer: LayerBalance) -> tuple[str, ...]:
    ratios = (layer.mdi, layer.aei_text, layer.aei_visual)
    return (f"{layer.visual_keys:.0f}", f"{layer.visual_mass:.1%}", *(_ratio(value) for value in ratios))


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
