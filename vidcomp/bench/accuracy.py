# SPDX-License-Identifier: Apache-2.0
"""Accuracy of methods at several keep ratios on the embedded model's held-out world, through encoded files.

An answer is right when greedy decoding gives exactly the true answer. That is read off without decoding: feeding the
true answer, every next token must be the likeliest one, the end included. The same pass gives the distribution of the
answer, and its divergence from the uncompressed run, which moves long before an answer flips.
"""

from __future__ import annotations

import hashlib
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vidcomp.batch.journal import Journal
from vidcomp.bench.statistics import Interval, Marks, bootstrap, mcnemar
from vidcomp.bench.world.files import write_mp4
from vidcomp.bench.world.questions import KINDS, Question, make_questions
from vidcomp.bench.world.scoring import blind_floor
from vidcomp.bench.world.seeds import TEST
from vidcomp.bench.world.videos import Options, Video, make_video
from vidcomp.core.arguments import checked, expect
from vidcomp.core.budget import token_budget
from vidcomp.core.library import CACHE
from vidcomp.engine.outer import reads_question, signals_to_collect, split_pair
from vidcomp.engine.run import VideoLM
from vidcomp.engine.videos import CompressedVideo, EncodedVideo
from vidcomp.hub import EMBEDDED
from vidcomp.methods import method_of
from vidcomp.schedules import SCHEDULES

__all__ = ["AccuracyBench", "AccuracyRow", "bench_accuracy"]

_PER_VIDEO = 8  # questions about one video, rarest types first
_SEEDS_APART = 100_000  # videos between two values of the user's seed
_OPTIONS = Options(aspects=(4 / 3,))

Setting = tuple[str, float]


@dataclass(frozen=True)
class AccuracyRow:
    """One method at one keep ratio.

    Attributes:
        method, keep: the setting.
        accuracy: macro over question types, with its 95 % interval.
        of_full: accuracy as a share of the uncompressed run's.
        difference: to the uncompressed run on the same questions.
        p_value: McNemar's test of the same pair.
        kl: mean divergence of the answer's distribution from the uncompressed run, in nats per answer token.
        tokens: mean visual tokens that entered the language model.
        n: questions.
        by_type: accuracy per question type.
    """

    method: str
    keep: float
    accuracy: Interval
    of_full: float
    difference: Interval
    p_value: float
    kl: float
    tokens: float
    n: int
    by_type: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """As in ``bench accuracy --json``."""
        return {
            "method": self.method,
            "keep": self.keep,
            "accuracy": round(self.accuracy.value, 4),
            "ci_low": round(self.accuracy.low, 4),
            "ci_high": round(self.accuracy.high, 4),
            "of_full": round(self.of_full, 4),
            "difference": [round(v, 4) for v in (self.difference.value, self.difference.low, self.difference.high)],
            "p_value": round(self.p_value, 6),
            "kl": round(self.kl, 5),
            "tokens": round(self.tokens, 1),
            "n": self.n,
            "by_type": {kind: round(value, 4) for kind, value in self.by_type.items()},
        }


@dataclass(frozen=True)
class AccuracyBench:
    """All rows, the uncompressed run they are paired with, and the floor of answering without seeing.

    Attributes:
        rows: one per method and keep ratio.
        full: the uncompressed run.
        blind, blind_by_type: accuracy of the most frequent answers, over all types and per type.
        videos, seed: that the questions were made from.
        equal_tokens: every method was brought to the same number of tokens.
    """

    rows: tuple[AccuracyRow, ...]
    full: AccuracyRow
    blind: float
    blind_by_type: dict[str, float]
    videos: int
    seed: int
    equal_tokens: bool = False

    def to_dict(self) -> dict[str, Any]:
        """As in ``bench accuracy --json``."""
        return {
            "rows": [row.to_dict() for row in self.rows],
            "full": self.full.to_dict(),
            "blind": {
                "accuracy": round(self.blind, 4),
                "by_type": {kind: round(value, 4) for kind, value in self.blind_by_type.items()},
            },
            "videos": self.videos,
            "seed": self.seed,
            "equal_tokens": self.equal_tokens,
        }


@dataclass(frozen=True)
class _Paper:
    """One video with the questions asked about it."""

    video: Video
    questions: tuple[Question, ...]


@checked
def bench_accuracy(
    lm: VideoLM,
    methods: Sequence[str],
    keeps: Sequence[float],
    *,
    questions: int = 500,
    seed: int = 0,
    equal_tokens: bool = False,
    resume: Path | None = None,
    tick: Callable[[int, int], None] = lambda done, total: None,
) -> AccuracyBench:
    """Ask the same held-out questions under every setting.

    Args:
        lm: the embedded model.
        methods: names with parameters, such as ``"holitom:tau=0.8"``, or pairs (``holitom+fastv:k=2``).
        keeps: keep ratios.
        questions: how many, spread over types.
        seed: which part of the test range.
        equal_tokens: bring every method to exactly the budget of its keep ratio, whatever it would have kept.
        resume: journal of finished videos; an interrupted run continues from it.
        tick: called with videos done and in all.

    Raises:
        ValueError: fewer than one question. UsageError: an unknown method.
    """
    expect("lm", lm, isinstance(lm, VideoLM), "what vidcomp.load() returned")
    for name, value in (("methods", methods), ("keeps", keeps)):
        expect(name, value, isinstance(value, (list, tuple)), "a list")
    if questions < 1:
        raise ValueError(f"questions must be at least 1, got {questions}")
    papers = _papers(questions, TEST.start + seed * _SEEDS_APART)
    settings = [(method, keep) for method in methods for keep in keeps]
    marked: list[dict[str, Any]] = []
    for result in _mark_all(lm, papers, settings, equal_tokens, resume):
        marked.append(result)
        tick(len(marked), len(papers))
    return replace(_summarise(papers, settings, marked, seed), equal_tokens=equal_tokens)


def _papers(questions: int, first: int) -> list[_Paper]:
    """Videos in the order of their seeds, with the types asked least so far first."""
    asked: Counter[str] = Counter()
    papers: list[_Paper] = []
    seed = first
    while (left := questions - asked.total()) > 0:
        video = make_video(seed, _OPTIONS)
        offered = make_questions(video, random.Random(seed))
        random.Random(seed).shuffle(offered)
        offered.sort(key=lambda question: asked[question.kind])
        chosen = tuple(offered[: min(left, _PER_VIDEO)])
        asked.update(question.kind for question in chosen)
        papers.append(_Paper(video, chosen))
        seed += 1
    return papers


def _mark_all(
    lm: VideoLM, papers: list[_Paper], settings: list[Setting], equal: bool, resume: Path | None
) -> Iterator[dict[str, Any]]:
    digest = hashlib.sha256((EMBEDDED["nano"] / "model.safetensors").read_bytes()).hexdigest()[:16]
    run = {name: value for name, value in lm.config.flat().items() if name not in ("device", "attn", "offline")}
    journal = Journal(resume) if resume else None
    try:
        for paper in papers:
            asked = [question.text for question in paper.questions]
            key = {"video": paper.video.seed, "questions": asked, "settings": settings, "model": digest, "run": run}
            if equal:
                key["equal_tokens"] = True
            found = journal.find(key) if journal else None
            if found is None:
                found = {"status": "ok", "marks": _mark(lm, paper, settings, equal)}
                if journal:
                    journal.append(key, found)
            yield found["marks"]
    finally:
        if journal:
            journal.close()


_EVERY_ROW: dict[str, Any] = {"reuse": "off", "skip_repeats": "off", "same_frame": None}


def _mark(lm: VideoLM, paper: _Paper, settings: list[Setting], equal: bool) -> dict[str, Any]:
    """Setting -> right [Q], kl [Q], tokens; the uncompressed run stands under ``full``."""
    with tempfile.TemporaryDirectory(prefix="vidcomp-bench-") as folder:
        path = Path(folder) / "video.mp4"
        write_mp4(paper.video, path)
        wanted = [_signals(lm, name) for name, _ in settings]
        encoded = lm.encode(path, method="none", signals=frozenset().union(*wanted))
        every_row = lm.config.spans.reuse == lm.config.spans.repeats == "off"
        whole = encoded if every_row else lm.encode(path, method="none", **_EVERY_ROW)
    plain = lm.compress(whole, method="none", keep=1.0, inner="none")
    full = [_read_answer(lm, plain, question) for question in paper.questions]
    marks = {"full": _compare(full, full, encoded.view.total)}
    for method, keep in settings:
        budget = {"keep_tokens": token_budget(encoded.view.total, keep)} if equal else {"keep": keep}
        compressed = _compressed(lm, encoded, method, budget, paper.questions)
        pairs = zip(compressed, paper.questions, strict=True)
        answers = [_read_answer(lm, video, question) for video, question in pairs]
        tokens = sum(len(video.tokens) for video in compressed) / len(compressed)
        marks[_label(method, keep)] = _compare(answers, full, tokens)
    return marks


def _compressed(
    lm: VideoLM, encoded: EncodedVideo, method: str, budget: dict[str, Any], questions: Sequence[Question]
) -> list[CompressedVideo]:
    """The compressed video for each question: the same one, unless the method looks at the question."""
    outer, inner = split_pair(method)
    if reads_question(method_of(outer)):
        return [lm.compress(encoded, method=outer, inner=inner, question=q.text, **budget) for q in questions]
    return [lm.compress(encoded, method=outer, inner=inner, **budget)] * len(questions)


def _signals(lm: VideoLM, name: str) -> frozenset[str]:
    outer, inner = split_pair(name)
    return signals_to_collect(method_of(outer), lm.family, SCHEDULES.build(inner))


def _label(method: str, keep: float) -> str:
    return f"{method}@{keep:g}"


Answer = tuple[Tensor, Tensor]  # log-probabilities [n, V] along the true answer, and its tokens [n]


@torch.no_grad()
def _read_answer(lm: VideoLM, compressed: CompressedVideo, question: Question) -> Answer:
    """Expectations of the model at every token of the true answer, after a prefill and one pass over the answer."""
    model, tokenizer = lm.family.model, lm.family.tokenizer
    tokens = tokenizer(question.answer, add_special_tokens=False, return_tensors="pt").input_ids[0]
    target = torch.cat([tokens, torch.tensor([tokenizer.eos_token_id])])
    prefill = lm.prepare(compressed, question.text)
    decoder, cache = model.get_decoder(), prefill.cache
    inputs = prefill.rows[None].to(model.dtype)
    hidden = decoder(inputs_embeds=inputs, position_ids=prefill.positions, **{CACHE: cache}).last_hidden_state
    places = prefill.positions[:, -1:] + 1 + torch.arange(len(tokens), device=prefill.positions.device)
    seen = torch.ones(1, len(prefill.rows) + len(tokens), dtype=torch.long, device=inputs.device)
    later = decoder(
        input_ids=tokens[None].to(inputs.device), position_ids=places, attention_mask=seen, **{CACHE: cache}
    ).last_hidden_state
    logits = model.lm_head(torch.cat([hidden[:, -1:], later], 1))[0]
    return logits.float().log_softmax(-1).cpu(), target


def _compare(answers: list[Answer], full: list[Answer], tokens: float) -> dict[str, Any]:
    right = [bool((logs.argmax(-1) == target).all()) for logs, target in answers]
    pairs = zip(answers, full, strict=True)
    divergence = [float((plain.exp() * (plain - logs)).sum(-1).mean()) for (logs, _), (plain, _) in pairs]
    return {"right": right, "kl": divergence, "tokens": tokens}


def _summarise(papers: list[_Paper], settings: list[Setting], marked: list[dict[str, Any]], seed: int) -> AccuracyBench:
    asked = [question for paper in papers for question in paper.questions]
    kinds = [kind for kind in KINDS if any(question.kind == kind for question in asked)]
    kind = np.array([kinds.index(question.kind) for question in asked])
    video = np.repeat(np.arange(len(papers)), [len(paper.questions) for paper in papers])

    def marks_of(label: str) -> Marks:
        return Marks(np.array([r for result in marked for r in result[label]["right"]]), kind, video)

    def row(method: str, keep: float, label: str) -> AccuracyRow:
        marks, full = marks_of(label), marks_of("full")
        by_type = {name: float(marks.right[kind == i].mean()) for i, name in enumerate(kinds)}
        kl = float(np.mean([value for result in marked for value in result[label]["kl"]]))
        tokens = float(np.mean([result[label]["tokens"] for result in marked]))
        p_value, of_full = mcnemar(marks.right, full.right), marks.macro / full.macro if full.macro else 0.0
        score, gap = bootstrap(marks), bootstrap(marks, full)
        return AccuracyRow(method, keep, score, of_full, gap, p_value, kl, tokens, len(asked), by_type)

    rows = tuple(row(method, keep, _label(method, keep)) for method, keep in settings)
    blind = blind_floor(asked, _OPTIONS)
    return AccuracyBench(rows, row("none", 1.0, "full"), blind.macro, blind.accuracy(), len(papers), seed)
