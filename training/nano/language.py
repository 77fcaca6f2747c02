# SPDX-License-Identifier: Apache-2.0
"""Stage "lm": the language model learns to bind and to tell time on symbolic visual tokens.

The curriculum is decisive: one still object, several still objects with the grounding loss, four frames kind by kind,
eight frames with one or two scenes, and at last the full world with every kind of question.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from training.nano.aids import AidWeights, VideoMap, aid_loss
from training.nano.model import VisualPrompt, build_model
from training.nano.packing import SPLIT, Packed, TextOutput, exact_matches, forward_packed, pack
from training.nano.progress import Budget, RunSettings, adamw, set_rate, step
from training.nano.symbolic import SymbolicProjector, symbolic_batch
from training.nano.workers import average, run_workers
from vidcomp.bench.world.questions import ALL_KINDS, KINDS, STILL_KINDS, Question, make_questions
from vidcomp.bench.world.scoring import Tally, rounded
from vidcomp.bench.world.seeds import SYMBOLIC_TRAIN, VALIDATION
from vidcomp.bench.world.videos import KINDS as EVENTS
from vidcomp.bench.world.videos import WIDE, Options, Video, make_video, sample_times
from vidcomp.bench.world.vocabulary import UNKNOWN_WORD

SECONDS = 2800.0
PEAK_RATE = 2e-3
QUESTIONS = 10
"""Questions about one video in a training step, drawn from all it can answer."""

_SLICE = 250_000_000  # seeds of one worker
_TURN = 1 << 40  # far beyond all seeds of videos
_URGENCY = {"end": 3.0, "first": 3.0, "after": 3.0, "order": 3.0, "which": 3.0, "caption": 3.0, "action": 2.0}
"""How much likelier the hard kinds are to be asked in training."""

_EVENT_KINDS = ("end", "first", "action", "which", "direction", "become")


@dataclass(frozen=True)
class Lesson:
    """What videos and questions one batch is made of."""

    options: Options
    kinds: tuple[str, ...]
    batch: int = 16
    weight: float = 1.0
    unknown: float = 0.0  # part of the training questions with one unknown word in them


WORLDS = {
    "small": Lesson(Options(), KINDS),
    "digits": Lesson(Options(digit=0.4), (*KINDS, "digit")),
    "wide": Lesson(WIDE, ALL_KINDS),
}
"""What the shipped model has learnt, the same with digits that flash up, and all that the world can do."""


@dataclass(frozen=True)
class Phase:
    """A step of the curriculum: lessons mixed by weight, left when the last lesson is known or the share is spent."""

    name: str
    share: float  # at most this part of the stage's seconds
    lessons: tuple[Lesson, ...]
    enough: float = 0.95
    aids: AidWeights = field(default_factory=AidWeights)


def _still(things: tuple[float, ...], kinds: tuple[str, ...], batch: int = 24, weight: float = 1.0) -> Lesson:
    return Lesson(Options(frames=1, scenes=(1,), things=things), kinds, batch, weight)


def _short(things: tuple[float, ...], events: tuple[str, ...], weight: float = 1.0) -> Lesson:
    return Lesson(Options(frames=4, scenes=(1,), things=things, kinds=events), (*_EVENT_KINDS, "count"), 24, weight)


def _long(things: tuple[float, ...], kinds: tuple[str, ...] = KINDS, weight: float = 1.0) -> Lesson:
    return Lesson(Options(things=things), kinds, 16, weight)


_STILLS = _still((0.2, 0.4, 0.4), STILL_KINDS, weight=0.25)
CURRICULUM: tuple[Phase, ...] = (
    Phase("one still object", 0.04, (_still((1,), ("color", "shape")),)),
    Phase("several still objects", 0.08, (_still((0.2, 0.4, 0.4), ("color", "shape")),)),
    Phase("all still questions", 0.04, (_still((0.2, 0.4, 0.4), STILL_KINDS),)),
    Phase("appear, disappear", 0.02, (_STILLS, _short((1,), ("appear", "disappear")))),
    Phase("and turn", 0.02, (_STILLS, _short((1,), ("appear", "disappear", "turn")))),
    Phase("and left, right", 0.05, (_STILLS, _short((1,), EVENTS[:5]))),
    Phase("all events", 0.06, (_STILLS, _short((1,), EVENTS))),
    Phase("two objects", 0.07, (_STILLS, _short((0.3, 0.6, 0.1), EVENTS))),
    Phase("two scenes", 0.11, (_STILLS, _short((0.3, 0.6, 0.1), EVENTS, 0.3), _long((1,)))),
    Phase(
        "everything",
        1.0,
        (_STILLS, _short((0.3, 0.6, 0.1), EVENTS, 0.2), _long((0.4, 0.5, 0.1), weight=2)),
        aids=AidWeights(0.5, 1.0, 0.3),
    ),
)


@dataclass
class Batch:
    """Videos of one step with their packed questions."""

    videos: list[Video]
    times: list[float]
    questions: list[list[Question]]
    packed: Packed


def make_batch(seeds: Sequence[int], lesson: Lesson, most: int | None = QUESTIONS, turn: int = 0) -> Batch:
    """Videos of these seeds with at most `most` questions each, other ones at every turn."""
    videos, questions = [], []
    for seed in seeds:
        video, rng = make_video(seed, lesson.options), random.Random(seed + turn * _TURN)
        asked = make_questions(video, rng, lesson.kinds)
        videos.append(video)
        if most is not None:
            asked = sorted(asked, key=lambda q: rng.random() ** (1 / _URGENCY.get(q.kind, 1.0)))[-most:]
            asked = [_blur(q, lesson.unknown, rng) for q in asked]
        questions.append(asked)
    return Batch(videos, sample_times(lesson.options.frames), questions, pack(questions))


def _blur(question: Question, chance: float, rng: random.Random) -> Question:
    """With this chance, the question with an unknown word put somewhere."""
    if rng.random() >= chance:
        return question
    words = question.text.split()
    words.insert(rng.randrange(len(words)), UNKNOWN_WORD)
    return replace(question, text=" ".join(words))


class SymbolicModel(nn.Module):
    """Decoder, newline token and symbolic projector; the decoder is the one that is shipped."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        full = build_model(seed)
        self.decoder = full.model.language_model
        self.decoder.set_attn_implementation(SPLIT)
        self.newline = full.model.image_newline
        self.projector = SymbolicProjector()

    def prompt(self, symbols: Tensor) -> VisualPrompt:
        """Visual tokens of symbolic features [B, T, 36, S]."""
        visual = self.projector(symbols).flatten(1, 2)
        newline = self.newline.expand(len(visual), 1, -1).to(visual.dtype)
        return VisualPrompt(torch.cat([visual, newline], 1))


def train_language(run: RunSettings, seconds: float = SECONDS) -> None:
    """Walk the curriculum, or only its last phase if STATE/lm.pt exists, and save STATE/lm.pt.

    All phases but the last run in one process; the last one uses all workers.
    """
    total = run.budget(seconds)
    if not (run.state / "lm.pt").exists():
        torch.manual_seed(10)
        model = SymbolicModel().to(run.device)
        optimizer, seed = adamw((list(model.parameters()), PEAK_RATE)), SYMBOLIC_TRAIN.start
        for phase in CURRICULUM[:-1]:
            budget = run.budget(phase.share * seconds, len(CURRICULUM))
            seed = _train_phase(run, model, optimizer, phase, budget, seed)
            run.save("lm", {"model": model.state_dict(), "updates": 0})
    run_workers(run, partial(_finish_language, seconds=max(1.0, seconds - total.elapsed)))


def _train_phase(
    run: RunSettings,
    model: SymbolicModel,
    optimizer: torch.optim.Optimizer,
    phase: Phase,
    budget: Budget,
    seed: int,
) -> int:
    """Train until the last lesson of the phase is known well enough; returns the next unused seed."""
    dice, noise = random.Random(seed), np.random.default_rng(seed)
    average_loss, checked = 0.0, budget.elapsed
    while budget.left:
        set_rate(optimizer, budget.done, 0.0, warmup=40)
        loss, answer, seed = _lesson_loss(run, model, phase, seed, dice, noise)
        step(optimizer, loss, budget)
        average_loss = answer if not average_loss else 0.95 * average_loss + 0.05 * answer
        if budget.elapsed - checked > 15 or not budget.left:
            checked = budget.elapsed
            tally = _report(run, model, phase, budget, average_loss)
            if min(tally.accuracy().values()) >= phase.enough:
                break
    return seed


def _last_phase(world: str) -> Phase:
    """The end of the curriculum: everything there is in this world."""
    phase = CURRICULUM[-1]
    full = replace(WORLDS[world], weight=phase.lessons[-1].weight)
    return replace(phase, lessons=(*phase.lessons[:-1], full))


def _finish_language(run: RunSettings, seconds: float) -> None:
    """The last phase in one of the workers."""
    phase, saved = _last_phase(run.world), run.load("lm")
    model = SymbolicModel().to(run.device)
    model.load_state_dict(saved["model"])
    parameters = list(model.parameters())
    optimizer, budget = adamw((parameters, PEAK_RATE)), run.budget(seconds, len(CURRICULUM))
    seed = SYMBOLIC_TRAIN.start + (1 + run.rank) * _SLICE + saved["updates"] * 24 * run.scale
    dice, noise = random.Random(seed), np.random.default_rng(seed)
    average_loss, checked, share = 0.0, 0.0, 0.0
    while share < 1:
        set_rate(optimizer, budget.done, budget.share, warmup=40, hold=0.4)
        loss, answer, seed = _lesson_loss(run, model, phase, seed, dice, noise)
        step(optimizer, loss, budget)
        average_loss = answer if not average_loss else 0.98 * average_loss + 0.02 * answer
        if budget.done % run.sync_steps:
            continue
        share = average(run, parameters, budget.share)
        if run.rank == 0 and (budget.elapsed - checked > 60 or share >= 1):
            checked = budget.elapsed
            _report(run, model, phase, budget, average_loss)
            run.save("lm", {"model": model.state_dict(), "updates": saved["updates"] + budget.done})


def _lesson_loss(
    run: RunSettings, model: SymbolicModel, phase: Phase, seed: int, dice: random.Random, noise: np.random.Generator
) -> tuple[Tensor, float, int]:
    """Loss of a batch of one lesson of the phase, its answer loss, and the next unused seed."""
    lesson = dice.choices(phase.lessons, [lesson.weight for lesson in phase.lessons])[0]
    lesson = replace(lesson, batch=lesson.batch * run.scale)
    batch = make_batch(range(seed, seed + lesson.batch), lesson)
    loss, answer = symbolic_loss(model, batch, phase.aids, noise, run.device)
    return loss, answer, seed + lesson.batch


def _report(run: RunSettings, model: SymbolicModel, phase: Phase, budget: Budget, loss: float) -> Tally:
    """Log the accuracy on held-out videos of the last lesson of a phase."""
    tally = score_symbolic(model, phase.lessons[-1], run.held_out(48), run.device)
    run.log(
        "lm",
        phase=phase.name,
        seconds=round(budget.elapsed),
        steps=budget.done,
        loss=round(loss, 3),
        macro=round(tally.macro, 3),
        held=rounded(tally.accuracy(), 2),
    )
    return tally


def symbolic_loss(
    model: SymbolicModel, batch: Batch, aids: AidWeights, noise: np.random.Generator, device: str
) -> tuple[Tensor, float]:
    """Answer loss plus auxiliary losses, and the answer loss as a number."""
    symbols = symbolic_batch(batch.videos, batch.times, noise).to(device)
    taps, packed = aids.taps, batch.packed.to(device)
    with torch.autocast(device, torch.bfloat16):
        output = forward_packed(model.decoder, model.prompt(symbols), packed, taps, keep_hidden=aids.naming > 0)
    answer = functional.cross_entropy(output.logits, output.targets)
    maps = [VideoMap(video, batch.times) for video in batch.videos]
    return answer + aid_loss(model.decoder, output, taps, aids, maps, batch.questions, packed), answer.item()


def score_symbolic(model: SymbolicModel, lesson: Lesson, count: int, device: str) -> Tally:
    """Accuracy on held-out videos of a lesson."""
    tally, noise = Tally(), np.random.default_rng(0)
    for start in range(VALIDATION.start, VALIDATION.start + count, 16):
        batch = make_batch(range(start, min(start + 16, VALIDATION.start + count)), lesson, None)
        symbols = symbolic_batch(batch.videos, batch.times, noise).to(device)
        packed = batch.packed.to(device)
        with torch.no_grad(), torch.autocast(device, torch.bfloat16):
            output = forward_packed(model.decoder, model.prompt(symbols), packed)
        count_matches(tally, output, packed, batch.questions)
    return tally


def count_matches(tally: Tally, output: TextOutput, packed: Packed, questions: Sequence[Sequence[Question]]) -> None:
    """Add the answers of one forward pass to a tally."""
    for asked, matches in zip(questions, exact_matches(output, packed, questions), strict=True):
        for question, correct in zip(asked, matches, strict=True):
            tally.add(question, correct)
