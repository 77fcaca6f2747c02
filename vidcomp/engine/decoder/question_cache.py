# SPDX-License-Identifier: Apache-2.0
"""One video, many questions: the cache of everything before the question, and forks of it that ask.

Nothing that looks at a question reduces the shared cache. Where a schedule has a stage, a fork shows it the rows of a
joint prefill, those of the video from memory and those of the question as they come; the cached keys and values of the
visual rows that leave are dropped from that layer on. Layers that visual rows pass unchanged are no matter of the
question, so they are passed once, in the shared cache. Two things differ from a joint prefill by construction: the rows
that stay were computed while they still saw the dropped ones, and nothing is merged into them.
"""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

from vidcomp.engine.decoder.cache import CompressedCache
from vidcomp.engine.decoder.forward import Rotary, Tables
from vidcomp.engine.decoder.layer import CompressedLayer
from vidcomp.engine.decoder.modality_attention import AttentionBalance
from vidcomp.engine.decoder.plan import RowPlan
from vidcomp.schedules.blocks.rows import ranks_of, take_rows
from vidcomp.schedules.blocks.scoring import AttentionInput

__all__ = ["PrefixCache", "QuestionCache"]


class PrefixCache(CompressedCache):
    """Filled by a prefill that ends with the last visual row; remembers what the stages will want to see.

    Args:
        config: text config of the model.
        plan: of the joint prefill.
        length: how many rows come before the question.

    Attributes:
        whole: the plan of the joint prefill, for the forks.
        entered: stage to the rows [B, P, D] that came before it.
        tables: rotary tables of all P rows.
    """

    def __init__(self, config: Any, plan: RowPlan, length: int) -> None:
        super().__init__(config, replace(plan, flags=plan.flags[:length], reduces=False))
        self.whole, self.config = plan, config
        self.entered: dict[int, Tensor] = {}
        self.tables: Tables | None = None

    def reduce_before(self, layer: int, module: Any, hidden: Tensor, rotary: Tables) -> Tensor:
        """Remember what a stage will want to see; every row goes on."""
        hidden = super().reduce_before(layer, module, hidden, rotary)
        if layer in self.whole.stages:
            self.entered[layer], self.tables = hidden, rotary
        return hidden

    def fork(self, balance: AttentionBalance | None = None) -> QuestionCache:
        """A cache for one question; tensors are shared until the fork's layers grow or shrink."""
        return QuestionCache(self, balance)

    def forget_inputs(self, layer: int) -> None:
        """The forks ask for them."""


class QuestionCache(CompressedCache):
    """Continues a shared prefix of P rows with those of one question, and reduces it for that question alone."""

    def __init__(self, prefix: PrefixCache, balance: AttentionBalance | None = None) -> None:
        whole = prefix.whole
        plan = replace(whole, flags=prefix.plan.flags, uncompressed=whole.total, deepstack=())
        super().__init__(prefix.config, plan, balance)
        self.layers = [copy(layer) for layer in prefix.layers]  # new keys replace a layer's tensors, nothing is written
        self.measured.reached |= prefix.measured.reached
        self._prefix = prefix
        self._asking = False
        self._visual, self._origin = prefix.forward.visual, prefix.forward.origin
        # [B, P'] the rows of the prefix that are among the keys of the layers from the last stage on
        self._present = torch.arange(plan.length, device=self._visual.device).expand(len(self._visual), -1)

    def start_forward(self, hidden: Tensor, positions: Tensor | None = None, rotary: Rotary | None = None) -> None:
        """The first forward brings the question, later ones its answer."""
        super().start_forward(hidden, positions, rotary)
        self._asking = not self.measured.entered
        if self._asking:
            self.forward.visual, self.forward.origin = self._visual, self._origin
            self.measured.survivors[0] = self._visual

    def reduce_before(self, layer: int, module: Any, hidden: Tensor, rotary: Tables) -> Tensor:
        """Drop cached rows before a stage; the question's own rows all go on."""
        if not self._asking:
            return super().reduce_before(layer, module, hidden, rotary)
        self.forward.follow(hidden.device)
        self._present = self._present.to(hidden.device)
        if layer in self.plan.stages:
            with self.measured.reducing(layer):
                self._drop(layer, module, hidden, rotary)
        self.measured.entered[layer] = self.measured.updated[layer] = hidden.shape[1]
        self.measured.cached[layer] = self.layer(layer).held
        self.forget_inputs(layer)
        return hidden

    def watches(self, layer: int) -> bool:
        """While the question comes, as in a joint prefill."""
        return self.balance is not None or layer in self.plan.watched if self._asking else super().watches(layer)

    def note_input(self, layer: int, source: AttentionInput) -> None:
        """Behind the rows of the prefix where a stage will ask."""
        if self._asking and layer in self.plan.watched:
            before = self._prefix.forward.inputs[layer]
            source = AttentionInput(
                source.module,
                self._behind(before.hidden, source.hidden),
                self._behind(before.cos, source.cos),
                self._behind(before.sin, source.sin),
            )
        super().note_input(layer, source)

    def rows_after(self) -> int:
        """The question."""
        return self.forward.length

    def _behind(self, prefix: Tensor, question: Tensor) -> Tensor:
        """Rows [B, Q, ...] of the question behind those rows of the prefix [B, P, ...] that are present."""
        return torch.cat([take_rows(prefix, self._present).to(question.device), question], 1)

    def _drop(self, layer: int, module: Any, hidden: Tensor, rotary: Tables) -> None:
        tables, forward = self._prefix.tables, self.forward
        if tables is None:
            return
        rows = self._behind(self._prefix.entered[layer], hidden)
        own = self._behind(tables[0], rotary[0]), self._behind(tables[1], rotary[1])
        cut = self.decide(layer, module, rows, own)
        if cut is None:
            return
        kept = forward.visual.gather(1, cut.kept)
        stays = torch.ones_like(self._present, dtype=torch.bool)
        stays.scatter_(1, forward.visual, False).scatter_(1, kept, True)
        index = ranks_of(stays, stays.shape[1] - forward.visual.shape[1] + kept.shape[1])
        for below in self.layers[layer:]:
            cast(CompressedLayer, below).keep(index, forward.past)
        self._present = self._present.gather(1, index)
        forward.visual = (stays.cumsum(1) - 1).gather(1, kept)
        forward.origin = forward.origin.gather(1, cut.kept)
        self.measured.survivors[layer] = self._present.gather(1, forward.visual)
