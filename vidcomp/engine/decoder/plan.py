# SPDX-License-Identifier: Apache-2.0
"""The plan for the rows of one prompt inside the decoder, settled before the prefill."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from torch import Tensor

from vidcomp.errors import ModelError
from vidcomp.schedules.base import Schedule

__all__ = ["RowPlan"]


@dataclass(frozen=True, eq=False)
class RowPlan:
    """Visual rows, and what the schedule does to them.

    Dimension letters: S rows of the prefill, V visual rows among them, D width, K positions per row.

    Attributes:
        flags: [S] bool on the CPU, the visual rows of the coming prefill.
        depth: number of decoder layers.
        schedule: what to reduce inside the model, None for nothing.
        facts: what schedules may ask about the visual rows, each [V]; see :class:`~vidcomp.schedules.state.Stage`.
        uncompressed: number of visual rows without an outer stage; 0 for as many as there are.
        deepstack: [V, D] each: tensor i is added to the visual rows after layer i of the prefill. A row that has left
            by then takes its share with it.
        beside: rows [P] of the prefill that are no part of the plan and always stay, and what each level adds to them
            [P, D]: pictures.
        positions: [K, S], several positions for each row (``--positions ppe``), None for one.
        reduces: False for a shared prefix, in which the stages only watch.
        visual: [V] int64 on the CPU, where the visual rows stand in the prefill.
        after: how many rows of text follow the last visual one.

    Raises:
        ModelError: more DeepStack levels than layers.
    """

    flags: Tensor
    depth: int
    schedule: Schedule | None = None
    facts: Mapping[str, Tensor] = field(default_factory=dict)
    uncompressed: int = 0
    deepstack: Sequence[Tensor] = ()
    beside: tuple[Tensor, Sequence[Tensor]] | None = None
    positions: Tensor | None = None
    reduces: bool = True
    visual: Tensor = field(init=False, repr=False)
    after: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        visual = self.flags.nonzero()[:, 0]
        object.__setattr__(self, "visual", visual)
        object.__setattr__(self, "after", self.length - 1 - int(visual[-1]) if visual.numel() else 0)
        if self.deepstack and len(self.deepstack) >= self.depth:
            raise ModelError(f"{len(self.deepstack)} DeepStack levels", why=f"the decoder has {self.depth} layers only")

    @property
    def length(self) -> int:
        """S."""
        return self.flags.numel()

    @property
    def total(self) -> int:
        """Visual rows of a run without an outer stage."""
        return self.uncompressed or self.visual.numel()

    @cached_property
    def stages(self) -> frozenset[int]:
        """Layers before which rows leave."""
        return frozenset(self._asked.layers(self.depth)) if self.reduces else frozenset()

    @cached_property
    def watched(self) -> frozenset[int]:
        """Layers whose attention the stages ask for."""
        return self._asked.watched(self.depth)

    @cached_property
    def frozen(self) -> frozenset[int]:
        """Layers that visual rows pass unchanged."""
        return self._asked.frozen(self.depth)

    @cached_property
    def read_layer(self) -> int | None:
        """The first layer whose visual keys decode steps read only in part, None for none."""
        return self._asked.read_from(self.depth)

    @property
    def renumbers(self) -> bool:
        """True if rows behind a stage get positions without gaps."""
        return self._asked.renumbers

    @property
    def forks(self) -> bool:
        """True if a question can go on from a shared prefix, whose keys keep the positions that they have."""
        return not self.renumbers and self.positions is None

    @property
    def _asked(self) -> Schedule:
        return self.schedule or Schedule()
