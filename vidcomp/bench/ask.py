"""The stages of one answer, timed with and without compression, side by side in one process with the same kernels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vidcomp.bench.timing import Timing
from vidcomp.border import check_question, checked, expect
from vidcomp.ledger import StageLedger
from vidcomp.pipeline import VideoLM

__all__ = ["AskBench", "StagePair", "bench_ask"]

_NOISE = 0.05  # ratios closer to 1 than this are called equal


@dataclass(frozen=True)
class StagePair:
    """One stage, plain and compressed."""

    name: str
    plain: Timing
    compressed: Timing

    @property
    def ratio(self) -> float | None:
        """How many times faster the compressed run is, below 1 slower; None for a stage that one of them lacks."""
        both = self.plain.median and self.compressed.median
        return self.plain.median / self.compressed.median if both else None


@dataclass(frozen=True)
class AskBench:
    """All stages, and the token counts of the two runs."""

    pairs: tuple[StagePair, ...]
    plain: StageLedger
    compressed: StageLedger

    def pair(self, name: str) -> StagePair:
        """The pair of that name."""
        return next(pair for pair in self.pairs if pair.name == name)

    @property
    def verdict(self) -> str:
        """One honest line about the language model's share and the whole."""
        model, first = self.pair("compress + prefill"), self.pair("first token")
        saved = model.plain.median - model.compressed.median
        words = f"{_compare(model.ratio)} up to the end of prefill, {_compare(first.ratio)} to the first token"
        cost = self.pair("compress").compressed.median
        if saved <= 0:
            return f"{words}; here compression costs more than it saves ({cost * 1e3:.1f} ms)"
        return f"{words}; compression took {cost / (saved + cost):.1%} of the time it saved"

    def to_dict(self) -> dict[str, Any]:
        """As in ``bench ask --json``."""
        return {
            "stages": {
                pair.name: {"plain": pair.plain.to_dict(), "compressed": pair.compressed.to_dict(), "ratio": pair.ratio}
                for pair in self.pairs
            },
            "tokens": {"plain": self.plain.tokens.to_dict(), "compressed": self.compressed.tokens.to_dict()},
            "verdict": self.verdict,
        }


@checked
def bench_ask(
    lm: VideoLM,
    video: Path,
    question: str,
    *,
    repeats: int = 7,
    warmup: int = 2,
    tick: Callable[[], None] = lambda: None,
) -> AskBench:
    """Answer alternately with keep 1 and with the configured keep, and compare stage by stage.

    Args:
        lm: the loaded model; its configuration says how to compress.
        video: the file.
        question: what to ask.
        repeats: measured pairs.
        warmup: pairs that are thrown away.

    Raises:
        ValueError: fewer than one repeat.
    """
    expect("lm", lm, isinstance(lm, VideoLM), "what vidcomp.load() returned")
    check_question(question)
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, got {repeats}")
    plain: list[StageLedger] = []
    compressed: list[StageLedger] = []
    for turn in range(warmup + repeats):
        runs = (
            lm.ask(video, question, keep=1.0, method="none", inner="none", segmenter="tower").ledger,
            lm.ask(video, question).ledger,
        )
        if turn >= warmup:
            plain.append(runs[0])
            compressed.append(runs[1])
    pairs = tuple(
        StagePair(name, Timing.of([measure(run) for run in plain]), Timing.of([measure(run) for run in compressed]))
        for name, measure in _measures()
    )
    return AskBench(pairs, plain[-1], compressed[-1])


def _measures() -> Iterator[tuple[str, Callable[[StageLedger], float]]]:
    for name in ("read", "segment", "encode", "compress"):
        yield name, lambda run, name=name: _seconds(run, name)  # type: ignore[misc]
    yield "prefill", _prefill
    yield "compress + prefill", lambda run: _seconds(run, "compress") + _prefill(run)
    yield "per new token", lambda run: _seconds(run, "generate") / max(1, run.new_tokens - 1)
    yield "first token", lambda run: run.time_to_first_token
    yield "total", lambda run: run.seconds


def _seconds(run: StageLedger, name: str) -> float:
    stage = run.find(name)
    return stage.seconds if stage else 0.0


def _prefill(run: StageLedger) -> float:
    """Prefill with the reductions inside it."""
    return _seconds(run, "prefill") + sum(stage.seconds for stage in run.stages if stage.name.startswith("llm layer"))


def _compare(ratio: float | None) -> str:
    if ratio is None:
        return "not comparable"
    if abs(ratio - 1) < _NOISE:
        return "equally fast"
    return f"{ratio:.2f}x faster" if ratio > 1 else f"{1 / ratio:.2f}x SLOWER"
