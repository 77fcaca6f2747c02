"""A KV cache that carries the plan of an in-LLM reduction and remembers which rows each layer still holds.

Words: a *column* is an index on the timeline of layer 0, which is never reduced. A reduced layer stores a static map of
its first keys to columns; every later key is the contiguous run that follows, so decode steps need no bookkeeping.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from transformers import DynamicCache

from vidcomp.errors import ModelError
from vidcomp.inllm.base import Schedule
from vidcomp.inllm.scoring import LastQuery, last_row_attention

__all__ = ["CompressedCache", "take_rows"]


def take_rows(rows: Tensor, index: Tensor) -> Tensor:
    """Gather along dimension 1: rows [B or 1, S, ...] by index [B, W] gives [B, W, ...]."""
    rows = rows.expand(index.shape[0], *rows.shape[1:])
    shape = (*index.shape, *([1] * (rows.dim() - 2)))
    return rows.gather(1, index.to(rows.device).view(shape).expand(*index.shape, *rows.shape[2:]))


class CompressedCache(DynamicCache):
    """Carries which rows are visual and where they are reduced; the layer hooks ask it what to do.

    Args:
        config: text config of the model.
        visual: [S] bool on the CPU, the visual rows of the coming prefill.
        schedule: what to reduce inside the model, None for nothing.
        depth: number of decoder layers.
        deepstack: [V, D] each: tensor i is added to the visual rows after layer i of the prefill. A row that is gone
            by then takes its share with it.

    All sequences of a batch share the plan: beams and several samples of one prompt work, a batch of different prompts
    does not.
    """

    def __init__(
        self,
        config: Any,
        visual: Tensor,
        schedule: Schedule | None = None,
        depth: int = 0,
        deepstack: Sequence[Tensor] = (),
    ) -> None:
        super().__init__(config=config)
        if deepstack and len(deepstack) >= depth:
            raise ModelError(f"{len(deepstack)} DeepStack levels", why=f"the decoder has {depth} layers only")
        self.deepstack = deepstack
        self.schedule = schedule
        self.stages: frozenset[int] = frozenset(schedule.layers(depth) if schedule else ())
        self.planned = visual.numel()
        self._visual = visual.nonzero()[:, 0]  # [V] visual rows of the prefill
        self._places = self._visual[None]  # [B, V] where they stand among the present rows
        self.columns: dict[int, Tensor] = {}  # layer -> [B, n] columns of its first n keys
        self.tail: dict[int, int] = {}  # layer -> column of the key after those
        self.rows: Tensor | None = None  # [B, S'] rows of this forward that are still present; None = all
        self.prefill_rows: dict[int, int] = {}  # layer -> rows that entered it in the prefill: measured, for the ledger
        self.cached_rows: dict[int, int] = {}  # layer -> keys it held before them, where a shared prefix is continued
        self.survivors: dict[
            int, Tensor
        ] = {}  # layer -> [B, V] visual rows of the prefill that entered it, where it changes
        self.reduce_seconds: dict[int, float] = {}  # layer -> time its reduction took, as far as the host sees it
        self.last_query: LastQuery | None = None
        self._past = self._length = self._batch = 0
        self._prefilling = False

    # -- one forward pass, in the order in which the hooks call

    def begin(self, hidden: Tensor) -> None:
        """Called before layer 0 with [B, S, D]."""
        (self._batch, self._length), self._past = hidden.shape[:2], self.get_seq_length(0)
        self.rows = self.last_query = None
        self._prefilling = self._past == 0
        if self._prefilling and self._length != self.planned:
            raise ModelError(
                f"the prefill holds {self._length} rows, the plan {self.planned}",
                why="the sequence was changed between planning and generation",
            )
        if self._prefilling:
            self._places = self._visual.to(hidden.device).expand(hidden.shape[0], -1)
            self.survivors[0] = self._places

    def enter(self, layer: int, hidden: Tensor) -> Tensor:
        """Reduce before ``layer`` where the plan says so: [B, S, D] to [B, S', D]."""
        if not self._prefilling:
            return hidden
        if 0 < layer <= len(self.deepstack):
            hidden = self._add(self.deepstack[layer - 1], hidden)
        if layer in self.stages:
            start = time.perf_counter()
            hidden = self._reduce(layer, hidden)
            self.reduce_seconds[layer] = time.perf_counter() - start
        self.prefill_rows[layer] = hidden.shape[1]
        return hidden

    def wants_query(self, layer: int) -> bool:
        """Whether the attention of ``layer`` has to leave its last query behind."""
        return self._prefilling and layer + 1 in self.stages

    def fit(self, layer: int, mask: Any, rotary: tuple[Tensor, Tensor]) -> tuple[Any, tuple[Tensor, Tensor]]:
        """Cut the stock mask and rotary tables, which have the geometry of layer 0, down to this layer's rows and
        keys."""
        if self.rows is None and layer not in self.columns:
            return mask, rotary
        new = self._new_columns(rotary[0])
        known = self._known_columns(layer, new)
        columns = torch.cat([known, new], 1)
        if self.rows is not None:
            self.columns[layer], self.tail[layer] = columns, self._past + self._length
            rotary = (take_rows(rotary[0], self.rows), take_rows(rotary[1], self.rows))
        return _fit_mask(mask, columns, self.rows), rotary

    # -- upkeep that must follow the tensors

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Keep the column maps with their beams."""
        super().reorder_cache(beam_idx)  # type: ignore[arg-type]
        self.columns = {i: c.index_select(0, beam_idx.to(c.device)) for i, c in self.columns.items()}

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Keep the column maps with the repeated sequences."""
        super().batch_repeat_interleave(repeats)
        self.columns = {i: c.repeat_interleave(repeats, 0) for i, c in self.columns.items()}

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep the column maps with the selected sequences."""
        super().batch_select_indices(indices)
        self.columns = {i: c[indices.to(c.device)] for i, c in self.columns.items()}

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

    def lengths(self) -> list[int]:
        """Keys now held by each layer."""
        return [self._held(layer) for layer in range(len(self.layers))]

    # -- inside

    def _held(self, layer: int) -> int:
        return self.get_seq_length(layer) if layer < len(self.layers) else 0

    def _keys(self, layer: int) -> Tensor:
        keys: Tensor = cast(Any, self.layers[layer]).keys
        return keys

    def _add(self, level: Tensor, hidden: Tensor) -> Tensor:
        """Add to each visual row of [B, S', D] that is still present what the level [V, D] holds for it."""
        rows = self._places if self.rows is None else self.rows.gather(1, self._places)
        number = torch.searchsorted(self._visual.to(rows.device), rows.contiguous())  # among the V
        places = self._places[..., None].expand(-1, -1, hidden.shape[2])
        added = hidden.gather(1, places) + level.to(hidden)[number]
        return hidden.scatter(1, places, added)

    def _reduce(self, layer: int, hidden: Tensor) -> Tensor:
        if self.schedule is None or self.last_query is None:
            raise ModelError(
                f"no query was seen before layer {layer}", why="the attention module was not called as expected"
            )
        visual = self._places
        if visual.shape[1] == 0:
            return hidden
        scores = last_row_attention(self.last_query, self._keys(layer - 1)).gather(1, visual)
        kept, merged = self.schedule.reduce(take_rows(hidden, visual), scores)
        kept = visual.gather(1, kept)  # [B, W] among the present rows
        present = torch.ones(hidden.shape[:2], dtype=torch.bool, device=hidden.device)
        present.scatter_(1, visual, False).scatter_(1, kept, True)
        hidden = hidden.scatter(1, kept[..., None].expand_as(merged), merged.to(hidden.dtype))
        width = hidden.shape[1] - visual.shape[1] + kept.shape[1]
        index = present.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :width]
        self.rows = index if self.rows is None else self.rows.gather(1, index)
        self._places = (present.cumsum(1) - 1).gather(1, kept)
        self.survivors[layer] = self.rows.gather(1, self._places)
        return take_rows(hidden, index)

    def _new_columns(self, like: Tensor) -> Tensor:
        if self.rows is not None:
            return self.rows + self._past
        return torch.arange(self._past, self._past + self._length, device=like.device).expand(self._batch, -1)

    def _known_columns(self, layer: int, like: Tensor) -> Tensor:
        """Columns [B, n] of the keys that the layer holds before this forward."""
        held = self._held(layer)
        if layer not in self.columns:
            return torch.arange(held, device=like.device).expand(like.shape[0], -1)
        first, start = self.columns[layer].to(like.device), self.tail[layer]
        run = torch.arange(start, start + held - first.shape[1], device=like.device)
        return torch.cat([first, run.expand(first.shape[0], -1)], 1)


def _fit_mask(mask: Any, columns: Tensor, rows: Tensor | None) -> Any:
    """Gather a stock mask; None stays None, for causal over an ordered subsequence is still causal."""
    if mask is None:
        return None
    if not isinstance(mask, Tensor):
        raise ModelError(
            f"cannot reduce under a {type(mask).__name__}",
            why="this attention kernel hides its mask",
            hint="--attn sdpa",
        )
    columns = columns.to(mask.device)
    if mask.dim() == 2:
        return mask.expand(columns.shape[0], -1).gather(1, columns)
    mask = mask.expand(columns.shape[0], *mask.shape[1:])
    if rows is not None:
        rows = rows.to(mask.device)
        mask = mask.gather(2, rows[:, None, :, None].expand(-1, mask.shape[1], -1, mask.shape[3]))
    return mask.gather(3, columns[:, None, None, :].expand(-1, mask.shape[1], mask.shape[2], -1))
