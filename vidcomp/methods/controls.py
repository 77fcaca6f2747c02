"""Controls that every comparison needs: no reduction, random tokens, evenly spaced tokens.

A method that does not beat these at equal budget has shown nothing; at high drop rates random is hard to beat.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from vidcomp.budget import token_budget
from vidcomp.methods.select import keep_only
from vidcomp.tokens import Reduction, TokenView, identity

__all__ = ["Keep", "Random", "Uniform"]


@dataclass(frozen=True)
class Keep:
    """Every token, unchanged, whatever ``keep`` says."""

    name: ClassVar[str] = "none"
    summary: ClassVar[str] = "no reduction: every token, unchanged, whatever keep says"
    source: ClassVar[str] = "control of this project"
    needs: ClassVar[frozenset[str]] = frozenset()
    inner: ClassVar[str | None] = None

    def __call__(self, view: TokenView, keep: float) -> Reduction:
        """All T * N tokens in raster order."""
        frames, tokens = view.features.shape[:2]
        return identity(frames, tokens, view.features.device)


@dataclass(frozen=True)
class Random:
    """A random set of exactly ``token_budget(T * N, keep)`` tokens, in raster order.

    Drawn on the CPU, so that one seed gives one set on every device. Report the mean over at least three seeds.
    """

    seed: int = 0

    name: ClassVar[str] = "random"
    summary: ClassVar[str] = "control: a random set of tokens, exact budget, one seed gives one set"
    source: ClassVar[str] = "control of this project; UniPruneBench, arXiv 2511.02650, shows how strong it is"
    needs: ClassVar[frozenset[str]] = frozenset()
    inner: ClassVar[str | None] = None

    def __post_init__(self) -> None:
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or not 0 <= self.seed < 2**63:
            raise ValueError(f"seed must be an integer from 0 to 2**63 - 1, got {self.seed!r}")

    def __call__(self, view: TokenView, keep: float) -> Reduction:
        """Draw without replacement from all T * N tokens."""
        draw = torch.randperm(view.total, generator=torch.Generator().manual_seed(self.seed))
        anchors = draw[: token_budget(view.total, keep)].sort().values
        return keep_only(anchors.to(view.features.device), view.total)


@dataclass(frozen=True)
class Uniform:
    """Evenly spaced tokens over the raster of the whole video.

    With budget k = ``token_budget(T * N, keep)`` survivor i stands at the middle of the i-th of k equal parts of the
    raster: ``floor((i + 1/2) * T * N / k)``, in integers, so always k different tokens.
    """

    name: ClassVar[str] = "uniform"
    summary: ClassVar[str] = "control: tokens at equal distances over the raster of all frames, exact budget"
    source: ClassVar[str] = "control of this project"
    needs: ClassVar[frozenset[str]] = frozenset()
    inner: ClassVar[str | None] = None

    def __call__(self, view: TokenView, keep: float) -> Reduction:
        """Take the token in the middle of each part."""
        budget = token_budget(view.total, keep)
        middle = 2 * torch.arange(budget, device=view.features.device) + 1
        return keep_only(middle * view.total // (2 * budget), view.total)
