# SPDX-License-Identifier: Apache-2.0
"""VFlowOpt's inner stages: drops by the vision tower's own scores, which every stage shares.

Needs: trusted_attention, what each patch receives in the tower from the patches that receive much themselves.
In plain words: the importance that the tower gave decides again inside the language model: before layers 9 and 18 of 28
keep the shares R2 and R3 of the rows that are left, at their old positions. Separators always stay.
Our reading: a merged row has the importance of the token it stands at; the released code's entropy term has weight 0
and is left out. The released pairs are 0.7487/0.487 for half of the tokens on average, 0.9833/0.8773 for a quarter,
1/0.6011 for a tenth, each with a threshold of its own between 28.7 and 39.3 times the mean; here it is 30.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from vidcomp.core.parameters import listed
from vidcomp.core.source import Source
from vidcomp.schedules.base import Cut, Schedule, best_rows, placed, stage_shares
from vidcomp.schedules.state import Stage

__all__ = ["VFlowOptInner"]

_LAYERS, _DEPTH = (9, 18), 28  # published


@dataclass(frozen=True)
class VFlowOptInner(Schedule):
    """Keep the share ``keep[i]`` of the rows that are left before layer ``at[i]``."""

    at: str | int | tuple[int, ...] | None = None
    keep: str | float | tuple[float, ...] = (0.7487, 0.487)

    name: ClassVar[str] = "vflowopt"
    summary: ClassVar[str] = "drops at two depths by the importance that the vision tower gave"
    source: ClassVar[Source] = Source(
        "VFlowOpt",
        "ICCV 2025",
        "2508.05211",
        "https://github.com/sihany077/VFlowOpt",
        licence="CC-BY-NC: read, not copied",
    )
    attends: ClassVar[bool] = False
    needs: ClassVar[frozenset[str]] = frozenset({"trusted_attention"})

    def __post_init__(self) -> None:
        shares = stage_shares(self.at, self.keep, len(_LAYERS))
        object.__setattr__(self, "at", listed("at", self.at, int))
        object.__setattr__(self, "keep", shares)

    def layers(self, depth: int) -> tuple[int, ...]:
        """One layer per share."""
        return tuple(sorted(placed(listed("at", self.at, int), _LAYERS, _DEPTH, depth)))

    def reduce(self, stage: Stage) -> Cut:
        """Keep round(V * keep) rows, at least 1."""
        shares = stage_shares(self.at, self.keep, len(_LAYERS))
        number = placed(listed("at", self.at, int), _LAYERS, _DEPTH, stage.depth)[stage.layer]
        scores = stage.fact("trusted_attention").masked_fill(stage.fact("frame") < 0, torch.inf)
        return Cut(best_rows(scores, max(1, round(stage.count * shares[number]))))
