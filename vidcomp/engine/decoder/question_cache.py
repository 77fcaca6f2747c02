# SPDX-License-Identifier: Apache-2.0
"""One video, many questions: the cache of everything before the question, and forks of it that ask.

Nothing that looks at a question reduces the shared cache. Where a schedule has a stage, a fork shows it the rows of a
joint prefill, those of the video from memory and those of the question as they come; the cached keys and values of the
visual rows that leave are dropped from that layer on. Layers that visual rows pass unchanged are no matter of the
question, so they are passed once, in the shared cache. Two things differ from a joint prefill by construction: the rows
that stay were computed while they still saw the dropped ones, and nothing is merged into them.
"""

from __future__ import annotations

import time
from copy import copy
from typing import Any, cast

import torch
from torch import Tensor

from vidcomp.engine.decoder.cache import CompressedCache, Tables
from vidcomp.engine.decoder.modality_attention import AttentionBalance
from vidcomp.schedules.blocks.rows import ranks_of, take_rows
from vidcomp.schedules.blocks.scoring import AttentionInput

__all__ = ["PrefixCache", "QuestionCache"]


class PrefixCache(CompressedCache):
    """Filled by a prefill that ends with the last visual row; remembers what the stages will want to see.

    Args:
        config: text config of the model.
        plan: the cache of the joint prefill, still empty.
        length: how many rows come before the question.
    """

    def __init__(self, config: Any, plan: CompressedCache, length: int) -> None:
        visual = torch.zeros(length, dtype=torch.bool).index_fill_(0, plan.visual_rows, True)
        super().__init__(config, visual, None, config.num_hidden_layers, deepstack=plan.deepstack)
        self.plan, self.config = plan, config
        self.frozen, self._watched = plan.frozen, plan.watched
        self.entered: dict[int, Tensor] = {}  # stage -> [B, P, D] rows before it
        self.tables: Tables | None = None  # rotary, of all P rows

    def enter(self, layer: int, module: Any, hidden: Tensor, rotary: Tables) -> Tensor:
        """Remember what a stage will want to see; every row goes on."""
        hidden = super().enter(layer, module, hidden, rotary)
        if layer in self.plan.stages:
            self.entered[layer], self.tables = hidden, rotary
        return hidden

    def fork(self, balance: AttentionBalance | None = None) -> QuestionCache:
        """A cache for one question; tensors are shared until the fork's layers grow or shrink."""
        return QuestionCache(self, balance)

    def _forget_inputs(self, layer: int) -> None:
        """The forks ask for them."""


class QuestionCache(CompressedCache):
    """Continues a shared prefix of P rows with those of one question, and reduces it for that question alone."""

    def __init__(self, prefix: PrefixCache, balance: AttentionBalance | None = None) -> None:
        visual = torch.zeros(prefix.planned, dtype=torch.bool).index_fill_(0, prefix.visual_rows, True)
        plan, depth = prefix.plan, prefix.config.num_hidden_layers
        super().__init__(prefix.config, visual, plan.schedule, depth, plan.facts, balance, plan.uncompressed)
        self.layers = [copy(layer) for layer in prefix.layers]  # new keys replace a layer's tensors, nothing is written
        self.reached |= prefix.reached
        self._prefix = prefix
        self._asking = False
        self._places, self._origin = prefix._places, prefix._origin
        # [B, P'] the rows of the prefix that are among the keys of the layers from the last stage on
        self._present = torch.arange(prefix.planned, device=self._places.device).expand(len(self._places), -1)

    def begin(self, hidden: Tensor, positions: Tensor | None = None, rotary: Any = None) -> None:
        """The first forward brings the question, later ones its answer."""
        super().begin(hidden, positions, rotary)
        self._asking = not self.prefill_rows
        if self._asking:
            self._after = hidden.shape[1]
            self.survivors[0] = self._places

    def enter(self, layer: int, module: Any, hidden: Tensor, rotary: Tables) -> Tensor:
        """Drop cached rows before a stage; the question's own rows all go on."""
        if not self._asking:
            return super().enter(layer, module, hidden, rotary)
        self._follow(hidden.device)
        if layer in self.stages:
            start = time.perf_counter()
            self._drop(layer, module, hidden, rotary)
            self.reduce_seconds[layer] = time.perf_counter() - start
            self.reached.add(layer)
        self.prefill_rows[layer] = self.updated_rows[layer] = hidden.shape[1]
        self.cached_rows[layer] = self._held(layer)
        self._forget_inputs(layer)
        return hidden

    def watches(self, layer: int) -> bool:
        """While the question comes, as in a joint prefill."""
        return self.balance is not None or layer in self._watched if self._asking else super().watches(layer)

    def note_input(self, layer: int, source: AttentionInput) -> None:
        """Behind the rows of the prefix where a stage will ask."""
        if self._asking and layer in self._watched:
            before = self._prefix.inputs[layer]
            source = AttentionInput(
                source.module,
                self._behind(before.hidden, source.hidden),
                self._behind(before.cos, source.cos),
                self._behind(before.sin, source.sin),
            )
        super().note_input(layer, source)

    def _behind(self, prefix: Tensor, question: Tensor) -> Tensor:
        """Rows [B, Q, ...] of the question behind those rows of the prefix [B, P, ...] that are present."""
        return torch.cat([take_rows(prefix, self._present).to(question.device), question], 1)

    def _follow(self, device: torch.device) -> None:
        super()._follow(device)
        self._present = self._present.to(device)

    def _drop(self, layer: int, module: Any, hidden: Tensor, rotary: Tables) -> None:
        visual, tables = self._places, self._prefix.tables
        if not visual.shape[1] or tables is None:
            return
        rows = self._behind(self._prefix.entered[layer], hidden)
        turned = self._behind(tables[0], rotary[0]), self._behind(tables[1], rotary[1])
        cut = self._decide(layer, module, rows, turned)
        if cut is None:
            return
        cut.check(visual.shape[1])
        kept = visual.gather(1, cut.kept)
        stays = torch.ones_like(self._present, dtype=torch.bool).scatter_(1, visual, False).scatter_(1, kept, True)
        index = ranks_of(stays, stays.shape[1] - visual.shape[1] + kept.shape[1])
        for below in range(layer, len(self.layers)):
            self._shorten(below, index)
        self._present = self._present.gather(1, index)
        self._places = (stays.cumsum(1) - 1).gather(1, kept)
        self._origin = self._origin.gather(1, cut.kept)
        self.survivors[layer] = self._present.gather(1, self._places)

    def _shorten(self, layer: int, index: Tensor) -> None:
        """Keep the cached keys and values [B, W] of one layer."""
        stored = cast(Any, self.layers[layer])
        columns = self._known_columns(layer, index)
        stored.keys, stored.values = (
            rows.gather(2, index.to(rows.device)[:, None, :, None].expand(-1, rows.shape[1], -1, rows.shape[3]))
            for rows in (stored.keys, stored.values)
        )
        self.columns[layer], self.tail[layer] = columns.gather(1, index), self._past
