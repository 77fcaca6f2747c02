# SPDX-License-Identifier: Apache-2.0
"""A KV cache that carries the plan of a reduction through the decoder; the hooks on its layers ask it what to do."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from vidcomp.engine.decoder.forward import Forward, Rotary, Tables
from vidcomp.engine.decoder.frozen import freeze_rows
from vidcomp.engine.decoder.layer import CompressedLayer
from vidcomp.engine.decoder.masks import fit_mask, text_mask
from vidcomp.engine.decoder.measured import Measured
from vidcomp.engine.decoder.modality_attention import AttentionBalance
from vidcomp.engine.decoder.multi_position import grouped_tables
from vidcomp.engine.decoder.plan import RowPlan
from vidcomp.errors import ModelError, NotApplied
from vidcomp.schedules.base import Cut
from vidcomp.schedules.blocks.rows import ranks_of, take_rows
from vidcomp.schedules.blocks.scoring import Attention, AttentionInput
from vidcomp.schedules.state import Stage

__all__ = ["CompressedCache"]


class CompressedCache(DynamicCache):
    """Stock cache layers that know their columns, and one request's plan, state and measurements.

    All sequences of a batch share the plan: beams, or several samples of one prompt. Different prompts side by side are
    :class:`~vidcomp.engine.decoder.joined_cache.JoinedCache`'s.

    Attributes:
        plan: settled before the prefill, never changed.
        forward: the pass that runs now, or ran last.
        measured: what all passes did.
        memory: what the schedule keeps from stage to stage and from step to step.
        balance: notes what the answer's rows look at, None for nothing.
    """

    def __init__(self, config: Any, plan: RowPlan, balance: AttentionBalance | None = None) -> None:
        super().__init__(config=config)
        self.layers = [CompressedLayer() if type(layer) is DynamicLayer else layer for layer in self.layers]
        self.plan, self.balance, self.measured = plan, balance, Measured()
        self.memory: dict[str, Any] = {}
        none = torch.empty(1, 0, dtype=torch.int64)
        self.forward = Forward(0, 0, 0, prefilling=False, visual=none, origin=none)
        self._announced = False  # whether the hooks announced the pass that layer 0 is about to store
        self._spread: Tables | None = None  # tables of several positions per row

    # -- what the hooks call, in this order

    def start_forward(self, hidden: Tensor, positions: Tensor | None = None, rotary: Rotary | None = None) -> None:
        """Begin a pass of [B, S, D] with the position ids of its rows and the decoder's rotary embedding."""
        (batch, length), past = hidden.shape[:2], self.get_seq_length(0)
        visual, origin = self.forward.visual, self.forward.origin
        if past == 0:
            if length != self.plan.length:
                raise ModelError(f"the prefill holds {length} rows, the plan {self.plan.length}",
                                 why="the sequence was changed between planning and generation")  # fmt: skip
            visual, origin = self.first_rows(batch, hidden.device)
            self.measured.survivors[0] = visual
        self.forward = Forward(batch, length, past, past == 0, visual, origin, positions, rotary)
        self._announced = True

    def first_rows(self, batch: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Places of the visual rows of a prefill, and their numbers in the plan: [B, V] each."""
        visual = self.plan.visual.to(device).expand(batch, -1)
        return visual, torch.arange(visual.shape[1], device=device).expand_as(visual)

    def before_layer(
        self, layer: int, module: Any, hidden: Tensor, mask: Any, rotary: Tables
    ) -> tuple[Tensor, Any, Tables]:
        """Rows, mask and rotary tables that ``layer`` reads, from those of layer 0's geometry."""
        cos, sin = self._own_tables(rotary)
        rotary = cos.to(hidden.device), sin.to(hidden.device)
        hidden = self.reduce_before(layer, module, hidden, rotary)
        mask, tables = self._cut_to_layer(layer, mask, rotary)
        if layer in self.plan.frozen and self.forward.prefilling and self.forward.visual.shape[1]:
            return self._freeze(layer, module, hidden, mask, tables)
        return hidden, mask, tables

    def watches(self, layer: int) -> bool:
        """True if the attention of ``layer`` has to leave its input behind."""
        if self.balance is not None:
            return True
        if self.forward.prefilling:
            return layer in self.plan.watched
        return self.forward.length == 1 and layer + 1 == self.plan.read_layer

    def note_input(self, layer: int, source: AttentionInput) -> None:
        """Keep what the attention of a watched layer is about to see."""
        self.forward.inputs[layer] = source

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Store new keys and values; hand out those that this layer reads in this step.

        Raises:
            NotApplied: the model carries no hooks; it would read a mask and positions that do not fit.
        """
        if layer_idx == 0 and not self._announced:
            raise NotApplied("the cache of a compressed prompt was used without the compressor",
                             why="the compress() block has ended, or the model was closed; hooks know what is left",
                             hint="go on inside the block, or begin anew with the whole prompt")  # fmt: skip
        self._announced = self._announced and layer_idx != 0
        if layer_idx in self.forward.frozen:
            key_states, value_states = self.forward.frozen[layer_idx].join(key_states, value_states)
        keys, values = super().update(key_states, value_states, layer_idx, *args, **kwargs)
        reading = self.forward.reading
        if reading is None or self.plan.read_layer is None or layer_idx < self.plan.read_layer:
            return keys, values
        index = reading.to(keys.device)[:, None, :, None].expand(-1, keys.shape[1], -1, keys.shape[3])
        return keys.gather(2, index), values.gather(2, index)

    def note_balance(self, layer: int) -> None:
        """Note what the newest row looked at in this layer, behind its attention."""
        inputs = self.forward.inputs
        if self.balance is None or layer not in inputs:
            return
        keys = self.layer(layer).stored_keys
        visual = torch.isin(self.layer(layer).key_columns(keys), self.plan.visual.to(keys.device))
        self.balance.note(layer, Attention(inputs[layer], keys).last_row(), visual)
        if layer not in self.plan.watched and layer + 1 != self.plan.read_layer:
            del inputs[layer]

    def after_layer(self, layer: int, hidden: Tensor) -> Tensor:
        """Put rows that waited beside a frozen layer back among the updated ones."""
        waiting = self.forward.frozen.pop(layer, None)
        return hidden if waiting is None else waiting.back(hidden)

    # -- what the request asks

    def layer(self, index: int) -> CompressedLayer:
        """The keys and values of a decoder layer."""
        return cast(CompressedLayer, self.layers[index])

    def lengths(self) -> list[int]:
        """Keys now held by each layer."""
        return [self.layer(index).held for index in range(len(self.layers))]

    @property
    def applied(self) -> bool:
        """True if everything that the schedule asks of a prefill happened; without visual rows nothing has to."""
        return (self.plan.stages | self.plan.frozen) <= self.measured.reached or not self.plan.visual.numel()

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Follow the beams."""
        super().reorder_cache(beam_idx)  # type: ignore[arg-type]
        self._each_memory(lambda kept: kept.index_select(0, beam_idx.to(kept.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every sequence."""
        super().batch_repeat_interleave(repeats)
        self._each_memory(lambda kept: kept.repeat_interleave(repeats, 0))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some sequences."""
        super().batch_select_indices(indices)
        self._each_memory(lambda kept: kept[indices.to(kept.device)])

    # -- what caches of other requests do otherwise

    def reduce_before(self, layer: int, module: Any, hidden: Tensor, rotary: Tables) -> Tensor:
        """Add levels and reduce before ``layer`` where the plan says so: [B, S, D] to [B, R, D]."""
        self.forward.follow(hidden.device)
        if self.forward.prefilling:
            hidden = self.add_levels(layer, hidden)
            if layer in self.plan.stages:
                with self.measured.reducing(layer):
                    hidden = self.cut(layer, module, hidden, rotary)
            self.measured.entered[layer] = self.measured.updated[layer] = hidden.shape[1]
        elif layer == self.plan.read_layer and self.forward.length == 1:
            self._choose_reads(layer)
        self.forget_inputs(layer)
        return hidden

    def add_levels(self, layer: int, hidden: Tensor) -> Tensor:
        """Add the DeepStack level that follows the layer before this one: [B, R, D]."""
        plan, forward = self.plan, self.forward
        if not 0 < layer <= len(plan.deepstack):
            return hidden
        hidden = forward.add(plan.deepstack[layer - 1], hidden)
        if plan.beside is not None:
            hidden = forward.add_beside(plan.beside[0], plan.beside[1][layer - 1], hidden)
        return hidden

    def cut(self, layer: int, module: Any, hidden: Tensor, rotary: Tables) -> Tensor:
        """Let the schedule decide, and carry it out: [B, R, D] to the rows that stay."""
        decision = self.decide(layer, module, hidden, rotary)
        if decision is None:
            return hidden
        hidden = self.forward.cut(decision, hidden)
        self.measured.survivors[layer] = self.forward.survivors()
        return hidden

    def decide(self, layer: int, module: Any, hidden: Tensor, rotary: Tables) -> Cut | None:
        """Ask the schedule about the rows [B, R, D] that are about to enter ``layer``."""
        plan, forward = self.plan, self.forward
        if not forward.visual.shape[1]:
            return None

        def coming() -> Attention:
            tables = self._tables(layer, rotary)
            source = AttentionInput(module.self_attn, module.input_layernorm(hidden), *tables)
            return Attention(source, source.keys())

        assert plan.schedule is not None
        self._each_memory(lambda kept: kept.to(hidden.device))
        stage = Stage(
            layer, plan.depth, hidden, forward.visual, forward.origin, plan.visual.numel(), plan.total,
            self.rows_after(), plan.facts, self.memory, partial(self._attention_of, device=hidden.device), coming,
        )  # fmt: skip
        cut = plan.schedule.reduce(stage)
        if cut is not None:
            cut.check(forward.visual.shape[1])
        return cut

    def rows_after(self) -> int:
        """Rows of text behind the video."""
        return self.plan.after

    def forget_inputs(self, layer: int) -> None:
        """Let go of attention inputs that no later stage asks for."""
        if not any(stage > layer for stage in self.plan.stages):
            self.forward.inputs.clear()

    # -- inside

    def _own_tables(self, rotary: Tables) -> Tables:
        """The rotary tables of this pass, those of several positions per row where the plan asks for them."""
        forward, several = self.forward, self.plan.positions
        if several is None or not forward.prefilling:
            return rotary
        if self._spread is None:
            self._spread = grouped_tables(forward.numbered()[0], rotary[0], several)
        return self._spread

    def _cut_to_layer(self, layer: int, mask: Any, rotary: Tables) -> tuple[Any, Tables]:
        """Stock mask and rotary tables, which have the geometry of layer 0, for this layer's rows and keys."""
        forward, stored = self.forward, self.layer(layer)
        if forward.rows is None and stored.columns is None and forward.reading is None:
            return mask, rotary
        new = forward.new_columns(rotary[0])
        columns = torch.cat([stored.key_columns(new), new], 1)
        if forward.rows is not None:
            stored.columns, stored.tail = columns, forward.past + forward.length
        if forward.reading is not None:
            columns = columns.gather(1, forward.reading.to(columns.device))
        return fit_mask(mask, columns, forward.rows), self._tables(layer, rotary)

    def _freeze(self, layer: int, module: Any, hidden: Tensor, mask: Any, tables: Tables) -> tuple[Tensor, Any, Tables]:
        """Set the visual rows aside: rows, mask and tables of the text alone."""
        waiting = self.forward.frozen[layer] = freeze_rows(module, hidden, self.forward.visual, tables)
        text = waiting.text
        self.measured.updated[layer] = text.shape[1]
        self.measured.reached.add(layer)
        own = take_rows(tables[0], text), take_rows(tables[1], text)
        return take_rows(hidden, text), text_mask(mask, text, hidden.shape[1]), own

    def _attention_of(self, layer: int, device: torch.device) -> Attention:
        """Of a layer that may live elsewhere, with rows and keys on ``device``."""
        if layer not in self.forward.inputs:
            raise ModelError(f"nothing was seen of the attention in layer {layer}",
                             why="its attention module was not called as expected")  # fmt: skip
        return Attention(self.forward.inputs[layer].to(device), self.layer(layer).stored_keys.to(device))

    def _choose_reads(self, layer: int) -> None:
        """Ask the schedule which visual keys this decode step reads from ``layer`` on."""
        stored = self.layer(layer)
        device = stored.stored_keys.device
        visual = self.plan.visual.to(device).expand(self.forward.batch, -1)
        assert self.plan.schedule is not None
        kept = self.plan.schedule.read(self._attention_of(layer - 1, device).last_row().gather(1, visual), self.memory)
        self.measured.reached.add(layer)
        self.measured.reads.append((visual.shape[1], visual.shape[1] if kept is None else kept.shape[1]))
        if kept is None:
            return
        total = stored.held + 1  # the new row's key is about to come
        wanted = torch.ones(len(visual), total, dtype=torch.bool, device=device)
        wanted.scatter_(1, visual, False).scatter_(1, visual.gather(1, kept), True)
        self.forward.reading = ranks_of(wanted, total - visual.shape[1] + kept.shape[1])

    def _tables(self, layer: int, rotary: Tables) -> Tables:
        """Rotary tables of the present rows: their own, or those of positions without gaps."""
        forward, stored = self.forward, self.layer(layer)
        if not self.plan.renumbers or (forward.rows is None and stored.lag is None):
            rows = forward.rows
            return rotary if rows is None else (take_rows(rotary[0], rows), take_rows(rotary[1], rows))
        key = forward.length - (stored.lag or 0) if forward.rows is None else forward.rows.shape[1]
        if key not in forward.compact:  # once for all layers behind a stage
            forward.compact[key] = _without_gaps(forward, rotary[0], stored.lag or 0)
        (cos, sin), stored.lag = forward.compact[key]
        return cos.to(rotary[0].device), sin.to(rotary[0].device)

    def _each_memory(self, move: Callable[[Tensor], Tensor]) -> None:
        moved = {name: move(kept) for name, kept in self.memory.items() if isinstance(kept, Tensor)}
        self.memory.update(moved)


def _without_gaps(forward: Forward, like: Tensor, lag: int) -> tuple[Tables, int]:
    """Tables of renumbered rows, and how far the last of them lags behind its own position."""
    rotary, positions = forward.numbered()
    if forward.rows is None:
        return rotary(like, positions - lag), lag
    compact = positions[:, :1] + torch.arange(forward.rows.shape[1], device=positions.device)
    return rotary(like, compact), int(positions[0, -1] - compact[0, -1])
