# SPDX-License-Identifier: Apache-2.0
"""The state that a schedule sees at one of its layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from vidcomp.errors import ModelError
from vidcomp.schedules.blocks.rows import take_rows
from vidcomp.schedules.blocks.scoring import Attention

__all__ = ["Stage"]


@dataclass(frozen=True)
class Stage:
    """The rows that enter a layer in the prefill, and everything a schedule may ask about them.

    Dimension letters: B sequences, S rows, V visual rows among them (separators included), D width, A rows of text
    behind the video.

    Attributes:
        layer: the layer (0-based) about to run.
        depth: number of decoder layers.
        rows: [B, S, D], text included.
        visual: [B, V] int64, where the visual rows stand among the S, ascending.
        origin: [B, V] int64, which of the visual rows of layer 0 each one is.
        total: number of visual rows at layer 0.
        uncompressed: how many there would be without an outer stage.
        after: A.
        facts: what is known about the visual rows of layer 0, each [total]; ``frame`` and ``place`` (index within the
            frame) are -1 for separators, ``span`` numbers its span, ``still`` is 1 for a row that stands for several
            frames, else 0; signals of the tower have their :class:`~vidcomp.core.tokens.TokenView` names.
        memory: kept from stage to stage of one forward pass.
        attention_of: the attention of a watched layer below this one.
        coming: the attention that this layer is about to compute.
    """

    layer: int
    depth: int
    rows: Tensor
    visual: Tensor
    origin: Tensor
    total: int
    uncompressed: int
    after: int
    facts: Mapping[str, Tensor]
    memory: dict[str, Any]
    attention_of: Callable[[int], Attention]
    coming: Callable[[], Attention]

    @cached_property
    def hidden(self) -> Tensor:
        """The visual rows: [B, V, D]."""
        return take_rows(self.rows, self.visual)

    @property
    def count(self) -> int:
        """V."""
        return self.visual.shape[1]

    @cached_property
    def question(self) -> Tensor:
        """Places of the rows of text behind the video: [B, A]."""
        size = self.rows.shape[1]
        return torch.arange(size - self.after, size, device=self.rows.device).expand(self.rows.shape[0], -1)

    @cached_property
    def text(self) -> Tensor:
        """[B, S] bool, True for every row that is not visual."""
        marked = torch.ones(self.rows.shape[:2], dtype=torch.bool, device=self.rows.device)
        return marked.scatter_(1, self.visual, False)

    def attention(self, back: int = 1) -> Attention:
        """The attention of the layer ``back`` steps before this one; 0 is what this layer is about to compute.

        Raises:
            ModelError: that layer was not watched, or its attention module was not called as expected.
        """
        return self.coming() if back == 0 else self.attention_of(self.layer - back)

    def looked_at(self, back: int = 1) -> Tensor:
        """Attention of the last row to each visual row: [B, V]."""
        return self.of_visual(self.attention(back).last_row())

    def of_visual(self, values: Tensor) -> Tensor:
        """The entries of [B, S] that belong to visual rows: [B, V]."""
        return values.gather(1, self.visual)

    def fact(self, name: str) -> Tensor:
        """A fact about the visual rows that are present: [B, V].

        Raises:
            ModelError: whoever planned the prefill did not say.
        """
        if name not in self.facts:
            raise ModelError(
                f"the reduction before layer {self.layer} needs the {name} of every visual row",
                why="the plan of this prefill does not hold it",
            )
        return self.facts[name].to(self.origin.device)[self.origin]
