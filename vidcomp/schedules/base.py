# SPDX-License-Identifier: Apache-2.0
"""The contract of a reduction inside the language model: its layers, and the fate of the visual rows there.

To add one: write ``schedules/<name>.py`` with a frozen dataclass that derives from :class:`Schedule`, and add its line
to the table in ``schedules/__init__.py``. A package outside this one registers a class under the entry-point group
``vidcomp.schedules``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from vidcomp.core.parameters import check_share, listed
from vidcomp.core.source import Source
from vidcomp.methods.base import Parity

if TYPE_CHECKING:
    from vidcomp.schedules.state import Stage

__all__ = [
    "Cut",
    "Schedule",
    "best_rows",
    "check_layer",
    "every_row",
    "layer_within",
    "own_layer",
    "placed",
    "scaled_layer",
    "stage_shares",
]


@dataclass(frozen=True)
class Cut:
    """The fate of the visual rows at a layer.

    Attributes:
        kept: [B, W] int64, ascending indices of the rows that stay; W may be 0.
        merged: [B, W, D], what they become, None when they stay as they are.
    """

    kept: Tensor
    merged: Tensor | None = None

    def check(self, rows: int) -> None:
        """Raise ValueError unless ``kept`` is ascending and inside ``rows`` rows, and ``merged`` fits it."""
        kept = self.kept
        if self.merged is not None and self.merged.shape[:2] != kept.shape:
            raise ValueError(f"{list(self.merged.shape)} merged rows for {list(kept.shape)} kept ones")
        if kept.shape[1] == 0:
            return
        inside = (kept[:, 0] >= 0).all() & (kept[:, -1] < rows).all() & (kept[:, 1:] > kept[:, :-1]).all()
        if not bool(inside):
            raise ValueError(f"kept rows must be ascending indices below {rows}")


class Schedule:
    """Base of the schedules: frozen dataclasses whose fields are their parameters, one file per published schedule.

    A schedule says one or several of three things: rows leave before some layers (``layers``, ``reduce``), visual rows
    pass through some layers unchanged (``frozen``), or decode steps read only part of the visual keys (``read_from``,
    ``read``). It holds no state: what one stage has to tell the next goes into the stage's ``memory``.

    Attributes:
        name: what the user types.
        summary: one line, what it does.
        source: paper and published code; a class of another package may say it in plain words.
        parity: ``goldens`` when outputs of the published code are reproduced in the tests, else ``own reading``.
        equal_with, differs: as in :class:`~vidcomp.methods.base.Method`.
        needs: signals of the vision tower that it reads, by their :class:`~vidcomp.core.tokens.TokenView` names.
        exact: whether the number of rows follows from shapes alone.
        attends: whether it decides by what text rows look at, so that the question matters.

    Dimension letters: B sequences, S rows at the layer, V visual rows among them, W visual rows left, D width.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    source: ClassVar[Source | str]
    parity: ClassVar[Parity] = "own reading"
    equal_with: ClassVar[str] = ""
    differs: ClassVar[str] = ""
    needs: ClassVar[frozenset[str]] = frozenset()
    exact: ClassVar[bool] = True
    attends: ClassVar[bool] = True
    stage: ClassVar[str] = "inner"

    @property
    def renumbers(self) -> bool:
        """True if the rows left after a stage get positions without gaps: where ``positions=compact`` was asked for."""
        return getattr(self, "positions", "keep") == "compact"

    def layers(self, depth: int) -> tuple[int, ...]:
        """Layers (0-based, at least 1) before which rows are reduced, in a decoder of ``depth`` layers.

        Raises:
            ValueError: the decoder has no such layer.
        """
        return ()

    def watched(self, depth: int) -> frozenset[int]:
        """Layers whose attention the stages ask for: the layer before each stage, unless a schedule looks further."""
        return frozenset(layer - 1 for layer in self.layers(depth))

    def reduce(self, stage: Stage) -> Cut | None:
        """Decide and merge, before the stage's layer runs; None leaves everything as it is."""
        return None

    def frozen(self, depth: int) -> frozenset[int]:
        """Layers which visual rows pass unchanged: others still read their keys, but they get no update."""
        return frozenset()

    def read_from(self, depth: int) -> int | None:
        """The first layer whose visual keys are read only in part while the answer is written, None for none."""
        return None

    def read(self, attention: Tensor, memory: dict[str, Any]) -> Tensor | None:
        """Choose the visual keys that the coming step reads, from the attention [B, V] that the newest row pays to them
        in the layer before: ascending indices [B, W], or None for all."""
        return None


def scaled_layer(layer: int, made_for: int, depth: int) -> int:
    """Move a layer index to a decoder of another depth: same relative depth, rounded, between 1 and depth - 1."""
    return max(1, min(depth - 1, round(layer * depth / made_for)))


def layer_within(name: str, layer: int, depth: int, least: int = 1) -> int:
    """The layer itself.

    Raises:
        ValueError: the decoder has no such layer, or rows cannot leave before it.
    """
    if not least <= layer < depth:
        raise ValueError(f"{name}={layer} needs a decoder of more than {layer} layers, this one has {depth}"
                         if layer >= depth else f"{name} must be at least {least}, got {layer}")  # fmt: skip
    return layer


def check_layer(name: str, layer: int | None, least: int = 1) -> None:
    """Raise ValueError unless rows can leave before that layer of a deep decoder; None names none."""
    if layer is not None:
        layer_within(name, layer, layer + 1, least)


def own_layer(name: str, layer: int | None, published: int, made_for: int, depth: int) -> int:
    """The layer that a parameter names; where it is None the published one, moved to this depth.

    Raises:
        ValueError: the decoder has no such layer.
    """
    return scaled_layer(published, made_for, depth) if layer is None else layer_within(name, layer, depth)


def placed(layers: Sequence[int] | None, published: Sequence[int], made_for: int, depth: int) -> dict[int, int]:
    """Layer -> number of its stage. Named layers are taken as they are, published ones moved to this depth.

    In a shallow decoder several published layers fall together; the last stage among them stays.

    Raises:
        ValueError: the decoder has no such layer.
    """
    if layers is not None:
        return {layer_within("at", layer, depth): number for number, layer in enumerate(layers)}
    return {scaled_layer(layer, made_for, depth): number for number, layer in enumerate(published)}


def stage_shares(at: Any, keep: Any, published: int) -> tuple[float, ...]:
    """The shares of a schedule with several stages, one for each layer in ``at`` (``published`` many when it is None).

    Raises:
        ValueError: another number of shares than of layers, layers that do not ascend, or a share outside 0..1.
    """
    shares, layers = listed("keep", keep, float) or (), listed("at", at, int)
    stages = published if layers is None else len(layers)
    if len(shares) != stages:
        raise ValueError(f"{stages} layers need as many numbers in keep, got {len(shares)}")
    if layers is not None and (layers[0] < 1 or list(layers) != sorted(set(layers))):
        raise ValueError(f"at must be ascending layers from 1 on, got {layers}")
    check_share("keep", *shares)
    return shares


def best_rows(scores: Tensor, count: int) -> Tensor:
    """Indices [B, count] of the largest scores [B, V] in ascending order; equal scores keep the lower index."""
    order = scores.argsort(dim=1, descending=True, stable=True)
    return order[:, : max(0, min(count, scores.shape[1]))].sort(dim=1).values


def every_row(rows: Tensor) -> Tensor:
    """Indices of all rows [B, V, ...]: [B, V]."""
    return torch.arange(rows.shape[1], device=rows.device).expand(rows.shape[0], -1)
