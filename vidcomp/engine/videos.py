# SPDX-License-Identifier: Apache-2.0
"""A video between the steps of a request: after the vision tower, and ready to be asked about."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from vidcomp.config import RunConfig
from vidcomp.core.arguments import Maker, expect
from vidcomp.core.ledger import StageLedger
from vidcomp.core.tokens import CompressedTokens, Reduction, TokenView
from vidcomp.engine.prefix import SharedPrefix
from vidcomp.families import Layout
from vidcomp.methods import Method
from vidcomp.schedules import Schedule
from vidcomp.spans import FramePlan, Segments
from vidcomp.video import Frames

__all__ = ["CompressedVideo", "EncodedVideo"]


@dataclass(frozen=True)
class EncodedVideo:
    """A video after the vision tower, before any token is removed by a method.

    Attributes:
        frames: the sampled frames and their times.
        layout: how they become slices and tokens.
        plan: which slices have rows; all, but where frames merged in the vision tower.
        entered: [E] which slices went through the tower; the others have the rows of the one that they repeat.
        view: tokens of the slices that have rows, [T, N, D].
        seen: [T, F], what the segmenter saw of these slices, None when none is named that describes them.
        segments: the spans that it found, None where that is left to the method.
        config: the settings it was read with.
        ledger: the stages so far.
        maker: the model that made it, and the only one that can be asked about it.
        compressor: the ``compress`` of the :class:`VideoLM` that made it.
        looks: what each segmenter that was asked so far saw of it.
    """

    frames: Frames
    layout: Layout
    plan: FramePlan
    entered: Tensor
    view: TokenView
    seen: Tensor | None
    segments: Segments | None
    config: RunConfig
    ledger: StageLedger
    maker: Maker | None = None
    compressor: Callable[..., CompressedVideo] | None = field(default=None, repr=False, compare=False)
    looks: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)

    def compress(
        self, *, question: str | None = None, method: str | Method | None = None, **settings: Any
    ) -> CompressedVideo:
        """Remove tokens: the outer stage, as often as wanted and with other settings each time.

        Args:
            question: what a question-aware method chooses tokens for.
            method, settings: as in :meth:`VideoLM.ask`; those not named are the ones it was encoded with.
        """
        expect("video", self, self.compressor is not None, "what lm.encode() returned")
        assert self.compressor is not None
        return self.compressor(self, question=question, method=method, **settings)


@dataclass(frozen=True)
class CompressedVideo:
    """A video ready to be asked about: survivors, and the decision that made them.

    Attributes:
        encoded: where it comes from.
        tokens: survivors, [M, D].
        reduction: the decision, about all T * N tokens.
        method: the method's name, with its parameters as they were given.
        schedule: what will be reduced inside the language model, None for nothing.
        question: the one that the method chose tokens for, None when it looked at the video alone.
        config: settings, the keep ratio among them.
        ledger: the stages so far.
        prefix: what the language model holds of it between questions.
    """

    encoded: EncodedVideo
    tokens: CompressedTokens
    reduction: Reduction
    method: str
    schedule: Schedule | None
    question: str | None
    config: RunConfig
    ledger: StageLedger
    prefix: SharedPrefix = field(default_factory=SharedPrefix, repr=False, compare=False)
