# SPDX-License-Identifier: Apache-2.0
"""Looks at the frames before the vision tower: who finds the spans of a request, and which frames need no encoding."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from vidcomp.config import ModelConfig, RunConfig, SpanConfig
from vidcomp.engine.outer import ADDED, completed
from vidcomp.engine.record import Recorder
from vidcomp.engine.videos import EncodedVideo
from vidcomp.errors import UsageError
from vidcomp.families import Encoded, Family, Layout
from vidcomp.hub import EMBEDDED
from vidcomp.methods import Method
from vidcomp.methods.base import reads
from vidcomp.spans import FrameEncoder, FramePlan, find_duplicates, find_segments, frame_encoder, with_copies
from vidcomp.tower.host import TowerMerger
from vidcomp.video import Frames

__all__ = ["Look", "Looks", "check_segmenter", "spans_unread", "with_own_rows"]


@dataclass(frozen=True)
class Look:
    """A look at a video: the regions of its slices as a frame encoder sees them.

    Attributes:
        encoder: says how alike two slices are.
        regions: [T, R, F], of every slice.
    """

    encoder: FrameEncoder
    regions: Tensor

    @property
    def described(self) -> Tensor | None:
        """[T, F] what was seen, region after region; None where it does not say what a frame shows."""
        return self.regions.flatten(1) if self.encoder.describes else None


def check_segmenter(config: RunConfig, merger: TowerMerger | None) -> None:
    """Refuse to look for spans where the vision tower merges frames across them.

    Raises:
        UsageError: both are asked for.
    """
    if config.spans.looks and merger is not None and merger.over_frames:
        raise UsageError(f"--segmenter {config.spans.segmenter} together with --encoder {config.outer.encoder}",
                         why="it merges frames in the vision tower, wherever a span ends",
                         hint="--segmenter tower, or --encoder none", code="bad_option")  # fmt: skip


def spans_unread(video: EncodedVideo, method: Method, config: RunConfig) -> Iterator[str]:
    """A note where a segmenter was named and the method goes neither by spans nor by what was seen of the frames."""
    goes_by = getattr(method, "span_rule", "") or (video.seen is not None and "frame_features" in reads(method, ADDED))
    if config.spans.looks and not config.outer.whole and not goes_by:
        yield f"{method.name} does not work in spans: --segmenter {config.spans.segmenter} changes nothing"


class Looks:
    """The frame encoders of one model, loaded when they are first asked for.

    Attributes:
        family: the model that they stand beside.
    """

    def __init__(self, family: Family, config: ModelConfig) -> None:
        self.family, self._config = family, config
        self._encoders: dict[tuple[str, str | None], FrameEncoder] = {}

    def encoder(self, name: str, checkpoint: str | None) -> FrameEncoder | None:
        """The encoder of a segmenter, None for ``tower``.

        Raises:
            ModelError: its checkpoint is missing or of another family.
        """
        if name == "tower":
            return None
        if (name, checkpoint) not in self._encoders:
            self._encoders[name, checkpoint] = frame_encoder(
                name, checkpoint, device=self._config.device, offline=self._config.offline,
                embedded=self.family.checkpoint.name in EMBEDDED,
            )  # fmt: skip
        return self._encoders[name, checkpoint]

    def check(self, config: RunConfig) -> None:
        """Load what a run with these settings would load.

        Raises:
            ModelError: as :meth:`encoder`.
        """
        self.encoder(config.spans.segmenter, config.spans.segmenter_model)

    def repeats(
        self, frames: Frames, layout: Layout, config: SpanConfig, recorder: Recorder, known: dict[Any, Look]
    ) -> FramePlan:
        """Slices to encode; the others repeat one of them, as the segmenter sees it (``tower``: their brightness).

        Args:
            frames, layout: the video.
            config: names the segmenter and the limit.
            recorder: of the request.
            known: looks at this video, filled here.
        """
        limit = None if config.repeats == "auto" else float(config.repeats)
        with recorder.timed():
            name = config.segmenter if config.looks else "luma"
            look = self._look(frames, layout, name, config.segmenter_model, known)
            plan = find_duplicates(look.regions, look.encoder, limit)
        recorder.segmented(layout, plan.encode)
        return plan

    def segmented(self, video: EncodedVideo, config: SpanConfig, method: Method, recorder: Recorder) -> EncodedVideo:
        """The video with the spans of the segmenter, in the view of a method that works in them.

        Args:
            video: holds the frames, and what was seen of them so far.
            config: names the segmenter; ``tower`` leaves spans to the method.
            method: reads the view.
            recorder: of the request.
        """
        segments, described, own_rule = None, None, getattr(method, "span_rule", "")
        if config.looks:
            new = (config.segmenter, config.segmenter_model) not in video.looks
            rule = (own_rule or "gain") if config.span_rule == "auto" else config.span_rule
            with recorder.timed():
                look = self._look(video.frames, video.layout, config.segmenter, config.segmenter_model, video.looks)
                segments = find_segments(config.segmenter, look.regions, look.encoder, rule, config.same_span)
            if new:
                recorder.segmented(video.layout, torch.arange(video.layout.slices))
            described = look.described
        seen = None if described is None else described[video.plan.encode]
        spans = segments.spans if segments is not None and own_rule else ()
        view = completed(replace(video.view, spans=spans, frame_features=None), method, self.family, seen)
        return replace(video, view=view, segments=segments, seen=seen, ledger=recorder.ledger)

    def _look(self, frames: Frames, layout: Layout, name: str, checkpoint: str | None, known: dict[Any, Look]) -> Look:
        if (name, checkpoint) not in known:
            encoder = self.encoder(name, checkpoint)
            assert encoder is not None
            known[name, checkpoint] = Look(encoder, layout.by_slice(encoder(frames.pixels)))
        return known[name, checkpoint]


def with_own_rows(encoded: Encoded, left: FramePlan, repeats: FramePlan) -> tuple[Encoded, FramePlan]:
    """Slices behind the tower, those among them that repeat one with the rows of that one."""
    plan, row = with_copies(left, repeats)
    copied = {name: value[row.to(value.device)] for name, value in encoded.signals.items()}
    levels = tuple(level[row.to(level.device)] for level in encoded.deepstack)
    features = encoded.features[row.to(encoded.features.device)]
    return replace(encoded, features=features, signals=copied, deepstack=levels), plan
