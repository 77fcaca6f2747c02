"""One video, many questions: the cache of everything before the question, and forks of it that ask.

Nothing that looks at a question reduces the shared cache. Where a schedule has a stage, a fork lets the question's last
row score the visual rows as in a joint prefill, and drops the cached keys and values of the others from that layer on.
Two things differ from a joint prefill by construction: the rows that stay were computed while they still saw the
dropped ones, and nothing is merged into them.
"""

from __future__ import annotations

import time
from copy import copy
from typing import Any, cast

import torch
from torch import Tensor

from vidcomp.errors import ModelError
from vidcomp.inllm.cache import CompressedCache, take_rows
from vidcomp.inllm.scoring import last_row_attention

__all__ = ["PrefixCache", "QuestionCache"]


class PrefixCache(CompressedCache):
    """Filled by a prefill that ends with the last visual row; remembers the visual rows that enter each stage.

    Args:
        config: text config of the model.
        plan: the cache of the joint prefill, still empty.
        length: how many rows come before the question.
    """

    def __init__(self, config: Any, plan: CompressedCache, length: int) -> None:
        visual = torch.zeros(length, dtype=torch.bool).index_fill_(0, plan.visual_rows, True)
        super().__init__(config, visual, None, config.num_hidden_layers, deepstack=plan.deepstack)
        self.plan, self.config = plan.schedule, config
        self.entered: dict[int, Tensor] = {}  # stage -> [B, V, D] visual rows before it
        self._stages = plan.stages

    def enter(self, layer: int, hidden: Tensor) -> Tensor:
        """Remember what a stage will want to see; every row goes on."""
        hidden = super().enter(layer, hidden)
        if layer in self._stages:
            self.entered[layer] = take_rows(hidden, self._places)
        return hidden

    def fork(self) -> QuestionCache:
        """A cache for one question; tensors are shared until the fork's layers grow or shrink."""
        return QuestionCache(self)


class QuestionCache(CompressedCache):
    """Continues a shared prefix with the rows of one question, and reduces it for that question alone."""

    def __init__(self, prefix: PrefixCache) -> None:
        visual = torch.zeros(prefix.planned, dtype=torch.bool).index_fill_(0, prefix.visual_rows, True)
        super().__init__(prefix.config, visual, prefix.plan, prefix.config.num_hidden_layers)
        self.layers = [copy(layer) for layer in prefix.layers]  # new keys replace a layer's tensors, nothing is written
        self._entered = prefix.entered
        self._asking = False
        self._index = prefix._places  # [B, V] the visual rows among the keys of the layers from the last stage on
        self._alive = torch.arange(self._index.shape[1], device=self._index.device)[
            None
        ]  # which of the V rows they are

    def begin(self, hidden: Tensor) -> None:
        """The first forward brings the question, later ones its answer."""
        super().begin(hidden)
        self._asking = not self.prefill_rows
        if self._asking:
            self.survivors[0] = self._index

    def enter(self, layer: int, hidden: Tensor) -> Tensor:
        """Drop cached rows before a stage; the question's own rows all go on."""
        if self._asking:
            if layer in self.stages:
                start = time.perf_counter()
                self._drop(layer)
                self.reduce_seconds[layer] = time.perf_counter() - start
            self.prefill_rows[layer], self.cached_rows[layer] = hidden.shape[1], self._held(layer)
        return hidden

    def wants_query(self, layer: int) -> bool:
        """Only the question's last row scores."""
        return self._asking and layer + 1 in self.stages

    def _drop(self, layer: int) -> None:
        if self.schedule is None or self.last_query is None:
            raise ModelError(
                f"no query was seen before layer {layer}", why="the attention module was not called as expected"
            )
        if not self._index.shape[1]:
            return
        scores = last_row_attention(self.last_query, self._keys(layer - 1)).gather(1, self._index)
        kept, _ = self.schedule.reduce(take_rows(self._entered[layer], self._alive), scores)
        self._alive = self._alive.gather(1, kept)
        held = self._held(layer)
        stays = torch.ones(scores.shape[0], held, dtype=torch.bool, device=scores.device)
        stays.scatter_(1, self._index, False).scatter_(1, self._index.gather(1, kept), True)
        width = held - self._index.shape[1] + kept.shape[1]
        index = stays.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :width]
        self._index = (stays.cumsum(1) - 1).gather(1, self._index.gather(1, kept))
        for below in range(layer, len(self.layers)):
            self._shorten(below, index)
        self.survivors[layer] = self.columns[layer].gather(1, self._index)

    def _shorten(self, layer: int, index: Tensor) -> None:
        """Keep the cached keys and values [B, W] of one layer."""
        stored = cast(Any, self.layers[layer])
        columns = self._known_columns(layer, index)
        stored.keys, stored.values = (
            rows.gather(2, index.to(rows.device)[:, None, :, None].expand(-1, rows.shape[1], -1, rows.shape[3]))
            for rows in (stored.keys, stored.values)
        )
        self.columns[layer], self.tail[layer] = columns.gather(1, index), self._past
