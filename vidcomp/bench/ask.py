# SPDX-License-Identifier: Apache-2.0
"""The stages of one answer, timed with and without compression, side by side in one process with the same kernels."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vidcomp.bench.break_even import BreakEven, break_even
from vidcomp.bench.paired import FEWEST_PAIRS, MedianInterval, faster_or_slower, median_interval, paired_ratio
from vidcomp.bench.timing import Timing
from vidcomp.core.arguments import check_question, checked, expect
from vidcomp.core.ledger import StageLedger
from vidcomp.engine.run import VideoLM

__all__ = ["PLAIN", "AskBench", "StagePair", "bench_ask"]

PLAIN: dict[str, Any] = dict(
    keep=1.0, method="none", inner="none", encoder="none", segmenter="tower", skip_repeats="off", same_frame=None,
    reuse="off", positions="auto",
)  # fmt: skip
"""Settings of the plain model."""

_Measure = Callable[[StageLedger], float]


@dataclass(frozen=True)
class StagePair:
    """One stage, plain and compressed.

    Attributes:
        name: of the stage, or of what is counted together.
        plain, compressed: what each took.
        ratio: how many times faster the compressed run is, below 1 slower; None for a stage that one of them lacks.
        saved: seconds that it saves.
    """

    name: str
    plain: Timing
    compressed: Timing
    ratio: MedianInterval | None
    saved: MedianInterval

    @classmethod
    def of(cls, name: str, plain: Sequence[float], compressed: Sequence[float]) -> StagePair:
        """From the seconds of each pair."""
        saved = median_interval([one - other for one, other in zip(plain, compressed, strict=True)])
        return cls(name, Timing.of(plain), Timing.of(compressed), paired_ratio(plain, compressed), saved)

    @property
    def words(self) -> str:
        """A verdict where the interval allows one."""
        return "not comparable" if self.ratio is None else faster_or_slower(self.ratio)

    def to_dict(self) -> dict[str, Any]:
        """As in ``bench ask --json``."""
        return {
            "plain": self.plain.to_dict(),
            "compressed": self.compressed.to_dict(),
            "ratio": self.ratio and self.ratio.value,
            "ratio_interval": self.ratio and self.ratio.bounds,
        }


@dataclass(frozen=True)
class AskBench:
    """All stages, and the token counts of the two runs.

    Attributes:
        pairs: one row per stage.
        plain, compressed: the last run of each.
        warmup: pairs that ran before and do not count.
    """

    pairs: tuple[StagePair, ...]
    plain: StageLedger
    compressed: StageLedger
    warmup: int

    def find(self, name: str) -> StagePair | None:
        """The row of that name, None where no run had it."""
        return next((pair for pair in self.pairs if pair.name == name), None)

    def pair(self, name: str) -> StagePair:
        """The row of that name, which every answer has."""
        return next(pair for pair in self.pairs if pair.name == name)

    @property
    def break_even(self) -> BreakEven:
        """At which length of the answer compression pays.

        Encoding counts, because a method may need signals of the tower; reading does not, which both do alike.
        """
        step = self.find("per new token")
        return break_even(self.pair("encode + compress + prefill").saved, step.saved if step else None)

    @property
    def verdict(self) -> str:
        """One honest line: prefill, first token, each later token, and the length of answers at which it pays."""
        model, step = self.pair("compress + prefill"), self.find("per new token")
        if model.saved.bounds is None:
            return f"none, {model.saved.pairs} pairs are too few: --repeats {FEWEST_PAIRS} at least"
        parts = [f"{model.words} up to the end of prefill", f"{self.pair('first token').words} to the first token"]
        parts += [f"{step.words} per new token"] if step else []
        return "; ".join([*parts, *self._costs(), self.break_even.words])

    def _costs(self) -> Iterator[str]:
        cost, saved = self.pair("compress").compressed.median, self.pair("compress + prefill").saved
        if saved.side(0) > 0:
            yield f"compression took {cost / (saved.value + cost):.1%} of the time it saved"
        elif saved.side(0) < 0:
            yield f"here compression costs more than it saves ({cost * 1e3:.1f} ms)"

    def to_dict(self) -> dict[str, Any]:
        """As in ``bench ask --json``."""
        return {
            "stages": {pair.name: pair.to_dict() for pair in self.pairs},
            "tokens": {"plain": self.plain.tokens.to_dict(), "compressed": self.compressed.tokens.to_dict()},
            "pairs": self.pair("total").saved.pairs,
            "warmup": self.warmup,
            "break_even": self.break_even.to_dict(),
            "verdict": self.verdict,
        }


@checked
def bench_ask(
    lm: VideoLM,
    video: Path,
    question: str,
    *,
    repeats: int = 11,
    warmup: int = 2,
    seed: int = 0,
) -> AskBench:
    """Answer with keep 1 and with the configured keep, pair by pair, and compare stage by stage.

    Args:
        lm: the loaded model; its configuration says how to compress.
        video: the file.
        question: what to ask.
        repeats: measured pairs; with fewer than :data:`~vidcomp.bench.paired.FEWEST_PAIRS` there is no verdict.
        warmup: pairs that go before and do not count, at least one: the first answers of a process are slower.
        seed: draws which of a pair goes first.

    Raises:
        ValueError: fewer than one repeat, or no pair of warm-up.
    """
    expect("lm", lm, hasattr(lm, "ask"), "what vidcomp.load() returned")
    check_question(question)
    if repeats < 1 or warmup < 1:
        raise ValueError(f"repeats and warmup must be at least 1, got {repeats} and {warmup}")
    draw = random.Random(seed)
    settings: tuple[dict[str, Any], ...] = (PLAIN, {})
    runs: list[list[StageLedger]] = []
    for _ in range(warmup + repeats):
        order = draw.sample((0, 1), 2)
        ledgers = {which: lm.ask(video, question, **settings[which]).ledger for which in order}
        runs.append([ledgers[0], ledgers[1]])
    plain, compressed = (list(column) for column in zip(*runs[warmup:], strict=True))
    return AskBench(tuple(_rows(plain, compressed)), plain[-1], compressed[-1], warmup)


def _rows(plain: list[StageLedger], compressed: list[StageLedger]) -> Iterator[StagePair]:
    for name, measure in _measures():
        yield StagePair.of(name, [measure(run) for run in plain], [measure(run) for run in compressed])
    if all(run.new_tokens > 1 for run in plain + compressed):
        yield StagePair.of("per new token", [_per_token(run) for run in plain], [_per_token(run) for run in compressed])


def _measures() -> Iterator[tuple[str, _Measure]]:
    for name in ("read", "segment", "encode", "compress"):
        yield name, lambda run, name=name: _seconds(run, name)  # type: ignore[misc]
    yield "prefill", _prefill
    yield "compress + prefill", lambda run: _seconds(run, "compress") + _prefill(run)
    yield "encode + compress + prefill", lambda run: _seconds(run, "segment", "encode", "compress") + _prefill(run)
    yield "first token", lambda run: run.time_to_first_token
    yield "total", lambda run: run.seconds


def _seconds(run: StageLedger, *names: str) -> float:
    return sum(stage.seconds for stage in run.stages if stage.name in names)


def _prefill(run: StageLedger) -> float:
    """Prefill with the reductions inside it."""
    return sum(stage.seconds for stage in run.stages if stage.name == "prefill" or stage.name.startswith("llm layer"))


def _per_token(run: StageLedger) -> float:
    return _seconds(run, "generate") / (run.new_tokens - 1)
