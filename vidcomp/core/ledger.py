# SPDX-License-Identifier: Apache-2.0
"""The record of one run: what entered and left each stage, and how long it took. :mod:`vidcomp.engine.record` fills it
as data passes, never from the request."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["Segmentation", "SpanRecord", "StageLedger", "StageRecord", "TokenCounts", "Unit"]

Unit = Literal["frames", "tokens"]


@dataclass
class StageRecord:
    """One stage: how much came in, how much went out, and the seconds in between.

    A ``reused`` stage ran for an earlier question; its seconds are not counted again.

    Attributes:
        name: of the stage.
        unit: unit of ``into`` and ``out``.
        into: number that came in.
        out: number that went out.
        seconds: wall time.
        reused: the stage ran for an earlier question.
    """

    name: str
    unit: Unit
    into: int = 0
    out: int = 0
    seconds: float = 0.0
    reused: bool = False

    @property
    def removed(self) -> float:
        """Share that the stage removed, 0 when it added."""
        return max(0.0, 1 - self.out / self.into) if self.into else 0.0

    def to_dict(self) -> dict[str, Any]:
        """As in the JSON outputs."""
        return {
            "name": self.name,
            "seconds": round(self.seconds, 6),
            "in": self.into,
            "out": self.out,
            "unit": self.unit,
            **({"reused": True} if self.reused else {}),
        }


@dataclass(frozen=True)
class SpanRecord:
    """One span: its frames and seconds, its tokens before and after, and the positions stored once.

    Attributes:
        start, end: sampled frames, both included.
        start_seconds, end_seconds: their presentation times.
        tokens: visual tokens before the outer stage.
        kept: visual tokens after it.
        static: positions that stay similar over the span and are stored once.
    """

    start: int
    end: int
    start_seconds: float
    end_seconds: float
    tokens: int
    kept: int
    static: int


@dataclass(frozen=True)
class Segmentation:
    """The finder of the spans, and its grounds.

    Attributes:
        segmenter: ``tower`` where the method found its own, else the network or measure that looked at the frames; None
            where nobody looked for spans, and each slice is one.
        rule: ``gain`` or ``fall``; empty where nobody looked at the frames.
        limit: similarity of that rule.
        similarity: of neighbouring slices as the segmenter saw them, empty where none did.
    """

    segmenter: str | None = None
    rule: str = ""
    limit: float | None = None
    similarity: tuple[float, ...] = ()

    @property
    def words(self) -> str:
        """A sentence's worth, for a report."""
        if self.segmenter is None:
            return "nobody looked for spans: each slice is one"
        if not self.rule:
            return "spans found by the method itself, on the features of the vision tower"
        return f"spans found by {self.segmenter}, rule {self.rule} at {self.limit:g}"

    def to_dict(self) -> dict[str, Any]:
        """As in the JSON outputs."""
        alike = [round(value, 4) for value in self.similarity]
        seen = {"rule": self.rule, "limit": self.limit, "similarity": alike}
        return {"segmenter": self.segmenter, **(seen if self.rule else {})}


@dataclass
class TokenCounts:
    """Visual tokens, without separators, at the points where they change; measured in the forward pass.

    Attributes:
        uncompressed: T * N, what the plain model would read.
        kept: visual tokens that entered the language model.
        after_llm_layer: visual tokens left after the last reduction inside the language model.
        layer: the layer before which that reduction ran, None without one.
        separators: newline rows and the like, read besides the tokens.
        text: prompt rows.
        markers: rows that mark slices, such as frame numbers and times; 0 in families without them.
        markers_dropped: marker rows that were not read, because their slice lost all its tokens.
        sequence: rows that layer 0 held after the prefill; the sum of kept, separators, text and markers.
        cached: how many of them an earlier question had left in the cache.
    """

    uncompressed: int = 0
    kept: int = 0
    after_llm_layer: int = 0
    layer: int | None = None
    separators: int = 0
    text: int = 0
    markers: int = 0
    markers_dropped: int = 0
    sequence: int = 0
    cached: int = 0

    def to_dict(self) -> dict[str, Any]:
        """As in the JSON outputs."""
        return dict(self.__dict__)


@dataclass
class StageLedger:
    """All stages of one run, in order.

    Attributes:
        stages: one record per stage that ran.
        tokens: visual token counts.
        spans: per-span lines.
        segmentation: who found the spans.
        tower_rows: rows that each layer of the vision tower read, over all frames, the last one all there are; empty
            when none were merged or shared there.
        layer_rows: rows that entered each decoder layer in the prefill.
        layer_updated: rows that each of them computed; fewer where visual rows pass unchanged.
        layer_cached: rows that each layer held before, where a question continues a shared prefix; else empty.
        video_rows: rows that entered each layer when that prefix was read for this answer; else empty.
        video_updated: rows that each of them computed then.
        frame_times: [T] seconds, of the sampled frames.
        frames_encoded: how many of them went through the vision tower.
        keep_requested: the share that was asked for.
        time_to_first_token: seconds from the start of reading to the first token.
        new_tokens: length of the answer.
        notes: what the caller would not expect of this run, a line each; empty when nothing.
    """

    stages: list[StageRecord] = field(default_factory=list)
    tokens: TokenCounts = field(default_factory=TokenCounts)
    spans: list[SpanRecord] = field(default_factory=list)
    segmentation: Segmentation = Segmentation()
    tower_rows: list[int] = field(default_factory=list)
    layer_rows: list[int] = field(default_factory=list)
    layer_updated: list[int] = field(default_factory=list)
    layer_cached: list[int] = field(default_factory=list)
    video_rows: list[int] = field(default_factory=list)
    video_updated: list[int] = field(default_factory=list)
    frame_times: list[float] = field(default_factory=list)
    frames_encoded: int = 0
    keep_requested: float = 1.0
    time_to_first_token: float = 0.0
    new_tokens: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def tower_share(self) -> float:
        """Rows that the vision tower computed of those there are, over all its layers; 1 where none were left out."""
        return sum(self.tower_rows) / (len(self.tower_rows) * self.tower_rows[-1]) if self.tower_rows else 1.0

    @property
    def keep_actual(self) -> float:
        """Kept over uncompressed visual tokens."""
        return self.tokens.kept / self.tokens.uncompressed if self.tokens.uncompressed else 0.0

    @property
    def seconds(self) -> float:
        """Sum over the stages that ran."""
        return sum(stage.seconds for stage in self.stages if not stage.reused)

    @property
    def continues(self) -> bool:
        """True if an earlier answer had read the video already."""
        return bool(self.layer_cached) and not self.video_rows

    def find(self, name: str) -> StageRecord | None:
        """The record of a stage, None when it did not run."""
        return next((stage for stage in self.stages if stage.name == name), None)
