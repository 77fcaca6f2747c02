# SPDX-License-Identifier: Apache-2.0
"""Searches for the parameters that a paper leaves to a search, on one's own videos and without labels.

The model's own answer without an inner stage is the yardstick: harm is the mean KL divergence, over the tokens of that
answer, between what the model expects with and without the schedule. (The papers measure accuracy, or the first token
alone, which says little when every answer begins alike.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from vidcomp.bench.reading import expectations
from vidcomp.core.arguments import checked, expect
from vidcomp.engine.run import VideoLM
from vidcomp.engine.videos import CompressedVideo
from vidcomp.errors import UsageError
from vidcomp.schedules import get_schedule
from vidcomp.schedules.gsearch import search_shares

__all__ = ["Calibration", "Sample", "calibrate", "samples_of"]


@dataclass(frozen=True)
class Sample:
    """One question about one video, and the answer when nothing is reduced inside the model.

    Attributes:
        compressed, question: what is asked.
        answer: [n] token ids.
        plain: [n + 1, V] log-probabilities along it.
    """

    compressed: CompressedVideo
    question: str
    answer: Tensor
    plain: Tensor


@dataclass(frozen=True)
class Calibration:
    """Result of a search: entries for the schedule's preset file, its harm in nats, and how many settings were
    tried."""

    schedule: str
    entries: dict[str, Any]
    harm: float
    tried: int


@checked
def samples_of(lm: VideoLM, videos: Iterable[Any], questions: Sequence[str], tokens: int = 16) -> list[Sample]:
    """Encode every video once, and take the first ``tokens`` tokens of the answer to each question."""
    expect("lm", lm, isinstance(lm, VideoLM), "what vidcomp.load() returned")
    for name, value in (("videos", videos), ("questions", questions)):
        expect(name, value, isinstance(value, (list, tuple)), "a list")
    samples = []
    for video in videos:
        encoded = lm.encode(video, inner="none")
        for question in questions:
            compressed = lm.compress(encoded, question=question, inner="none")
            text = lm.ask(compressed, question, max_new_tokens=tokens, temperature=0.0).text
            answer = lm.family.tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids[0].long()
            plain = expectations(lm.family, lm.prepare(compressed, question), answer)
            samples.append(Sample(compressed, question, answer, plain))
    return samples


@checked
def calibrate(
    lm: VideoLM,
    samples: Sequence[Sample],
    schedule: str,
    *,
    allowed: float = 0.01,
    on_step: Callable[[str], None] = lambda text: None,
    **parameters: Any,
) -> Calibration:
    """Search the parameters of a schedule.

    Args:
        lm: the model.
        samples: from :func:`samples_of`.
        schedule: ``gsearch``, ``psigmoid`` or ``shortv``.
        allowed: largest harm in nats, for ``gsearch``.
        on_step: called with a line about each setting that was tried.
        parameters: of the schedule, those that are not searched.

    Raises:
        UsageError: a schedule without a search, wrong parameters, or no samples.
    """
    expect("lm", lm, isinstance(lm, VideoLM), "what vidcomp.load() returned")
    good = isinstance(samples, (list, tuple)) and all(isinstance(sample, Sample) for sample in samples)
    expect("samples", samples, good, "what samples_of() returned")
    if schedule not in _SEARCHES:
        raise UsageError(f"{schedule} has no search", why=f"there are: {', '.join(_SEARCHES)}", code="bad_option")
    if not samples:
        raise UsageError("nothing to calibrate on", hint="name a video", code="bad_option")
    meter = _Meter(lm, samples, schedule, parameters, on_step)
    entries = _SEARCHES[schedule](meter, allowed)
    return Calibration(schedule, entries, meter.harm(**meter.settings_of(entries)), meter.tried)


class _Meter:
    """Measures the harm of settings of one schedule."""

    def __init__(
        self,
        lm: VideoLM,
        samples: Sequence[Sample],
        schedule: str,
        fixed: dict[str, Any],
        on_step: Callable[[str], None],
    ) -> None:
        self.lm, self.samples, self.schedule, self.fixed, self.on_step = lm, samples, schedule, fixed, on_step
        self.depth, self.tried = lm.family.shape.layers, 0

    def harm(self, reverse: bool = False, **settings: Any) -> float:
        """Mean KL of the plain distribution from the reduced one, or the other way round."""
        schedule = get_schedule(self.schedule, **self.fixed, **settings) if settings else None
        values = []
        for sample in self.samples:
            prefill = self.lm.prepare(replace(sample.compressed, schedule=schedule), sample.question)
            reduced = expectations(self.lm.family, prefill, sample.answer)
            p, q = (reduced, sample.plain) if reverse else (sample.plain, reduced)
            values.append(float((p.exp() * (p - q)).sum(-1).mean()))
        self.tried += 1
        mean = max(0.0, sum(values) / len(values))  # rounding can fall below zero
        self.on_step(f"{self.schedule} {settings}: {mean:.4f} nats")
        return mean

    def settings_of(self, entries: dict[str, Any]) -> dict[str, Any]:
        """A preset's entries as parameters."""
        if self.schedule == "gsearch":
            return {"at": tuple(entries["keep"]), "keep": tuple(entries["keep"].values())} if entries["keep"] else {}
        return entries


def _gsearch(meter: _Meter, allowed: float) -> dict[str, Any]:
    layers = tuple(range(1, meter.depth))

    def harm(plan: dict[int, float]) -> float:
        return meter.harm(at=tuple(plan), keep=tuple(plan.values()))

    return {"keep": search_shares(layers, harm, allowed)}


def _psigmoid(meter: _Meter, allowed: float) -> dict[str, Any]:
    """Least harm over a grid of steepness and centre, then twice as fine around the best."""
    tried = {(a, b): meter.harm(a=a, b=b) for a in (2.0, 5.0, 10.0, 20.0, 40.0) for b in (0.2, 0.35, 0.5, 0.65, 0.8)}
    for step in (2 ** (1 / 2), 2 ** (1 / 4)):
        a, b = min(tried, key=lambda key: tried[key])
        width = 0.15 * math.log2(step)
        for near in ((a * step, b), (a / step, b), (a, min(1.0, b + width)), (a, max(0.0, b - width))):
            if near not in tried:
                tried[near] = meter.harm(a=near[0], b=near[1])
    a, b = min(tried, key=lambda key: tried[key])
    return {"a": a, "b": b}


def _shortv(meter: _Meter, allowed: float) -> dict[str, Any]:
    """Layers by the harm of freezing each one alone."""
    harms = {layer: meter.harm(reverse=True, order=(layer,), n=1) for layer in range(meter.depth)}
    return {"order": sorted(harms, key=lambda layer: (harms[layer], layer))}


_SEARCHES: dict[str, Callable[[_Meter, float], dict[str, Any]]] = {
    "gsearch": _gsearch,
    "psigmoid": _psigmoid,
    "shortv": _shortv,
}
