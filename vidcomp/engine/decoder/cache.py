# SPDX-License-Identifier: Apache-2.0
"""A KV cache that carries the plan of an in-LLM reduction and remembers which rows each layer still holds.

Words: a *column* is an index on the timeline of layer 0, which is never reduced. A reduced layer stores a static map of
its first keys to columns; every later key is the contiguous run that follows, so decode steps need no bookkeeping.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor
from transformers import DynamicCache

from vidcomp.engine.decoder.frozen import Parked, park
from vidcomp.engine.decoder.masks import fit_mask, text_mask
from vidcomp.engine.decoder.modality_attention import AttentionBalance
from vidcomp.engine.decoder.multi_position import grouped_tables
from vidcomp.errors import ModelError, NotApplied, UsageError
from vidcomp.schedules.base import Cut, Schedule
from vidcomp.schedules.blocks.rows import add_rows, ranks_of, take_rows
from vidcomp.schedules.blocks.scoring import Attention, AttentionInput
from vidcomp.schedules.state import Stage

__all__ = ["CompressedCache"]

Tables = tuple[Tensor, Tensor]


class CompressedCache(DynamicCache):
    """Carries which rows are visual and where they are reduced; the layer hooks ask it what to do.

    Args:
        config: text config of the model.
        visual: [S] bool on the CPU, the visual rows of the coming prefill.
        schedule: what to reduce inside the model, None for nothing.
        depth: number of decoder layers.
        facts: what schedules may want to know about the visual rows, see :class:`~vidcomp.schedules.state.Stage`.
        balance: notes what the answer's rows look at, None for nothing.
        uncompressed: number of visual rows without an outer stage, None for as many as there are.
        deepstack: [V, D] each: tensor i is added to the visual rows after layer i of the prefill. A row that is gone
            by then takes its share with it.
        places: [K, S], several positions for each row of the prefill (``--positions ppe``), None for one.

    All sequences of a batch share the plan: beams and several samples of one prompt work, a batch of different prompts
    does not.
    """

    def __init__(
        self,
        config: Any,
        visual: Tensor,
        schedule: Schedule | None = None,
        depth: int = 0,
        facts: Mapping[str, Tensor] | None = None,
        balance: AttentionBalance | None = None,
        uncompressed: int | None = None,
        deepstack: Sequence[Tensor] = (),
        places: Tensor | None = None,
    ) -> None:
        super().__init__(config=config)
        if deepstack and len(deepstack) >= depth:
            raise ModelError(f"{len(deepstack)} DeepStack levels", why=f"the decoder has {depth} layers only")
        self.deepstack = deepstack
        # rows [P] of the prefill that are no part of the plan, and what each level adds to them [P, D]: pictures
        self.beside: tuple[Tensor, Sequence[Tensor]] | None = None
        self.schedule, self.depth, self.facts, self.balance = schedule, depth, facts or {}, balance
        plan = schedule or Schedule()
        self.stages: frozenset[int] = frozenset(plan.layers(depth))
        self._watched, self.frozen, self._renumbers = plan.watched(depth), plan.frozen(depth), plan.renumbers
        if places is not None and plan.renumbers:
            raise UsageError("--positions ppe with an inner stage that renumbers rows",
                             why="renumbered rows have one position each", code="bad_option")  # fmt: skip
        self.read_layer = plan.read_from(depth)
        self.planned = visual.numel()
        self._visual = visual.nonzero()[:, 0]  # [V] visual rows of the prefill
        self._after = self.planned - 1 - int(self._visual[-1]) if self._visual.numel() else 0
        self.uncompressed = uncompressed or self._visual.numel()
        self._origin = self._places = self._visual[None]  # [B, V] which of those are present, and where they stand
        self.columns: dict[int, Tensor] = {}  # layer -> [B, n] columns of its first n keys
        self.tail: dict[int, int] = {}  # layer -> column of the key after those
        self.shift: dict[int, int] = {}  # layer -> how far its positions lag behind those of layer 0
        self.rows: Tensor | None = None  # [B, S'] rows of this forward that are still present; None = all
        self.memory: dict[str, Any] = {}  # what the schedule keeps from stage to stage and from step to step
        self.inputs: dict[int, AttentionInput] = {}  # of watched layers, until the stage behind them has run
        self.reached: set[int] = set()  # stages that ran, frozen layers, and the read layer once it chose
        self.prefill_rows: dict[int, int] = {}  # layer -> rows that entered it in the prefill: measured, for the ledger
        self.updated_rows: dict[int, int] = {}  # layer -> rows that it updated; fewer where visual rows are frozen
        self.cached_rows: dict[int, int] = {}  # layer -> keys it held before them, where a shared prefix is continued
        # layer -> [B, V] visual rows of the prefill that entered it, where it changes
        self.survivors: dict[int, Tensor] = {}
        self.reads: list[tuple[int, int]] = []  # visual keys held and read, per decode step
        self.reduce_seconds: dict[int, float] = {}  # layer -> time its reduction took, as far as the host sees it
        self._past = self._length = self._batch = 0
        self._prefilling = False
        self._begun = False  # whether the hooks announced the forward pass that layer 0 is about to store
        self._reading: Tensor | None = None  # [B, n] keys that this decode step reads from the read layer on
        self._parked: dict[int, Parked] = {}
        self._positions: Tensor | None = None
        self._rotary: Callable[[Tensor, Tensor], Tables] | None = None
        self._turned: dict[int, tuple[Tables, int]] = {}  # of this forward: renumbered tables and their lag
        self.places, self._spread = places, cast("Tables | None", None)  # tables of several positions per row

    # -- one forward pass, in the order in which the hooks call

    def begin(self, hidden: Tensor, positions: Tensor | None = None, rotary: Any = None) -> None:
        """Called before layer 0 with [B, S, D], the position ids of its rows and the decoder's rotary embedding."""
        (self._batch, self._length), self._past = hidden.shape[:2], self.get_seq_length(0)
        self.rows = self._reading = None
        self._begun, self._turned = True, {}
        self._positions, self._rotary = positions, rotary
        self.inputs.clear()
        self._prefilling = self._past == 0
        if self._prefilling and self._length != self.planned:
            raise ModelError(f"the prefill holds {self._length} rows, the plan {self.planned}",
                             why="the sequence was changed between planning and generation")  # fmt: skip
        if self._prefilling:
            self._places = self._visual.to(hidden.device).expand(hidden.shape[0], -1)
            self._origin = torch.arange(self._places.shape[1], device=hidden.device).expand_as(self._places)
            self.survivors[0] = self._places

    def turned(self, rotary: Tables) -> Tables:
        """The rotary tables of this forward, those of several positions per row where the plan asks for them."""
        if self.places is None or not self._prefilling or self._rotary is None:
            return rotary
        if self._positions is None or self._positions.dim() != 2:
            raise UsageError("--positions ppe with this model", why="its positions are not one number per row",
                             hint="--positions keep", code="bad_option")  # fmt: skip
        if self._spread is None:
            self._spread = grouped_tables(self._rotary, rotary[0], self.places)
        return self._spread

    def enter(self, layer: int, module: Any, hidden: Tensor, rotary: Tables) -> Tensor:
        """Reduce before ``layer`` where the plan says so: [B, S, D] to [B, S', D]."""
        self._follow(hidden.device)
        if self._prefilling:
            if 0 < layer <= len(self.deepstack):
                hidden = add_rows(hidden, self._places, self.deepstack[layer - 1], self._origin)
                if self.beside is not None:
                    hidden = self._add_beside(self.beside[0], self.beside[1][layer - 1], hidden)
            if layer in self.stages:
                start = time.perf_counter()
                hidden = self._reduce(layer, module, hidden, rotary)
                self.reduce_seconds[layer] = time.perf_counter() - start
                self.reached.add(layer)
            self.prefill_rows[layer] = self.updated_rows[layer] = hidden.shape[1]
        elif layer == self.read_layer and self._length == 1:
            self._choose_reads(layer)
        self._forget_inputs(layer)
        return hidden

    def _follow(self, device: torch.device) -> None:
        """Bring what tells rows apart to the device of the layer that is about to run."""
        self._places, self._origin = self._places.to(device), self._origin.to(device)
        self.rows = self.rows if self.rows is None else self.rows.to(device)

    def watches(self, layer: int) -> bool:
        """Whether the attention of ``layer`` has to leave its input behind."""
        if self.balance is not None:
            return True
        return layer in self._watched if self._prefilling else self._length == 1 and layer + 1 == self.read_layer

    def note_input(self, layer: int, source: AttentionInput) -> None:
        """Keep what the attention of a watched layer is about to see."""
        self.inputs[layer] = source

    def fit(self, layer: int, mask: Any, rotary: Tables) -> tuple[Any, Tables]:
        """Cut the stock mask and rotary tables, which have the geometry of layer 0, down to this layer's rows and
        keys."""
        reading = self._reading is not None
        if self.rows is None and layer not in self.columns and not reading:
            return mask, rotary
        new = self._new_columns(rotary[0])
        columns = torch.cat([self._known_columns(layer, new), new], 1)
        if self.rows is not None:
            self.columns[layer], self.tail[layer] = columns, self._past + self._length
        if self._reading is not None:
            columns = columns.gather(1, self._reading.to(columns.device))
        return fit_mask(mask, columns, self.rows), self._tables(layer, rotary)

    def park(self, layer: int, module: Any, hidden: Tensor, mask: Any, rotary: Tables) -> tuple[Tensor, Any, Tables]:
        """Set visual rows aside before a frozen layer: rows, mask and tables of the text alone."""
        if layer not in self.frozen or not self._prefilling or self._places.shape[1] == 0:
            return hidden, mask, rotary
        parked = self._parked[layer] = park(module, hidden, self._places, rotary)
        self.updated_rows[layer] = parked.text.shape[1]
        self.reached.add(layer)
        tables = take_rows(rotary[0], parked.text), take_rows(rotary[1], parked.text)
        return take_rows(hidden, parked.text), text_mask(mask, parked.text, parked.rows.shape[1]), tables

    def is_parked(self, layer: int) -> bool:
        """Whether rows wait beside this layer."""
        return layer in self._parked

    def unpark(self, layer: int, updated: Tensor) -> Tensor:
        """Put the waiting rows back among the updated ones, behind the layer."""
        return self._parked.pop(layer).back(updated)

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Store new keys and values; hand out those that this layer reads in this step.

        Raises:
            NotApplied: the model carries no hooks; it would read a mask and positions that do not fit.
        """
        if layer_idx == 0 and not self._begun:
            raise NotApplied("the cache of a compressed prompt was used without the compressor",
                             why="the compress() block has ended, or the model was closed; hooks know what is left",
                             hint="go on inside the block, or begin anew with the whole prompt")  # fmt: skip
        self._begun = self._begun and layer_idx != 0
        if layer_idx in self._parked:
            key_states, value_states = self._parked[layer_idx].join(key_states, value_states)
        keys, values = super().update(key_states, value_states, layer_idx, *args, **kwargs)
        if self._reading is None or self.read_layer is None or layer_idx < self.read_layer:
            return keys, values
        index = self._reading.to(keys.device)[:, None, :, None].expand(-1, keys.shape[1], -1, keys.shape[3])
        return keys.gather(2, index), values.gather(2, index)

    def note_balance(self, layer: int) -> None:
        """Note what the newest row looked at in this layer, behind its attention."""
        if self.balance is None or layer not in self.inputs:
            return
        keys = self._keys(layer)
        columns = self._known_columns(layer, keys)
        visual = torch.isin(columns, self._visual.to(columns.device))
        self.balance.note(layer, Attention(self.inputs[layer], keys).last_row(), visual)
        if layer not in self._watched and layer + 1 != self.read_layer:
            del self.inputs[layer]

    # -- upkeep that must follow the tensors

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Keep the column maps with their beams."""
        super().reorder_cache(beam_idx)  # type: ignore[arg-type]
        self._each_sequence(lambda tensor: tensor.index_select(0, beam_idx.to(tensor.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Keep the column maps with the repeated sequences."""
        super().batch_repeat_interleave(repeats)
        self._each_sequence(lambda tensor: tensor.repeat_interleave(repeats, 0))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep the column maps with the selected sequences."""
        super().batch_select_indices(indices)
        self._each_sequence(lambda tensor: tensor[indices.to(tensor.device)])

    def crop(self, max_length: int) -> None:
        """Remove ``-max_length`` rows from the end of every layer; 0 does nothing."""
        super().crop(max_length)
        if max_length < 0:
            end = self.get_seq_length(0)
            for layer, columns in self.columns.items():
                self.columns[layer] = columns[:, : self._held(layer)]
                self.tail[layer] = min(self.tail[layer], end)

    @property
    def visual_rows(self) -> Tensor:
        """[V] int64 on the CPU, where the visual rows stand in the prefill."""
        return self._visual

    @property
    def watched(self) -> frozenset[int]:
        """Layers whose attention the stages ask for."""
        return self._watched

    @property
    def forks(self) -> bool:
        """Whether a question can go on from a shared prefix, whose keys keep the positions that they have."""
        return not self._renumbers and self.places is None

    def lengths(self) -> list[int]:
        """Keys now held by each layer."""
        return [self._held(layer) for layer in range(len(self.layers))]

    @property
    def applied(self) -> bool:
        """Whether everything that the schedule asks of a prefill happened; without visual rows nothing has to."""
        asked = self.stages | self.frozen
        return asked <= self.reached or not self._visual.numel()

    # -- inside

    def _held(self, layer: int) -> int:
        return self.get_seq_length(layer) if layer < len(self.layers) else 0

    def _keys(self, layer: int) -> Tensor:
        keys: Tensor = cast(Any, self.layers[layer]).keys
        return keys

    def _add_beside(self, rows: Tensor, level: Tensor, hidden: Tensor) -> Tensor:
        """Add a level [P, D] to rows [P] of the prefill that always stay, wherever they stand by now."""
        places = rows.to(hidden.device).expand(hidden.shape[0], -1)
        if self.rows is not None:
            places = torch.searchsorted(self.rows.to(hidden.device).contiguous(), places.contiguous())
        return add_rows(hidden, places, level, torch.arange(len(rows)).expand(hidden.shape[0], -1))

    def _each_sequence(self, move: Callable[[Tensor], Tensor]) -> None:
        self.columns = {layer: move(columns) for layer, columns in self.columns.items()}
        self.memory = {name: move(kept) if isinstance(kept, Tensor) else kept for name, kept in self.memory.items()}

    def _forget_inputs(self, layer: int) -> None:
        """Let go of attention inputs that no later stage asks for."""
        if not any(stage > layer for stage in self.stages):
            self.inputs.clear()

    def _attention_of(self, layer: int, device: torch.device) -> Attention:
        """Of a layer that may live elsewhere, with rows and keys on ``device``."""
        if layer not in self.inputs:
            raise ModelError(f"nothing was seen of the attention in layer {layer}",
                             why="its attention module was not called as expected")  # fmt: skip
        return Attention(self.inputs[layer].to(device), self._keys(layer).to(device))

    def _reduce(self, layer: int, module: Any, hidden: Tensor, rotary: Tables) -> Tensor:
        visual = self._places
        cut = self._decide(layer, module, hidden, rotary) if visual.shape[1] else None
        if cut is None:
            return hidden
        cut.check(visual.shape[1])
        kept = visual.gather(1, cut.kept)  # [B, W] among the present rows
        present = torch.ones(hidden.shape[:2], dtype=torch.bool, device=hidden.device)
        present.scatter_(1, visual, False).scatter_(1, kept, True)
        if cut.merged is not None:
            hidden = hidden.scatter(1, kept[..., None].expand_as(cut.merged), cut.merged.to(hidden.dtype))
        index = ranks_of(present, hidden.shape[1] - visual.shape[1] + kept.shape[1])
        self.rows = index if self.rows is None else self.rows.gather(1, index)
        self._places = (present.cumsum(1) - 1).gather(1, kept)
        self._origin = self._origin.gather(1, cut.kept)
        self.survivors[layer] = self.rows.gather(1, self._places)
        return take_rows(hidden, index)

    def _decide(self, layer: int, module: Any, hidden: Tensor, rotary: Tables) -> Cut | None:
        def coming() -> Attention:
            tables = self._tables(layer, rotary)
            source = AttentionInput(module.self_attn, module.input_layernorm(hidden), *tables)
            return Attention(source, source.keys())

        assert self.schedule is not None
        kept = ((name, value) for name, value in self.memory.items() if isinstance(value, Tensor))
        self.memory.update({name: value.to(hidden.device) for name, value in kept})
        stage = Stage(
            layer, self.depth, hidden, self._places, self._origin, self._visual.numel(),
            self.uncompressed, self._after, self.facts, self.memory,
            partial(self._attention_of, device=hidden.device), coming,
        )  # fmt: skip
        return self.schedule.reduce(stage)

    def _choose_reads(self, layer: int) -> None:
        """Ask the schedule which visual keys this decode step reads from ``layer`` on."""
        device = self._keys(layer).device
        visual = self._visual.to(device).expand(self._batch, -1)
        assert self.schedule is not None
        kept = self.schedule.read(self._attention_of(layer - 1, device).last_row().gather(1, visual), self.memory)
        self.reached.add(layer)
        self.reads.append((visual.shape[1], visual.shape[1] if kept is None else kept.shape[1]))
        if kept is None:
            return
        total = self._held(layer) + 1  # the new row's key is about to come
        wanted = torch.ones(self._batch, total, dtype=torch.bool, device=visual.device)
        wanted.scatter_(1, visual, False).scatter_(1, visual.gather(1, kept), True)
        self._reading = ranks_of(wanted, total - visual.shape[1] + kept.shape[1])

    def _tables(self, layer: int, rotary: Tables) -> Tables:
        """Rotary tables of the present rows: their own, or those of positions without gaps."""
        if not self._renumbers or (self.rows is None and layer not in self.shift):
            return rotary if self.rows is None else (take_rows(rotary[0], self.rows), take_rows(rotary[1], self.rows))
        if self._positions is None or self._positions.dim() != 2 or self._rotary is None:
            raise UsageError("positions cannot be renumbered inside this model", hint="positions=keep",
                             why="its positions are not one number per row", code="bad_option")  # fmt: skip
        key = self._length - self.shift[layer] if self.rows is None else self.rows.shape[1]
        if key not in self._turned:  # once for all layers behind a stage
            self._turned[key] = self._without_gaps(layer, rotary[0], self._positions)
        (cos, sin), self.shift[layer] = self._turned[key]
        return cos.to(rotary[0].device), sin.to(rotary[0].device)

    def _without_gaps(self, layer: int, like: Tensor, positions: Tensor) -> tuple[Tables, int]:
        """Tables of renumbered rows, and how far the last of them lags behind its own position."""
        assert self._rotary is not None
        if self.rows is None:
            return self._rotary(like, positions - self.shift[layer]), self.shift[layer]
        places = positions[:, :1] + torch.arange(self.rows.shape[1], device=positions.device)
        return self._rotary(like, places), int(positions[0, -1] - places[0, -1])

    def _new_columns(self, like: Tensor) -> Tensor:
        if self.rows is not None:
            return self.rows.to(like.device) + self._past
        return torch.arange(self._past, self._past + self._length, device=like.device).expand(self._batch, -1)

    def _known_columns(self, layer: int, like: Tensor) -> Tensor:
        """Columns [B, n] of the keys that the layer holds before this forward."""
        held = self._held(layer)
        if layer not in self.columns:
            return torch.arange(held, device=like.device).expand(like.shape[0], -1)
        first, start = self.columns[layer].to(like.device), self.tail[layer]
        run = torch.arange(start, start + held - first.shape[1], device=like.device)
        return torch.cat([first, run.expand(first.shape[0], -1)], 1)
