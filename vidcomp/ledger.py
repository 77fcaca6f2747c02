"""The record of one run: what entered and left each stage, and how long it took. Filled as data passes, never from
the request."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from vidcomp.tokens import Span

__all__ = ["SpanRecord", "StageLedger", "StageRecord", "TokenCounts"]

Unit = Literal["frames", "tokens"]


@dataclass
class StageRecord:
    """One stage: how much came in, how much went out, and the seconds in between."""

    name: str
    unit: Unit
    into: int = 0
    out: int = 0
    seconds: float = 0.0

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
        }


@dataclass(frozen=True)
class SpanRecord:
    """One span: its frames and seconds, its tokens before and after, and the positions stored once."""

    start: int
    end: int
    start_seconds: float
    end_seconds: float
    tokens: int
    kept: int
    static: int

    @classmethod
    def of(cls, span: Span, times: list[float], tokens_per_frame: int, kept_per_frame: list[int]) -> SpanRecord:
        """Count what survived of a span; ``kept_per_frame`` holds the number of survivors of every frame."""
        kept = sum(kept_per_frame[span.start : span.end + 1])
        return cls(
            span.start, span.end, times[span.start], times[span.end], len(span) * tokens_per_frame, kept, span.static
        )


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
        sequence: rows that entered layer 0; the sum of kept, separators and text.
    """

    uncompressed: int = 0
    kept: int = 0
    after_llm_layer: int = 0
    layer: int | None = None
    separators: int = 0
    text: int = 0
    sequence: int = 0

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
        tower_rows: rows that each layer of the vision tower read, over all frames; empty when none were merged there.
        layer_rows: rows that entered each decoder layer in the prefill.
        layer_updated: rows that each of them computed; fewer where visual rows pass unchanged.
        frame_times: [T] seconds, of the sampled frames.
        frames_encoded: how many of them went through the vision tower.
        keep_requested: the share that was asked for.
        time_to_first_token: seconds from the start of reading to the first token.
        new_tokens: length of the answer.
    """

    stages: list[StageRecord] = field(default_factory=list)
    tokens: TokenCounts = field(default_factory=TokenCounts)
    spans: list[SpanRecord] = field(default_factory=list)
    tower_rows: list[int] = field(default_factory=list)
    layer_rows: list[int] = field(default_factory=list)
    layer_updated: list[int] = field(default_factory=list)
    frame_times: list[float] = field(default_factory=list)
    frames_encoded: int = 0
    keep_requested: float = 1.0
    time_to_first_token: float = 0.0
    new_tokens: int = 0

    @contextmanager
    def stage(self, name: str, unit: Unit, settle: Callable[[], None] = lambda: None) -> Iterator[StageRecord]:
        """Time a block; ``settle`` waits for the device before the clock is read."""
        record = StageRecord(name, unit)
        start = time.perf_counter()
        yield record
        settle()
        record.seconds = time.perf_counter() - start
        self.stages.append(record)

    def copy(self) -> StageLedger:
        """A ledger that further stages can be added to without touching this one."""
        return StageLedger(
            stages=list(self.stages), tokens=TokenCounts(**self.tokens.__dict__), spans=list(self.spans),
            tower_rows=list(self.tower_rows), layer_rows=list(self.layer_rows), layer_updated=list(self.layer_updated),
            frame_times=list(self.frame_times), frames_encoded=self.frames_encoded,
            keep_requested=self.keep_requested,
        )  # fmt: skip

    @property
    def keep_actual(self) -> float:
        """Kept over uncompressed visual tokens."""
        return self.tokens.kept / self.tokens.uncompressed if self.tokens.uncompressed else 0.0

    @property
    def seconds(self) -> float:
        """Sum over the stages."""
        return sum(stage.seconds for stage in self.stages)

    def find(self, name: str) -> StageRecord | None:
        """The record of a stage, None when it did not run."""
        return next((stage for stage in self.stages if stage.name == name), None)
