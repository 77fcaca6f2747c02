# SPDX-License-Identifier: Apache-2.0
"""Merging inside the vision tower, through hooks on its stock layers.

Between two layers the rows of a frame, or whole frames, may be merged. The layers behind run on fewer rows; before the
first layer whose output is used every patch gets the row back that it became, so projector, pooling and signals see the
geometry they expect, and a row that stands for many patches is attended to as often. Frames that became one are
reported apart, so that the language model gets them once.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from vidcomp.core.tokens import merge_rows
from vidcomp.errors import UsageError
from vidcomp.tower.probe import attention_of

__all__ = ["TowerCut", "TowerMerger", "TowerRun", "TowerStage", "merging_tower", "whole_clip"]


@dataclass(frozen=True)
class TowerStage:
    """State behind a layer, as a merger sees it. Dimension letters: t frames, P rows of each, C width of the tower.

    Attributes:
        layer: index of the layer that ran.
        rows: [t, P, C], its output.
        sizes: [t, P] float32, how many patches each row stands for.
        keys, queries: [t, P, heads, head_size] of the layer, as its attention projected them.
    """

    layer: int
    rows: Tensor
    sizes: Tensor
    keys: Tensor
    queries: Tensor

    @cached_property
    def mean_keys(self) -> Tensor:
        """[t, P, head_size], mean over heads."""
        return self.keys.mean(2)

    @cached_property
    def summary_attention(self) -> Tensor:
        """Attention of the mean query to each row, mean over heads, for towers without a class token: [t, P]."""
        query = self.queries.float().mean(1, keepdim=True)  # [t, 1, heads, head_size]
        scores = (query * self.keys.float()).sum(-1) * self.keys.shape[-1] ** -0.5
        attention: Tensor = scores.softmax(1).mean(-1)
        return attention


@dataclass(frozen=True)
class TowerCut:
    """The fate of t * P rows.

    Attributes:
        owner: [t, P] int64, the new row, counted over all frames (frame * left + row), that each row goes to.
        share: [t, P] float32, its weight there.
        frames, left: how many frames, and rows of each, there are afterwards.
    """

    owner: Tensor
    share: Tensor
    frames: int
    left: int


class TowerMerger(Protocol):
    """A frozen dataclass whose fields are its parameters; one file per published scheme in ``vidcomp/tower``."""

    name: ClassVar[str]
    over_frames: ClassVar[bool]  # whether all frames must pass the tower together
    weighted: bool  # whether attention counts a row as often as the patches it stands for

    def layers(self, depth: int) -> tuple[int, ...]:
        """Layers (0-based, of ``depth`` before the last) behind which rows are merged."""
        ...

    def merge(self, stage: TowerStage) -> TowerCut | None:
        """Decide; None leaves the rows as they are."""
        ...


@dataclass
class TowerRun:
    """Record of encoding frames.

    Attributes:
        rows: rows that each layer of the tower read, summed over all frames.
        frames: [F] int64, which of the frames that are left each frame became.
    """

    rows: list[int] = field(default_factory=list)
    frames: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))

    @property
    def firsts(self) -> Tensor:
        """The first of the frames that became each one that is left, ascending."""
        steps = torch.ones(len(self.frames), dtype=torch.bool)
        steps[1:] = self.frames[1:] != self.frames[:-1]
        return steps.nonzero()[:, 0]

    def add(self, counts: Sequence[int], frames: Tensor) -> None:
        """Append a chunk of frames."""
        self.rows = [a + b for a, b in zip(self.rows or [0] * len(counts), counts, strict=True)]
        start = int(self.frames[-1]) + 1 if len(self.frames) else 0
        self.frames = torch.cat([self.frames, frames.cpu() + start])


@contextmanager
def merging_tower(layers: Sequence[nn.Module], merger: TowerMerger) -> Iterator[TowerRun]:
    """Merge in every forward through the tower that this thread makes while the block runs.

    Args:
        layers: the tower's layers up to the first one whose output is used.
        merger: decides.

    Raises:
        UsageError: a tower whose keys cannot be seen, or an attention kernel that takes no weights.
    """
    run = TowerRun()
    host = _Host(layers, merger, run)
    handles = [layer.register_forward_pre_hook(host.before(i), with_kwargs=True) for i, layer in enumerate(layers)]
    for index in merger.layers(len(layers) - 1):
        handles += [projection.register_forward_hook(host.note(which, index))
                    for which, projection in _projections(layers[index]).items()]  # fmt: skip
    try:
        yield run
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def whole_clip(family: Any) -> Iterator[None]:
    """Let all frames pass a family's tower at once while the block runs, instead of in chunks."""
    limits = ("chunk", "chunk_patches")
    for name in limits:
        setattr(family, name, sys.maxsize)  # on the object, over the class's own number
    try:
        yield
    finally:
        for name in limits:
            delattr(family, name)


def _projections(layer: nn.Module) -> dict[str, nn.Module]:
    attention = attention_of(layer)
    found = {name: getattr(attention, f"{name}_proj", None) for name in ("k", "q")}
    if not all(isinstance(module, nn.Module) for module in found.values()):
        raise UsageError("--encoder", why=f"{type(attention).__name__} does not show its keys", code="bad_option")
    return {name: module for name, module in found.items() if module is not None}


class _Host:
    """The state of one forward through the tower, and the hooks that carry it."""

    def __init__(self, layers: Sequence[nn.Module], merger: TowerMerger, run: TowerRun) -> None:
        self.merger, self.run, self.last = merger, run, len(layers) - 1
        self.stages = frozenset(merger.layers(self.last))
        self.heads = attention_of(layers[0]).num_heads
        self.flash = "flash" in str(attention_of(layers[0]).config._attn_implementation)
        self.thread = threading.get_ident()
        if merger.weighted and self.flash:
            raise UsageError(f"--encoder {merger.name}", why="flash attention cannot weigh rows by their size",
                             hint="weighted=false, or --attn sdpa", code="bad_option")  # fmt: skip

    def note(self, which: str, index: int) -> Callable[..., None]:
        def after_projection(module: nn.Module, args: Any, output: Tensor) -> None:
            if threading.get_ident() == self.thread:
                self.projected[which] = output.view(*output.shape[:2], self.heads, -1)

        return after_projection

    def before(self, index: int) -> Callable[..., Any]:
        def before_layer(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if threading.get_ident() != self.thread:
                return None
            rows = args[0] if args else kwargs["hidden_states"]
            if index == 0:
                self._begin(rows)
            elif index - 1 in self.stages:
                rows = self._merge(index - 1, rows)
            if index == self.last:
                rows = self._restored(rows)
            self.counts.append(rows.shape[0] * rows.shape[1])
            if index == self.last:
                self.run.add(self.counts, self.frames)
            return self._called(index, rows, args, kwargs)

        return before_layer

    def _begin(self, rows: Tensor) -> None:
        self.shape = rows.shape[:2]
        self.source = torch.arange(rows.shape[0] * rows.shape[1], device=rows.device)
        self.sizes = torch.ones(rows.shape[:2], device=rows.device)
        self.frames = torch.arange(rows.shape[0])
        self.counts: list[int] = []
        self.projected: dict[str, Tensor] = {}

    def _merge(self, layer: int, rows: Tensor) -> Tensor:
        stage = TowerStage(layer, rows, self.sizes, self.projected["k"], self.projected["q"])
        cut = self.merger.merge(stage)
        if cut is None:
            return rows
        owner, total = cut.owner.flatten(), cut.frames * cut.left
        merged = merge_rows(rows.flatten(0, 1), owner, cut.share.flatten(), total)
        sizes = torch.zeros(total, device=rows.device).index_add_(0, owner, self.sizes.flatten())
        self.sizes, self.source = sizes.view(cut.frames, cut.left), owner[self.source]
        if cut.frames != rows.shape[0]:
            self.frames = (cut.owner[:, 0] // cut.left).cpu()[self.frames]
        return merged.view(cut.frames, cut.left, -1).to(rows.dtype)

    def _restored(self, rows: Tensor) -> Tensor:
        return rows.flatten(0, 1)[self.source].view(*self.shape, -1)

    def _called(self, index: int, rows: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The layer's arguments with these rows, and with attention weighted by size where rows were merged."""
        named = {key: value for key, value in kwargs.items() if key != "hidden_states"}
        rest = args[1:]
        if self.merger.weighted and index < self.last and rows.shape[1] != self.shape[1]:
            weights = self.sizes.log().to(rows.dtype)[:, None, None]  # [t, 1, 1, P]
            named, rest = {**named, "attention_mask": weights}, rest[1:]
        return (rows, *rest), named
