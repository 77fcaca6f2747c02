# SPDX-License-Identifier: Apache-2.0
"""The state of one forward pass through the decoder: which rows are still present, and where the visual ones stand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from vidcomp.engine.decoder.frozen import FrozenRows
from vidcomp.errors import ModelError
from vidcomp.schedules.base import Cut
from vidcomp.schedules.blocks.rows import add_rows, ranks_of, take_rows
from vidcomp.schedules.blocks.scoring import AttentionInput

__all__ = ["Forward", "Rotary", "Tables"]

Tables = tuple[Tensor, Tensor]
Rotary = Callable[[Tensor, Tensor], Tables]


@dataclass
class Forward:
    """One forward pass; a new one begins with every prefill and every decode step.

    Dimension letters: B sequences, S rows of this pass, R of them still present, V visual rows among the present.

    Attributes:
        batch: B.
        length: S.
        past: rows that layer 0 held before.
        prefilling: whether this pass reads the prompt that was planned.
        visual: [B, V] int64, where the visual rows stand among the present rows.
        origin: [B, V] int64, which of the plan's visual rows each one is.
        positions: position ids of the S rows, None when the decoder was given none.
        rotary: the decoder's own rotary embedding.
        rows: [B, R] int64, which of the S rows are present; None while all are.
        reading: [B, L] int64, the keys that this decode step reads from the read layer on; None for all.
        inputs: of watched layers, until the stage behind them has run.
        frozen: rows that wait beside a layer.
        compact: tables of renumbered rows and how far the last of them lags, by the number of rows.
    """

    batch: int
    length: int
    past: int
    prefilling: bool
    visual: Tensor
    origin: Tensor
    positions: Tensor | None = None
    rotary: Rotary | None = None
    rows: Tensor | None = None
    reading: Tensor | None = None
    inputs: dict[int, AttentionInput] = field(default_factory=dict)
    frozen: dict[int, FrozenRows] = field(default_factory=dict)
    compact: dict[int, tuple[Tables, int]] = field(default_factory=dict)

    def numbered(self) -> tuple[Rotary, Tensor]:
        """Input of new tables: the rotary embedding and the position ids [B, S].

        Raises:
            ModelError: rows of this decoder have no position of their own, or several.
        """
        if self.rotary is None or self.positions is None or self.positions.dim() != 2:
            raise ModelError("rows of this decoder cannot be numbered anew", why="they have no single position each",
                             hint="--positions keep")  # fmt: skip
        return self.rotary, self.positions

    def follow(self, device: torch.device) -> None:
        """Bring what tells rows apart to the device of the layer that is about to run."""
        self.visual, self.origin = self.visual.to(device), self.origin.to(device)
        self.rows = self.rows if self.rows is None else self.rows.to(device)

    def new_columns(self, like: Tensor) -> Tensor:
        """Columns [B, R] of the rows that are present, on the device of ``like``."""
        if self.rows is not None:
            return self.rows.to(like.device) + self.past
        return torch.arange(self.past, self.past + self.length, device=like.device).expand(self.batch, -1)

    def add(self, level: Tensor, hidden: Tensor) -> Tensor:
        """Add to each visual row of [B, R, D] what the level [V at layer 0, D] holds for it."""
        return add_rows(hidden, self.visual, level, self.origin)

    def add_beside(self, rows: Tensor, level: Tensor, hidden: Tensor) -> Tensor:
        """Add a level [P, D] to rows [P] of the S that always stay, wherever they stand by now."""
        places = rows.to(hidden.device).expand(hidden.shape[0], -1)
        if self.rows is not None:
            places = torch.searchsorted(self.rows.contiguous(), places.contiguous())
        return add_rows(hidden, places, level, torch.arange(len(rows)).expand(hidden.shape[0], -1))

    def cut(self, cut: Cut, hidden: Tensor) -> Tensor:
        """Carry out a decision: [B, R, D] to the rows that stay, some of them merged."""
        kept = self.visual.gather(1, cut.kept)
        present = torch.ones(hidden.shape[:2], dtype=torch.bool, device=hidden.device)
        present.scatter_(1, self.visual, False).scatter_(1, kept, True)
        if cut.merged is not None:
            hidden = hidden.scatter(1, kept[..., None].expand_as(cut.merged), cut.merged.to(hidden.dtype))
        index = ranks_of(present, hidden.shape[1] - self.visual.shape[1] + kept.shape[1])
        self.rows = index if self.rows is None else self.rows.gather(1, index)
        self.visual = (present.cumsum(1) - 1).gather(1, kept)
        self.origin = self.origin.gather(1, cut.kept)
        return take_rows(hidden, index)

    def survivors(self) -> Tensor:
        """[B, V] rows of the prefill that the visual rows still present are."""
        return self.visual if self.rows is None else self.rows.gather(1, self.visual)
