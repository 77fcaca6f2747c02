# SPDX-License-Identifier: Apache-2.0
"""Stages "joint" and "robust": the whole model on rendered videos, with all kinds of questions.

"joint" starts from the joined model, keeps the matching and auxiliary losses at first and lets them fade out.
"robust" thins the visual tokens at random in three of four batches. The vision tower stays as it is in both.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from training.nano.ahead import ahead
from training.nano.aids import AidWeights, VideoMap, aid_loss
from training.nano.contrast import contrast_loss, shares
from training.nano.join import match_loss, render_batch, symbolic_target
from training.nano.language import WORLDS, Batch, Lesson, count_matches, make_batch
from training.nano.model import build_model, full_prompt, load_weights, projected, tower_features, visual_tokens
from training.nano.packing import SPLIT, forward_packed
from training.nano.progress import RunSettings, adamw, set_rate, step
from training.nano.symbolic import SymbolicProjector
from training.nano.thinning import late_mask, thin
from training.nano.workers import average, run_workers
from vidcomp.bench.world.scoring import Tally, rounded
from vidcomp.bench.world.seeds import JOINT_TRAIN, VALIDATION
from vidcomp.bench.world.videos import make_video, sample_times

SECONDS = {"joint": 400.0, "robust": 2400.0}
_BATCH = 8
_SLICE = 500_000_000  # seeds of one worker
_CHECK_SECONDS = 300.0
_RESUMED = 0.6  # of the peak rate when a stage goes on from its own state: less is to be learnt, more to be lost
_REMEMBERED = 200  # batches whose tower output is kept, about 2 MB each


@dataclass(frozen=True)
class Tuning:
    """How one of the two stages trains."""

    source: str  # state it starts from
    rate: float
    tower_rate: float  # zero freezes the vision tower, which makes a step nearly twice as fast
    matching: float  # weight at the start
    aids: AidWeights | None
    thinning: float  # part of the batches whose tokens are thinned
    hold: float = 0.3  # part of the budget at the full learning rate
    fade_end: float = 0.5  # part of the budget after which matching and auxiliary losses are gone
    centering: float = 0.0  # part of the mean visual token that is taken out before the stage begins
    contrast: float = 0.0  # weight of the contrast of the visual tokens
    again: float = 0.0  # part of the steps that ask anew about remembered videos; needs a frozen tower


TUNINGS = {
    "joint": Tuning("join", 1e-3, 0.0, 0.5, AidWeights(0.5, 0.15, 0.2), 0.0),
    "robust": Tuning(
        "salience",
        1e-3,
        0.0,
        0.0,
        AidWeights(0.3, 0.5, 0.3),
        0.8,
        0.3,
        fade_end=0.3,
        centering=0.55,
        contrast=1.0,
        again=0.7,
    ),
}


def train_stage(run: RunSettings, name: str, seconds: float | None = None) -> None:
    """Run "joint" or "robust"; goes on from STATE/name.pt if it exists."""
    run_workers(run, partial(_train, name=name, seconds=SECONDS[name] if seconds is None else seconds))


def load_model(run: RunSettings, name: str) -> Any:
    """The full model as a stage saved it."""
    model = build_model()
    load_weights(model, run.load(name)["model"])
    return model.to(run.device)


def lesson_of(run: RunSettings) -> Lesson:
    """Videos and questions of a training step."""
    return replace(WORLDS[run.world], batch=_BATCH * run.scale, unknown=0.08)


def _train(run: RunSettings, name: str, seconds: float) -> None:
    """Body of one worker."""
    tuning, lesson = TUNINGS[name], lesson_of(run)
    resumed = (run.state / f"{name}.pt").exists()
    saved = run.load(name if resumed else tuning.source)
    model = build_model()
    load_weights(model, saved["model"])
    model.to(run.device).model.language_model.set_attn_implementation(SPLIT)
    centered = resumed or saved.get("centered", False)
    if not centered:
        take_out_mean(model, tuning.centering, lesson, run.device)
    symbolic = SymbolicProjector().to(run.device)
    if "symbolic" in saved:  # a model that came from a checkpoint folder has none, and robust does without
        symbolic.load_state_dict(saved["symbolic"])
    seed = JOINT_TRAIN.start + run.rank * _SLICE + saved["updates"] * lesson.batch
    torch.manual_seed(100 + run.rank + saved["updates"])
    dice, budget = random.Random(seed), run.budget(seconds)
    optimizer = _optimizer(model, replace(tuning, rate=tuning.rate * (_RESUMED if resumed else 1.0)))
    memory = Memory(run, model, lesson, seed, tuning.again)
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    loss_average, checked, share = 0.0, 0.0, 0.0
    while share < 1:
        set_rate(optimizer, budget.done, budget.share, warmup=40, hold=tuning.hold)
        batch, hidden = memory.next_batch()
        loss, answer = video_loss(model, symbolic, batch, hidden, tuning, budget.share, dice, run.device)
        step(optimizer, loss, budget)
        loss_average = answer if not loss_average else 0.98 * loss_average + 0.02 * answer
        if budget.done % run.sync_steps:
            continue
        share = average(run, trained, budget.share)
        if run.rank == 0 and (budget.elapsed - checked > _CHECK_SECONDS or share >= 1):
            checked = budget.elapsed
            tally = score_model(model, run.held_out(48), lesson, run.device)
            run.log(name, seconds=round(checked), steps=budget.done, loss=round(loss_average, 4),
                    macro=round(tally.macro, 3), held=rounded(tally.accuracy(), 2))  # fmt: skip
            updates = saved["updates"] + budget.done
            run.save(name, {"model": model.state_dict(), "symbolic": symbolic.state_dict(), "updates": updates,
                            "centered": centered or bool(tuning.centering)})  # fmt: skip


def _optimizer(model: Any, tuning: Tuning) -> torch.optim.AdamW:
    """Optimiser over all parts, or over all but a frozen tower."""
    tower = list(model.model.vision_tower.parameters())
    known = {id(p) for p in tower}
    others = [p for p in model.parameters() if id(p) not in known]
    if tuning.tower_rate:
        return adamw((others, tuning.rate), (tower, tuning.tower_rate))
    model.model.vision_tower.requires_grad_(False)
    return adamw((others, tuning.rate))


@torch.no_grad()
def take_out_mean(model: Any, share: float, lesson: Lesson, device: str) -> None:
    """Subtract a part of the mean visual token from the projector's bias.

    All tokens have much in common; with less of it, their cosine tells what they show, as compression methods expect.
    """
    batch = make_batch(range(JOINT_TRAIN.start, JOINT_TRAIN.start + 24), lesson, 1)
    tokens = visual_tokens(model, render_batch(batch.videos, batch.times, random.Random(0)).to(device))
    model.model.multi_modal_projector.linear_2.bias -= share * tokens.mean((0, 1))


class Memory:
    """Batches for training: new videos, or remembered ones with new questions, which saves rendering and the tower."""

    def __init__(self, run: RunSettings, model: Any, lesson: Lesson, seed: int, again: float) -> None:
        self.tower, self.lesson, self.again, self.device = model.model.vision_tower, lesson, again, run.device
        self.fresh = ahead(partial(_rendered, lesson=lesson), seed, lesson.batch, run.loaders)
        self.dice, self.turn = random.Random(seed), 0
        self.known: list[tuple[int, Tensor]] = []

    def next_batch(self) -> tuple[Batch, Tensor]:
        """A batch and what the tower says about it, [B * T, P, D]."""
        self.turn += 1
        if self.known and self.dice.random() < self.again:
            seed, hidden = self.dice.choice(self.known)
            return make_batch(range(seed, seed + self.lesson.batch), self.lesson, turn=self.turn), hidden
        seed, pixels = next(self.fresh)
        batch = make_batch(range(seed, seed + self.lesson.batch), self.lesson)
        frozen = not next(self.tower.parameters()).requires_grad
        with torch.set_grad_enabled(not frozen), torch.autocast(self.device, torch.bfloat16):
            hidden = tower_features(self.tower, pixels.to(self.device))
        if self.again:
            self._remember(seed, hidden.to(torch.bfloat16))
        return batch, hidden

    def _remember(self, seed: int, hidden: Tensor) -> None:
        if len(self.known) < _REMEMBERED:
            self.known.append((seed, hidden))
        else:
            self.known[self.dice.randrange(_REMEMBERED)] = (seed, hidden)


def _rendered(seed: int, lesson: Lesson) -> tuple[int, Tensor]:
    """Frames [B * T, 3, 96, 96] of the batch that begins with this seed."""
    videos = [make_video(number, lesson.options) for number in range(seed, seed + lesson.batch)]
    return seed, render_batch(videos, sample_times(lesson.options.frames), random.Random(seed)).flatten(0, 1)


def video_loss(
    model: Any,
    symbolic: SymbolicProjector,
    batch: Batch,
    hidden: Tensor,
    tuning: Tuning,
    share: float,
    dice: random.Random,
    device: str,
) -> tuple[Tensor, float]:
    """Answer loss and fading aids of one batch whose tower output is `hidden`, and the answer loss as a number."""
    fade = max(0.0, 1 - share / tuning.fade_end)
    packed = batch.packed.to(device)
    aids = tuning.aids if fade > 0 else None
    taps = aids.taps if aids else None
    with torch.autocast(device, torch.bfloat16):
        tokens = projected(model, hidden, len(batch.videos))
        prompt = full_prompt(model, tokens)
        late = None
        if dice.random() < tuning.thinning:
            prompt = thin(prompt, dice)
            late = late_mask(prompt, dice)
        output = forward_packed(model.model.language_model, prompt, packed, taps, aids is not None, late)
    answer = functional.cross_entropy(output.logits, output.targets)
    loss = answer
    if tuning.matching and fade > 0:
        loss = loss + tuning.matching * fade * match_loss(tokens, *symbolic_target(symbolic, batch.videos, batch.times))
    if tuning.contrast:
        loss = loss + tuning.contrast * contrast_loss(tokens, shares(batch.videos, batch.times).to(device))
    if aids is not None and taps is not None:
        kept = [None] * len(batch.videos) if prompt.kept is None else prompt.kept.tolist()
        maps = [VideoMap(video, batch.times, k) for video, k in zip(batch.videos, kept, strict=True)]
        decoder = model.model.language_model
        loss = loss + fade * aid_loss(decoder, output, taps, aids, maps, batch.questions, packed)
    return loss, answer.item()


def score_model(model: Any, videos: int, lesson: Lesson, device: str, first: int = VALIDATION.start) -> Tally:
    """Accuracy on rendered held-out videos, all questions of each; the decoder must use split attention."""
    tally, dice = Tally(), random.Random(0)
    for start in range(first, first + videos, 8):
        batch = make_batch(range(start, min(start + 8, first + videos)), lesson, None)
        packed = batch.packed.to(device)
        with torch.no_grad(), torch.autocast(device, torch.bfloat16):
            prompt = full_prompt(model, visual_tokens(model, render_batch(batch.videos, batch.times, dice).to(device)))
            output = forward_packed(model.model.language_model, prompt, packed)
        count_matches(tally, output, packed, batch.questions)
    return tally
