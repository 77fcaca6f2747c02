# SPDX-License-Identifier: Apache-2.0
"""Accuracy per question kind, beside the floor of answering without seeing."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

from vidcomp.bench.world.questions import ALL_KINDS, Question, make_questions
from vidcomp.bench.world.seeds import BLIND
from vidcomp.bench.world.videos import Options, make_video


@dataclass
class Tally:
    """Right answers and questions per kind.

    Attributes:
        right: right answers of each kind.
        asked: questions of each kind.
    """

    right: Counter[str] = field(default_factory=Counter)
    asked: Counter[str] = field(default_factory=Counter)

    def add(self, question: Question, correct: bool) -> None:
        """Count one answer."""
        self.asked[question.kind] += 1
        self.right[question.kind] += int(correct)

    @property
    def total(self) -> int:
        """Questions asked."""
        return sum(self.asked.values())

    @property
    def macro(self) -> float:
        """Mean of the accuracies per kind."""
        values = list(self.accuracy().values())
        return sum(values) / max(1, len(values))

    def accuracy(self) -> dict[str, float]:
        """Accuracy per kind, in the order in which kinds are documented."""
        return {kind: self.right[kind] / self.asked[kind] for kind in ALL_KINDS if self.asked[kind]}


class BlindGuesser:
    """Answers from question statistics alone: the most common answer to this text, else to this kind."""

    def __init__(self, questions: Iterable[Question], least: int = 20) -> None:
        by_text: dict[str, Counter[str]] = defaultdict(Counter)
        by_kind: dict[str, Counter[str]] = defaultdict(Counter)
        for question in questions:
            by_text[question.text][question.answer] += 1
            by_kind[question.kind][question.answer] += 1
        self._by_text = {t: c.most_common(1)[0][0] for t, c in by_text.items() if c.total() >= least}
        self._by_kind = {k: c.most_common(1)[0][0] for k, c in by_kind.items()}

    def answer(self, question: Question) -> str:
        """The best guess; an order question is answered with the object that is named first."""
        if question.kind == "order":
            return question.text.split(", ", 1)[1].split(" or ")[0].removesuffix(",").rstrip()
        return self._by_text.get(question.text) or self._by_kind.get(question.kind, "")


@cache
def blind_guesser(options: Options, videos: int = 4000) -> BlindGuesser:
    """A guesser that knows the question statistics of this world."""
    seeds = range(BLIND.start, BLIND.start + videos)
    return BlindGuesser(
        q for seed in seeds for q in make_questions(make_video(seed, options), random.Random(seed), ALL_KINDS)
    )


def blind_floor(questions: Sequence[Question], options: Options) -> Tally:
    """Accuracy of the blind guesser on these very questions."""
    guesser, tally = blind_guesser(options), Tally()
    for question in questions:
        tally.add(question, guesser.answer(question) == question.answer)
    return tally


def rounded(values: Mapping[str, float], digits: int = 3) -> dict[str, float]:
    """Values for a log."""
    return {key: round(value, digits) for key, value in values.items()}
