# SPDX-License-Identifier: Apache-2.0
"""Rows of the vision tower that slices share: a patch that looks as it did keeps the row that was computed for it.

The keys, values and output of that row stand for the patch in every layer. What needs a row of its own passes the stock
layers as one packed matrix, so that linear layers see only those; attention of a slice's own rows goes over all of its
patches. Before the last used layer every patch gets its row back, so that features and signals are complete. A chunk in
which every patch has its own row goes the stock way, in the stock shapes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from vidcomp.tower.intercept import INTERCEPTING, Attend, intercepted
from vidcomp.tower.probe import attention_of

__all__ = ["Repeats", "SharedRows", "SharingTower"]


class Repeats(Protocol):
    """Decides which patches need a row, as :class:`~vidcomp.tower.repeats.RepeatedPatches` does."""

    def own(self, patches: Tensor) -> Tensor:
        """Patches of the next slices, [t, H, W, C, p, p] in shares of full brightness, to [t, H, W] bool."""
        ...


@dataclass(frozen=True)
class SharingTower:
    """The place where a family's tower can share rows.

    Attributes:
        layers: up to the last one whose output is used.
        tapped: indices of earlier layers whose output is used too.
        leading: rows of a slice in front of its patches.
    """

    layers: tuple[nn.Module, ...]
    tapped: frozenset[int] = frozenset()
    leading: int = 0


class SharedRows:
    """The rows that stand for the patches of one clip, from chunk to chunk.

    Dimension letters: t slices of a chunk, P rows of a slice, leading ones included, R rows of the chunk that are
    computed, C width.

    Attributes:
        repeats: decides which patches need a row.
        rows: rows that each layer read so far; the last one reads all there are.
    """

    def __init__(self, tower: SharingTower, repeats: Repeats) -> None:
        self.tower, self.repeats = tower, repeats
        self.rows = [0] * len(tower.layers)
        self._keys: dict[int, tuple[Tensor, Tensor]] = {}  # by layer, [1, heads, P, head_size] each
        self._outputs: dict[int, Tensor] = {}  # by the layer that reads them, [P, C]

    @contextmanager
    def chunk(self, patches: Tensor, order: Tensor | None = None) -> Iterator[None]:
        """Share rows in the one forward through the tower that this thread makes while the block runs.

        Args:
            patches: [t, H, W, C, p, p] of the next slices of the clip, in shares of full brightness.
            order: [H * W] int64, the patch that each row of a slice is of; row by row when None.
        """
        own = self.repeats.own(patches).flatten(1)
        own = own if order is None else own[:, order]
        leads = own.any(1, keepdim=True).expand(-1, self.tower.leading)  # they look at everything
        own = torch.cat([leads, own], 1)
        chunk, layers = _Chunk(own, self), self.tower.layers
        with INTERCEPTING, ExitStack() as stack:
            for index, layer in enumerate(layers):
                stack.callback(layer.register_forward_pre_hook(chunk.before(index), with_kwargs=True).remove)
            for index, layer in enumerate(layers[:-1]):
                stack.enter_context(intercepted(attention_of(layer), chunk.attend(index)))
            for index in self.tower.tapped:
                stack.callback(layers[index].register_forward_hook(chunk.after(index)).remove)
            yield

    def held(self, index: int, key: Tensor, patches: int) -> tuple[Tensor, Tensor]:
        """Keys and values of a layer that stand for all patches, to be written over: [1, heads, P, head_size] each."""
        if index not in self._keys:
            shape = (1, key.shape[1], patches, key.shape[3])
            self._keys[index] = (key.new_zeros(shape), key.new_zeros(shape))
        return self._keys[index]

    def hold(self, index: int, key: Tensor, value: Tensor) -> None:
        """Keep the keys and values of a whole slice."""
        self._keys[index] = (key.clone(), value.clone())

    def spread(self, index: int, rows: Tensor, source: Tensor) -> Tensor:
        """Give every patch the row that stands for it: [t, P, C].

        Args:
            index: of the layer that is about to read them.
            rows: [R, C], the computed ones.
            source: [t, P] int64, which of the P rows of before and the R new ones stands for each patch.
        """
        before = self._outputs.get(index, rows.new_zeros(source.shape[1], rows.shape[1]))
        spread = torch.cat([before, rows])[source]
        self._outputs[index] = spread[-1].clone()
        return spread


class _Chunk:
    """One forward through the tower, and the hooks that carry it.

    Stock layers cannot run on no rows: where none is needed one goes along, and nobody reads what becomes of it.
    """

    def __init__(self, own: Tensor, shared: SharedRows) -> None:
        self.own, self.shared, self.whole = own, shared, bool(own.all())
        self.last, self.tapped = len(shared.tower.layers) - 1, shared.tower.tapped
        self.thread = threading.get_ident()
        self.places = [patches.nonzero()[:, 0] for patches in own]
        self.bounds: tuple[int, ...] = (0, own.shape[1])  # of the parts of a slice that see each other

    def _begin(self, rows: Tensor) -> None:
        """Look at what the first layer reads: [t, P, C], or [t * P, C] in towers that take all slices as one."""
        self.shape = rows.shape
        self.stock = self.whole and rows.dim() == 3
        self.places = [places.to(rows.device) for places in self.places]
        picked = self.own.flatten().nonzero()[:, 0]
        self.picked = (picked if len(picked) else torch.zeros(1, dtype=torch.int64)).to(rows.device)
        number = self.own.flatten().cumsum(0).view(self.own.shape) - 1 + self.own.shape[1]
        before = torch.arange(self.own.shape[1])[None]
        newest = torch.cat([before, torch.where(self.own, number, -1)]).cummax(0).values
        self.source = newest[1:].to(rows.device)

    def before(self, index: int) -> Callable[..., Any]:
        """Pre-hook of a layer: what it reads, and where in the tower its rows are."""

        def before_layer(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if threading.get_ident() != self.thread:
                return None
            rows = self._entering(index, args[0] if args else kwargs["hidden_states"])
            self.shared.rows[index] += rows.shape[:-1].numel()
            named = {key: value for key, value in kwargs.items() if key != "hidden_states"}
            if index < self.last and rows.dim() == 2:
                named |= self._as_one(named["cu_seqlens"], named["position_embeddings"])
            return (rows, *args[1:]), named

        return before_layer

    def after(self, index: int) -> Callable[..., Any]:
        """Hook of a layer whose output is used: all rows."""

        def after_layer(module: nn.Module, args: Any, output: Tensor) -> Any:
            return self._spread(index + 1, output) if threading.get_ident() == self.thread else None

        return after_layer

    def attend(self, index: int) -> Attend:
        """Attention of a layer: each slice's own rows to all of its patches."""

        def attend(kernel: Attend, query: Tensor, key: Tensor, value: Tensor, *mask: Any, **rest: Any) -> Any:
            if self.stock:
                self.shared.hold(index, key[-1:], value[-1:])
                return kernel(query, key, value, *mask, **rest)
            rest.pop("attention_mask", None)  # every patch is a real one
            held = self.shared.held(index, key, self.own.shape[1])
            parts = self._parts(query, key, value, *held) if self.own.any() else [(query, *held)]
            return torch.cat([kernel(*part, None, **rest)[0] for part in parts], 1), None

        return attend

    def _entering(self, index: int, rows: Tensor) -> Tensor:
        """The own rows alone, or all rows again before the last layer."""
        if index == 0:
            self._begin(rows)
        full = index == 0 or index - 1 in self.tapped
        if index == self.last:
            return rows if full else self._spread(index, rows)
        if not full or self.whole:
            return rows
        packed = rows.reshape(-1, rows.shape[-1])[self.picked]
        return packed[None] if rows.dim() == 3 else packed

    def _spread(self, index: int, rows: Tensor) -> Tensor:
        return self.shared.spread(index, rows.reshape(-1, rows.shape[-1]), self.source).view(self.shape)

    def _as_one(self, lengths: Tensor, turns: tuple[Tensor, Tensor]) -> dict[str, Any]:
        """Arguments with which a stock layer hands all own rows to attention at once."""
        self.bounds = tuple(end for end in lengths.tolist() if end <= self.own.shape[1])
        one = lengths.new_tensor([0, len(self.picked)])
        return {"cu_seqlens": one, "position_embeddings": tuple(turn[self.picked] for turn in turns)}

    def _parts(
        self, query: Tensor, key: Tensor, value: Tensor, keys: Tensor, values: Tensor
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Own queries with the keys and values that they see, slice by slice and part by part; brings ``keys`` and
        ``values`` up to each slice on the way."""
        ends = [0, *self.own.flatten().cumsum(0).tolist()]
        for slice_, places in enumerate(self.places):
            first = slice_ * self.own.shape[1]
            new = slice(ends[first], ends[first + self.own.shape[1]])
            keys.index_copy_(2, places, key[:, :, new])
            values.index_copy_(2, places, value[:, :, new])
            for low, high in pairwise(self.bounds):
                rows = slice(ends[first + low], ends[first + high])
                if rows.stop > rows.start:
                    yield query[:, :, rows], keys[:, :, low:high], values[:, :, low:high]
