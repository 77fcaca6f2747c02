# SPDX-License-Identifier: Apache-2.0
"""Stage "tower": the vision tower learns to see with dense supervision on rendered frames.

Every patch must name the colour and shape of the object it shows, point at the object's centre, know its size and
draw its outline on a 4x4 grid. Every patch must also tell which colours and shapes the picture holds anywhere, so that
attention flows from the background to the objects, as it does in large image encoders. Most of the time goes to
windows of half a frame near objects, which are cheaper than whole frames; the last quarter is spent on whole frames.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from training.nano.ahead import ahead
from training.nano.language import WORLDS
from training.nano.model import CELLS, PATCH, SIDE, TOWER_WIDTH, build_model, to_pixels, tower_features
from training.nano.progress import RunSettings, adamw, set_rate, step
from vidcomp.bench.world.render import DIGIT_LABEL, Image, label_map, render
from vidcomp.bench.world.seeds import TOWER_TRAIN, VALIDATION
from vidcomp.bench.world.videos import COLORS, SHAPES, Digit, Options, Sight, make_video

SECONDS = 1200.0
_SMALL = Options()
_FRAMES = 16  # in a batch
WINDOW = 6  # patches along the side of a window
FULL_FROM = 0.75  # share of the budget after which whole frames are used
SIZES = ((128, 96), (160, 120), (96, 96), (320, 240))
SIZE_WEIGHTS = (0.4, 0.35, 0.15, 0.1)
_MASK = 4
_IGNORE = -100


@dataclass(frozen=True)
class FrameBatch:
    """Frames with per-patch targets; P patches per picture."""

    pixels: Tensor  # [B, 3, h, w]
    color: Tensor  # [B, P] 0 background, -100 not scored
    shape: Tensor  # [B, P]
    place: Tensor  # [B, P, 3] offset to the centre and radius
    mask: Tensor  # [B, P, 16] foreground share of the 4x4 parts of the patch
    digit: Tensor  # [B, P] 0 none, 1 to 10 for 0 to 9, -100 not scored
    positions: Tensor | None = None  # [B, P] patch index inside the frame

    def tensors(self) -> tuple[Tensor, ...]:
        """Pixels and targets."""
        return self.pixels, self.color, self.shape, self.place, self.mask, self.digit

    def places(self, device: str) -> Tensor | None:
        """The positions on a device."""
        return None if self.positions is None else self.positions.to(device)


class TowerHeads(nn.Module):
    """Linear read-outs that exist during this stage only."""

    def __init__(self) -> None:
        super().__init__()
        self.color = nn.Linear(TOWER_WIDTH, len(COLORS) + 1)
        self.shape = nn.Linear(TOWER_WIDTH, len(SHAPES) + 1)
        self.place = nn.Linear(TOWER_WIDTH, 3)
        self.mask = nn.Linear(TOWER_WIDTH, _MASK * _MASK)
        self.digit = nn.Linear(TOWER_WIDTH, 11)
        self.presence = nn.Linear(TOWER_WIDTH, len(COLORS) + len(SHAPES))


def frame_batch(first_seed: int, count: int, world: Options = _SMALL) -> FrameBatch:
    """`count` whole frames: four random moments of each of count / 4 videos."""
    rng = random.Random(first_seed)
    parts = [_frames_of(first_seed + i, rng, world) for i in range((count + 3) // 4)]
    return FrameBatch(*(torch.cat([part[k] for part in parts])[:count] for k in range(6)))


def _frames_of(seed: int, rng: random.Random, world: Options) -> tuple[Tensor, ...]:
    """Pixels and targets of four moments of one video; if it has a digit, one of them shows it."""
    video = make_video(seed, replace(world, things=(0.2, 0.4, 0.4), radius=(0.1, 0.17)))
    times = [rng.random() for _ in range(4)]
    if video.digit is not None:
        times[0] = min(1.0, max(0.0, 0.5 * (video.digit.start + video.digit.end)))
    width, height = rng.choices(SIZES, SIZE_WEIGHTS)[0]
    targets = [_targets(*label_map(video, time, SIDE), video.digit) for time in times]
    stacked = (torch.from_numpy(np.stack([target[k] for target in targets])) for k in range(5))
    return to_pixels(render(video, times, width, height)), *stacked


def _targets(labels: Image, sights: list[Sight], digit: Digit | None) -> tuple[NDArray[Any], ...]:
    """Colour [P], shape [P], place [P, 3], mask [P, 16] and digit [P] of one label map."""
    blocks = labels.reshape(CELLS, PATCH, CELLS, PATCH).transpose(0, 2, 1, 3).reshape(CELLS * CELLS, -1)
    shares = np.stack([(blocks == i).mean(1) for i in range(1, len(sights) + 1)] or [np.zeros(len(blocks))], 1)
    best, cover = shares.argmax(1), shares.max(1)
    table = [(list(COLORS).index(s.color) + 1, SHAPES.index(s.shape) + 1) for s in sights] or [(0, 0)]
    names = np.array(table, np.int64)[best]
    names[cover < 0.12] = _IGNORE
    names[cover < 0.02] = 0
    row, column = np.divmod(np.arange(len(blocks)), CELLS)
    where = np.array([(s.x, s.y, s.radius) for s in sights] or [(0, 0, 0)], np.float32)[best]
    center = np.stack([(column + 0.5) / CELLS, (row + 0.5) / CELLS], 1)
    place = np.concatenate([4 * (where[:, :2] - center), 6 * where[:, 2:]], 1).astype(np.float32)
    part = PATCH // _MASK
    fine = (labels > 0).reshape(CELLS, _MASK, part, CELLS, _MASK, part).mean((2, 5))
    mask = fine.transpose(0, 2, 1, 3).reshape(len(blocks), -1).astype(np.float32)
    card = (blocks == DIGIT_LABEL).mean(1)
    number = np.where(card > 0.5, digit.value + 1 if digit else 0, np.where(card > 0, _IGNORE, 0)).astype(np.int64)
    return names[:, 0], names[:, 1], place, mask, number


def cut_windows(batch: FrameBatch, around: Tensor, rng: random.Random, per_frame: int = 3) -> FrameBatch:
    """Windows of 6x6 patches, most of them near one of the patches marked in `around` [B, P]."""
    grid = torch.arange(CELLS * CELLS).view(CELLS, CELLS)
    pixels, picks, rows = [], [], []
    for index in range(len(batch.pixels)):
        objects = around[index].nonzero().flatten().tolist()
        for _ in range(per_frame):
            top, left = (rng.randrange(CELLS - WINDOW + 1) for _ in range(2))
            if objects and rng.random() < 0.9:
                row, column = divmod(rng.choice(objects), CELLS)
                top = min(CELLS - WINDOW, max(0, row - rng.randrange(1, 5)))
                left = min(CELLS - WINDOW, max(0, column - rng.randrange(1, 5)))
            span = WINDOW * PATCH
            pixels.append(batch.pixels[index, :, top * PATCH :, left * PATCH :][:, :span, :span])
            picks.append(grid[top : top + WINDOW, left : left + WINDOW].flatten())
            rows.append(index)
    chosen, frame = torch.stack(picks), torch.tensor(rows)[:, None]
    color, shape, place, mask, digit = (target[frame, chosen] for target in batch.tensors()[1:])
    return FrameBatch(torch.stack(pixels), color, shape, place, mask, digit, chosen)


def dense_loss(tower: Any, heads: TowerHeads, batch: FrameBatch, device: str) -> tuple[Tensor, dict[str, float]]:
    """Weighted sum of the seven losses, and accuracies on foreground patches."""
    with torch.autocast(device, torch.bfloat16):
        hidden = tower_features(tower, batch.pixels.to(device), batch.places(device))
        color, shape = heads.color(hidden).float(), heads.shape(hidden).float()
        place, mask = heads.place(hidden).float(), heads.mask(hidden).float()
        presence, digit = heads.presence(hidden).float(), heads.digit(hidden).float()
    wanted_color, wanted_shape = batch.color.to(device), batch.shape.to(device)
    seen = wanted_color > 0
    loss = naming_loss(color, wanted_color) + 1.5 * naming_loss(shape, wanted_shape)
    loss = loss + 3 * functional.binary_cross_entropy_with_logits(mask, batch.mask.to(device))
    loss = loss + naming_loss(digit, batch.digit.to(device))
    loss = loss + _presence_loss(presence, wanted_color, wanted_shape)
    error = (place - batch.place.to(device)).abs()[seen]
    if len(error):
        loss = loss + 2 * error.mean()
    right = {
        "color": (color.argmax(-1)[seen] == wanted_color[seen]).float().mean().item(),
        "shape": (shape.argmax(-1)[seen] == wanted_shape[seen]).float().mean().item(),
        "center_error": error[:, :2].mean().item() / 4,
        "digit": (digit.argmax(-1)[batch.digit > 0].cpu() == batch.digit[batch.digit > 0]).float().mean().item(),
        "background": (color.argmax(-1)[wanted_color == 0] == 0).float().mean().item(),
    }
    return loss, right


def naming_loss(scores: Tensor, wanted: Tensor) -> Tensor:
    """Cross entropy in which background patches count less."""
    weight = torch.ones(scores.shape[-1], device=scores.device)
    weight[0] = 0.2
    return functional.cross_entropy(scores.flatten(0, 1), wanted.flatten(), weight, ignore_index=_IGNORE)


def _presence_loss(scores: Tensor, color: Tensor, shape: Tensor) -> Tensor:
    """Every patch [B, P, 13] tells which colours and shapes occur among all patches of the picture."""
    named = [
        functional.one_hot(t.clamp(min=0), n + 1)[..., 1:].amax(1)
        for t, n in ((color, len(COLORS)), (shape, len(SHAPES)))
    ]
    wanted = torch.cat(named, -1).float()[:, None].expand_as(scores)
    return functional.binary_cross_entropy_with_logits(scores, wanted)


def train_tower(run: RunSettings, seconds: float = SECONDS) -> None:
    """Train from scratch, or go on from STATE/tower.pt if it exists, and save STATE/tower.pt."""
    tower = build_model().model.vision_tower.to(run.device)
    torch.manual_seed(1)
    heads = TowerHeads().to(run.device)
    budget, seed = run.budget(seconds), TOWER_TRAIN.start
    if (run.state / "tower.pt").exists():
        saved = run.load("tower")
        tower.load_state_dict(saved["tower"])
        heads.load_state_dict(saved["heads"])
        seed = saved["next_seed"]
    optimizer = adamw(([*tower.parameters(), *heads.parameters()], 1.5e-3))
    world = WORLDS[run.world].options
    held_out = frame_batch(VALIDATION.start, run.held_out(160), world)
    average: dict[str, float] = {}
    count = _FRAMES * run.scale
    batches = ahead(partial(frame_batch, count=count, world=world), seed, count // 4, run.loaders)
    while budget.left:
        set_rate(optimizer, budget.done, budget.share, warmup=100)
        batch = next(batches)
        seed += count // 4
        if budget.share < FULL_FROM:
            batch = cut_windows(batch, batch.color > 0, random.Random(seed))
        loss, right = dense_loss(tower, heads, batch, run.device)
        step(optimizer, loss, budget)
        average = {key: 0.98 * average.get(key, value) + 0.02 * value for key, value in right.items() if value == value}
        if budget.done % 500 == 0 or not budget.left:
            with torch.no_grad():
                _, scores = dense_loss(tower, heads, held_out, run.device)
            run.log(
                "tower", seconds=round(budget.elapsed), steps=budget.done, train=_short(average), held=_short(scores)
            )
            run.save("tower", {"tower": tower.state_dict(), "heads": heads.state_dict(), "next_seed": seed})


def _short(values: dict[str, float]) -> dict[str, float]:
    """Rounded for the log, without what there was nothing to measure with."""
    return {key: round(value, 3) for key, value in values.items() if value == value}
