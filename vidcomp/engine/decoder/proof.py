# SPDX-License-Identifier: Apache-2.0
"""Proof that the hooks do what the plan relies on: given for a model when they are installed, and for every prefill
before its first token is chosen."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor

from vidcomp.core.library import CACHE, SUPPORTED
from vidcomp.engine.decoder.cache import CompressedCache
from vidcomp.engine.decoder.forward import Tables
from vidcomp.engine.decoder.modality_attention import AttentionBalance
from vidcomp.engine.decoder.plan import RowPlan
from vidcomp.errors import ModelError, NotApplied
from vidcomp.schedules.blocks.scoring import AttentionInput

__all__ = ["check_forward", "prove"]

_PLACES = ("layer", "end of layer", "attention", "end of attention", "cache")
_SUPPORT = f"vidcomp supports transformers {SUPPORTED}"


def prove(model: Any) -> None:
    """Send one row through the decoder of a model that carries the hooks, and count it at each of them.

    It runs on the loaded layers, wherever they live, quantised or compiled, with or without gradients as the caller has
    it, and costs one decode step.

    Raises:
        NotApplied: some hook did not see the row. ModelError: the decoder or its attention is not what hooks expect.
    """
    decoder, embed = model.get_decoder(), model.get_input_embeddings()
    device = embed.weight.device
    ids = torch.ones(1, 1, dtype=torch.long, device="cpu" if device.type == "meta" else device)  # offloaded weights
    witness = _Witness(model.config.get_text_config())
    try:
        decoder(inputs_embeds=embed(ids), attention_mask=torch.ones_like(ids), use_cache=True, **{CACHE: witness})
        missing = witness.missing()
        same = bool(missing) or witness.keys_agree()
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, TypeError, ValueError, KeyError, AttributeError) as error:
        raise ModelError(f"{type(model).__name__} cannot read a row of one token", why=str(error).split("\n")[0],
                         hint=_SUPPORT) from error  # fmt: skip
    if missing:
        raise _unreached(model, missing)
    if not same:
        raise ModelError(f"the attention of {type(model).__name__} is not what its projections say",
                         why="keys made from them differ from those in the cache", hint=_SUPPORT)  # fmt: skip


def check_forward(cache: CompressedCache, forwards: int) -> None:
    """Asked for but not applied is an error, raised before the first token of an answer can be seen.

    Args:
        cache: carries the plan and what became of it.
        forwards: how many forward passes have run on it; the prefill is the first.

    Raises:
        NotApplied: the hooks or the schedule did not run.
    """
    if forwards == 1 and 0 not in cache.measured.entered:
        raise NotApplied("the compressor's hooks did not run", why="another object took the forward pass",
                         hint="load the model again, and use the object that was loaded")  # fmt: skip
    if forwards == 1 and not cache.applied:
        raise NotApplied("the reduction inside the model did not run", why="its layer was not reached",
                         hint="--inner none")  # fmt: skip
    if forwards == 2 and cache.plan.read_layer is not None and not cache.measured.reads:
        raise NotApplied("decode steps read every key", why=f"layer {cache.plan.read_layer} did not choose any",
                         hint="--inner none")  # fmt: skip


class _Witness(CompressedCache):
    """A cache without a plan that notes which hooks found it."""

    def __init__(self, config: Any) -> None:
        plan = RowPlan(torch.zeros(1, dtype=torch.bool), config.num_hidden_layers)
        super().__init__(config, plan, AttentionBalance())
        self.seen: dict[str, set[int]] = defaultdict(set)

    def missing(self) -> dict[str, int]:
        """Number of layers that did not come by, per kind of hook; empty when all did."""
        unseen = {place: self.plan.depth - len(self.seen[place]) for place in _PLACES}
        return {place: count for place, count in unseen.items() if count}

    def keys_agree(self) -> bool:
        """True if keys that are recomputed from the projections of layer 0 equal those that it stored."""
        made, stored = self.forward.inputs[0].keys().float(), self.layer(0).stored_keys.float()
        return made.shape == stored.shape and bool((made - stored).norm() <= 0.02 * stored.norm() + 1e-6)

    def reduce_before(self, layer: int, module: Any, hidden: Tensor, rotary: Tables) -> Tensor:
        self.seen["layer"].add(layer)
        return hidden

    def after_layer(self, layer: int, hidden: Tensor) -> Tensor:
        self.seen["end of layer"].add(layer)
        return hidden

    def note_input(self, layer: int, source: AttentionInput) -> None:
        self.seen["attention"].add(layer)
        super().note_input(layer, source)

    def note_balance(self, layer: int) -> None:
        self.seen["end of attention"].add(layer)

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        self.seen["cache"].add(layer_idx)
        return super().update(key_states, value_states, layer_idx, *args, **kwargs)


def _unreached(model: Any, missing: dict[str, int]) -> NotApplied:
    place, count = next(iter(missing.items()))
    training = model.training and getattr(model, "is_gradient_checkpointing", False)
    return NotApplied(
        f"a row that was sent through {type(model).__name__} was not seen in {count} layers ({place})",
        why="gradient checkpointing takes the cache away from layers" if training
        else f"layers are not called with {CACHE}= in this model or release of transformers",
        hint="model.eval(), or model.gradient_checkpointing_disable()" if training else _SUPPORT,
    )  # fmt: skip
