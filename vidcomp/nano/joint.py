"""Stages "joint" and "robust": the whole model on rendered videos, with all kinds of questions.

"joint" starts from the joined model, keeps the matching and auxiliary losses at first and lets them fade out.
"robust" thins the visual tokens at random in three of four batches. The vision tower stays as it is in both.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from vidcomp.nano.aids import AidWeights, VideoMap, aid_loss
from vidcomp.nano.join import match_loss, render_batch, symbolic_target
from vidcomp.nano.language import Batch, Lesson, count_matches, make_batch
from vidcomp.nano.model import build_model, full_prompt, visual_tokens
from vidcomp.nano.packing import SPLIT, forward_packed
from vidcomp.nano.progress import RunSettings, adamw, set_rate, step
from vidcomp.nano.questions import KINDS
from vidcomp.nano.scoring import Tally, rounded
from vidcomp.nano.seeds import JOINT_TRAIN, VALIDATION
from vidcomp.nano.symbolic import SymbolicProjector
from vidcomp.nano.thinning import late_mask, thin
from vidcomp.nano.workers import SYNC_STEPS, average, run_workers
from vidcomp.nano.world import Options

SECONDS = {"joint": 400.0, "robust": 2400.0}
LESSON = Lesson(Options(), KINDS, batch=8, unknown=0.08)
_SLICE = 500_000_000  # seeds of one worker
_CHECK_SECONDS = 150.0


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


TUNINGS = {
    "joint": Tuning("join", 1e-3, 0.0, 0.5, AidWeights(0.5, 0.15, 0.2), 0.0),
    "robust": Tuning("salience", 1e-3, 0.0, 0.0, AidWeights(0.3, 0.5, 0.3), 0.8, 0.3, fade_end=0.3, centering=0.55),
}


def train_stage(run: RunSettings, name: str, seconds: float | None = None) -> None:
    """Run "joint" or "robust"; goes on from STATE/name.pt if it exists."""
    run_workers(run, partial(_train, name=name, seconds=SECONDS[name] if seconds is None else seconds))


def load_model(run: RunSettings, name: str) -> Any:
    """The full model as a stage saved it."""
    model = build_model()
    model.load_state_dict(run.load(name)["model"])
    return model.to(run.device)


def _train(run: RunSettings, name: str, seconds: float) -> None:
    """Body of one worker."""
    tuning = TUNINGS[name]
    resumed = (run.state / f"{name}.pt").exists()
    saved = run.load(name if resumed else tuning.source)
    model = build_model()
    model.load_state_dict(saved["model"])
    model.to(run.device).model.language_model.set_attn_implementation(SPLIT)
    if not resumed:
        take_out_mean(model, tuning.centering, run.device)
    symbolic = SymbolicProjector().to(run.device)
    symbolic.load_state_dict(saved["symbolic"])
    seed = JOINT_TRAIN.start + run.rank * _SLICE + saved["updates"] * LESSON.batch
    torch.manual_seed(100 + run.rank + saved["updates"])
    dice, budget = random.Random(seed), run.budget(seconds)
    optimizer = _optimizer(model, tuning)
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    loss_average, checked, share = 0.0, 0.0, 0.0
    while share < 1:
        set_rate(optimizer, budget.done, budget.share, warmup=40, hold=tuning.hold)
        batch = make_batch(range(seed, seed + LESSON.batch), LESSON)
        seed += LESSON.batch
        loss, answer = video_loss(model, symbolic, batch, tuning, budget.share, dice, run.device)
        step(optimizer, loss, budget)
        loss_average = answer if not loss_average else 0.98 * loss_average + 0.02 * answer
        if budget.done % SYNC_STEPS:
            continue
        share = average(run, trained, budget.share)
        if run.rank == 0 and (budget.elapsed - checked > _CHECK_SECONDS or share >= 1):
            checked = budget.elapsed
            tally = score_model(model, run.held_out(48), run.device)
            run.log(name, seconds=round(checked), steps=budget.done, loss=round(loss_average, 4),
                    macro=round(tally.macro, 3), held=rounded(tally.accuracy(), 2))  # fmt: skip
            updates = saved["updates"] + budget.done
            run.save(name, {"model": model.state_dict(), "symbolic": symbolic.state_dict(), "updates": updates})


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
def take_out_mean(model: Any, share: float, device: str) -> None:
    """Subtract a part of the mean visual token from the projector's bias.

    All tokens have much in common; with less of it, their cosine tells what they show, as compression methods expect.
    """
    batch = make_batch(range(JOINT_TRAIN.start, JOINT_TRAIN.start + 24), LESSON, 1)
    tokens = visual_tokens(model, render_batch(batch.videos, batch.times, random.Random(0)).to(device))
    model.model.multi_modal_projector.linear_2.bias -= share * tokens.mean((0, 1))


def video_loss(
    model: Any,
    symbolic: SymbolicProjector,
    batch: Batch,
    tuning: Tuning,
    share: float,
    dice: random.Random,
    device: str,
) -> tuple[Tensor, float]:
    """Answer loss and the fading aids of one batch of rendered videos, and the answer loss as a number."""
    fade = max(0.0, 1 - share / tuning.fade_end)
    pixels, packed = render_batch(batch.videos, batch.times, dice).to(device), batch.packed.to(device)
    aids = tuning.aids if fade > 0 else None
    taps = aids.taps if aids else None
    with torch.autocast(device, torch.bfloat16):
        tokens = visual_tokens(model, pixels)
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
    if aids is not None and taps is not None:
        kept = [None] * len(batch.videos) if prompt.kept is None else prompt.kept.tolist()
        maps = [VideoMap(video, batch.times, k) for video, k in zip(batch.videos, kept, strict=True)]
        decoder = model.model.language_model
        loss = loss + fade * aid_loss(decoder, output, taps, aids, maps, batch.questions, packed)
    return loss, answer.item()


def score_model(model: Any, videos: int, device: str, first: int = VALIDATION.start) -> Tally:
    """Accuracy on rendered held-out videos, all questions of each; the decoder must use split attention."""
    tally, dice = Tally(), random.Random(0)
    for start in range(first, first + videos, 8):
        batch = make_batch(range(start, min(start + 8, first + videos)), LESSON, None)
        packed = batch.packed.to(device)
        with torch.no_grad(), torch.autocast(device, torch.bfloat16):
            prompt = full_prompt(model, visual_tokens(model, render_batch(batch.videos, batch.times, dice).to(device)))
            output = forward_packed(model.model.language_model, prompt, packed)
        count_matches(tally, output, packed, batch.questions)
    return tally
