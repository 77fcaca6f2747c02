"""VFlowOpt's inner stages: drops by the vision tower's own scores, which every stage shares.

Source: "VFlowOpt", ICCV 2025, arXiv 2508.05211, https://github.com/sihany077/VFlowOpt (read, not copied: CC-BY-NC).
Needs: salience, the attention that each patch receives in the tower.
In plain words: the importance that the tower gave decides again inside the language model: before layers 9 and 18 of 28
keep the shares R2 and R3 of the rows that are left, at their old positions. Separators always stay.
Our reading: the published importance counts only attention given by patches that receive much themselves; here it is
the plain received attention, and a merged row has the importance of the token it stands at. The released pairs are
0.7487/0.487 for half of the tokens on average, 0.9833/0.8773 for a quarter, 1/0.6011 for a tenth.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from vidcomp.inllm.base import Cut, Schedule, best_rows, listed, placed, stage_shares
from vidcomp.inllm.stage import Stage

__all__ = ["VFlowOptInner"]

_LAYERS, _DEPTH = (9, 18), 28  # published


@dataclass(frozen=True)
class VFlowOptInner(Schedule):
    """Keep the share ``keep[i]`` of the rows that are left before layer ``at[i]``."""

    at: str | int | tuple[int, ...] | None = None
    keep: str | float | tuple[float, ...] = (0.7487, 0.487)

    name: ClassVar[str] = "vflowopt"
    summary: ClassVar[str] = "drops at two depths by the importance that the vision tower gave"
    source: ClassVar[str] = "VFlowOpt, ICCV 2025, arXiv 2508.05211, https://github.com/sihany077/VFlowOpt"
    needs: ClassVar[frozenset[str]] = frozenset({"salience"})

    def __post_init__(self) -> None:
        stage_shares(self.at, self.keep, len(_LAYERS))

    def layers(self, depth: int) -> tuple[int, ...]:
        """One layer per share."""
        return tuple(sorted(placed(listed("at", self.at, int), _LAYERS, _DEPTH, depth)))

    def reduce(self, stage: Stage) -> Cut:
        """Keep round(V * keep) rows, at least 1."""
        shares = stage_shares(self.at, self.keep, len(_LAYERS))
        number = placed(listed("at", self.at, int), _LAYERS, _DEPTH, stage.depth)[stage.layer]
        scores = stage.fact("salience").masked_fill(stage.fact("frame") < 0, torch.inf)
        return Cut(best_rows(scores, max(1, round(stage.count * shares[number]))))
