# SPDX-License-Identifier: Apache-2.0
"""Signals of the vision tower besides features, without attention outputs and without family code.

The config object of an attention module is swapped for a proxy that names a registered attention function. That
function sees the final queries, keys and values, hands them to the recipes of the signals that were asked for, and
delegates to the real kernel, so the features stay bit-identical.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vidcomp.tower.intercept import INTERCEPTING, Attend, intercepted

__all__ = [
    "ATTENTION_SIGNALS",
    "CLASS_SIGNALS",
    "TOWER_SIGNALS",
    "Heads",
    "attention_of",
    "encoder_layers",
    "probe_signals",
    "received_attention",
]

_SCRATCH_BYTES = 32 * 2**20
_TRUST = 30.0  # VFlowOpt's released thresholds lie between 28.7 and 39.3


@dataclass(frozen=True)
class Heads:
    """Queries, keys and values of one attention module, after any rotary embedding.

    Attributes:
        query: [B, heads, S, head_size]; key, value: [B, kv_heads, S, head_size].
        scaling: factor on the dot products.
        leading: how many of the S rows are not patches but class or register tokens, in front; row 0 is the class.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    scaling: float
    leading: int = 0

    def attended(self) -> Tensor:
        """``salience``: [B, P]."""
        return received_attention(self.query, self.key, self.scaling)[:, self.leading :]

    def class_attention(self) -> Tensor:
        """``cls_attention``: [B, P]."""
        return self._attention_of(self.query[:, :, :1]) if self.leading else self.attended()

    def summary_attention(self) -> Tensor:
        """``summary_attention``: [B, P]."""
        rows = self.query[:, :, :1] if self.leading else self.query.float().mean(2, keepdim=True)
        return self._attention_of(rows)

    def trusted_attention(self) -> Tensor:
        """``trusted_attention``: [B, P]."""
        received = received_attention(self.query, self.key, self.scaling)
        trusted = received > _TRUST * received.mean(1, keepdim=True)
        trusted |= ~trusted.any(1, keepdim=True)
        return received_attention(self.query, self.key, self.scaling, trusted)[:, self.leading :]

    def mean_keys(self) -> Tensor:
        """``keys``: [B, P, head_size]."""
        return self.key[:, :, self.leading :].float().mean(1)

    def value_norm(self) -> Tensor:
        """``value_norm``: [B, P]."""
        return self.value[:, :, self.leading :].float().mean(1).abs().sum(-1)

    def value_similarity(self) -> Tensor:
        """``value_similarity``: [B, P], from the class token's value."""
        value = self.value.float()
        return (value[:, :, :1] @ value.transpose(2, 3)).softmax(-1).mean(1)[:, 0, self.leading :]

    def _attention_of(self, query: Tensor) -> Tensor:
        """Attention of one query per head [B, heads, 1, head_size] to the patches, mean over heads: [B, P]."""
        key = _spread(self.key, query.shape[1]).float()
        scores = (query.float() @ key.transpose(2, 3)) * self.scaling
        return scores.softmax(-1).mean(1)[:, 0, self.leading :]


Recipe = Callable[[Heads], Tensor]
ATTENTION_SIGNALS: Mapping[str, Recipe] = {
    "salience": Heads.attended,
    "cls_attention": Heads.class_attention,
    "summary_attention": Heads.summary_attention,
    "trusted_attention": Heads.trusted_attention,
    "keys": Heads.mean_keys,
    "value_norm": Heads.value_norm,
    "value_similarity": Heads.value_similarity,
}
"""Signals of the last used layer's attention module."""

CLASS_SIGNALS = frozenset({"value_similarity"})
"""Those that only a tower with a class token has."""

TOWER_SIGNALS = frozenset(ATTENTION_SIGNALS) - CLASS_SIGNALS | {"cls_by_layer", "encoder_features"}
"""What :func:`probe_signals` can collect from every tower."""


def received_attention(query: Tensor, key: Tensor, scaling: float, givers: Tensor | None = None) -> Tensor:
    """Mean over heads and queries of the attention that each key receives.

    Args:
        query, key: [B, heads, N, head_size] and [B, kv_heads, N, head_size].
        scaling: factor on the dot products.
        givers: [B, N] bool, the queries that count; all of them when None.

    Returns:
        [B, N] float32; rows sum to 1. Queries are taken in blocks, so the temporary stays under 32 MB.
    """
    batch, heads, queries, _ = query.shape
    key = _spread(key, heads)
    counts = query.new_ones(batch, queries, dtype=torch.float32) if givers is None else givers.float()
    received = query.new_zeros(batch, key.shape[2], dtype=torch.float32)
    block = max(1, _SCRATCH_BYTES // (4 * batch * heads * key.shape[2]))
    for start in range(0, queries, block):
        scores = (query[:, :, start : start + block] @ key.transpose(2, 3)).float() * scaling
        weights = scores.softmax(-1)
        if givers is not None:
            weights *= counts[:, None, start : start + block, None]
        received += weights.sum((1, 2))
    return received / (heads * counts.sum(1, keepdim=True))


def _spread(key: Tensor, heads: int) -> Tensor:
    """Repeat shared heads, so that there is one for every query head."""
    return key if key.shape[1] == heads else key.repeat_interleave(heads // key.shape[1], 1)


def _noting(note: Callable[[Heads], None]) -> Attend:
    """Attention by the stock kernel, after ``note`` has seen what it works on."""

    def attend(
        kernel: Attend, query: Tensor, key: Tensor, value: Tensor, *rest: Any, scaling: float | None = None, **more: Any
    ) -> Any:
        note(Heads(query, key, value, scaling if scaling is not None else float(query.shape[-1] ** -0.5)))
        return kernel(query, key, value, *rest, scaling=scaling, **more)

    return attend


@contextmanager
def probe_signals(
    layers: nn.ModuleList, last: int, signals: frozenset[str], leading: int = 0
) -> Iterator[dict[str, Tensor]]:
    """Collect signals of every forward through a tower while the block runs.

    Args:
        layers: the tower's layers, from :func:`encoder_layers`.
        last: index of the last layer that is used.
        signals: names among ``TOWER_SIGNALS``, and ``CLASS_SIGNALS`` when there is a class token.
        leading: rows before the patches; the first is the class token.

    Yields:
        A dictionary that is empty until the block ends, then holds [B, P] or [B, P, C] per signal, P patches.
    """
    parts: dict[str, list[Tensor]] = {name: [] for name in signals}
    by_layer: list[list[Tensor]] = [[] for _ in layers[: last + 1]]

    def note(index: int) -> Callable[[Heads], None]:
        def write_down(seen: Heads) -> None:
            heads = Heads(seen.query, seen.key, seen.value, seen.scaling, leading)
            if "cls_by_layer" in signals:
                by_layer[index].append(heads.class_attention())
            if index == last:
                for name in signals & ATTENTION_SIGNALS.keys():
                    parts[name].append(ATTENTION_SIGNALS[name](heads))

        return write_down

    def keep_output(module: nn.Module, inputs: Any, output: Any) -> None:
        rows = output[0] if isinstance(output, tuple) else output
        parts["encoder_features"].append(rows.view(-1, *rows.shape[-2:])[:, leading:])  # packed towers have no batch

    found: dict[str, Tensor] = {}
    with INTERCEPTING, ExitStack() as stack:
        for index in range(last + 1) if "cls_by_layer" in signals else [last] if signals else []:
            stack.enter_context(intercepted(attention_of(layers[index]), _noting(note(index))))
        if "encoder_features" in signals:
            stack.callback(layers[last].register_forward_hook(keep_output).remove)
        yield found
    found.update({name: torch.cat(rows) for name, rows in parts.items() if rows})
    if "cls_by_layer" in signals:
        found["cls_by_layer"] = torch.stack([torch.cat(rows) for rows in by_layer], dim=-1)


def encoder_layers(tower: nn.Module) -> nn.ModuleList:
    """The tower's stack of transformer layers."""
    stacks = [m for m in tower.modules() if isinstance(m, nn.ModuleList) and len(m) and attention_of(m[0]) is not None]
    return max(stacks, key=len)


def attention_of(layer: nn.Module) -> Any:
    """The attention module of an encoder layer, None when it has none."""
    return next((getattr(layer, name) for name in ("self_attn", "attention", "attn") if hasattr(layer, name)), None)
