"""Stage "tower": the vision tower learns to see with dense supervision on rendered frames.

Every patch must name the colour and shape of the object it shows, point at the object's centre, know its size and
draw its outline on a 4x4 grid. Every patch must also tell which colours and shapes the picture holds anywhere, so that
attention flows from the background to the objects, as it does in large image encoders. Most of the time goes to
windows of half a frame near objects, which are cheaper than whole frames; the last quarter is spent on whole frames.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from vidcomp.nano.model import CELLS, PATCH, SIDE, TOWER_WIDTH, build_model, to_pixels, tower_features
from vidcomp.nano.progress import RunSettings, adamw, set_rate, step
from vidcomp.nano.render import Image, label_map, render
from vidcomp.nano.seeds import TOWER_TRAIN, VALIDATION
from vidcomp.nano.world import COLORS, SHAPES, Options, Sight, make_video

SECONDS = 1200.0
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
    positions: Tensor | None = None  # [B, P] patch index inside the frame


class TowerHeads(nn.Module):
    """Linear read-outs that exist during this stage only."""

    def __init__(self) -> None:
        super().__init__()
        self.color = nn.Linear(TOWER_WIDTH, len(COLORS) + 1)
        self.shape = nn.Linear(TOWER_WIDTH, len(SHAPES) + 1)
        self.place = nn.Linear(TOWER_WIDTH, 3)
        self.mask = nn.Linear(TOWER_WIDTH, _MASK * _MASK)
        self.presence = nn.Linear(TOWER_WIDTH, len(COLORS) + len(SHAPES))


def frame_batch(first_seed: int, count: int) -> FrameBatch:
    """`count` whole frames: four random moments of each of count / 4 videos."""
    rng = random.Random(first_seed)
    parts = [_frames_of(first_seed + i, rng) for i in range((count + 3) // 4)]
    return FrameBatch(*(torch.cat([part[k] for part in parts])[:count] for k in range(5)))


def _frames_of(seed: int, rng: random.Random) -> tuple[Tensor, ...]:
    """Pixels and targets of four moments of one video."""
    video = make_video(seed, Options(things=(0.2, 0.4, 0.4), radius=(0.1, 0.17)))
    times = [rng.random() for _ in range(4)]
    width, height = rng.choices(SIZES, SIZE_WEIGHTS)[0]
    targets = [_targets(*label_map(video, time, SIDE)) for time in times]
    stacked = (torch.from_numpy(np.stack([target[k] for target in targets])) for k in range(4))
    return to_pixels(render(video, times, width, height)), *stacked


def _targets(labels: Image, sights: list[Sight]) -> tuple[NDArray[Any], ...]:
    """Colour [P], shape [P], place [P, 3] and mask [P, 16] of one label map."""
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
    return names[:, 0], names[:, 1], place, mask


def cut_windows(batch: FrameBatch, rng: random.Random, per_frame: int = 3) -> FrameBatch:
    """Windows of 6x6 patches, most of them around an object."""
    grid = torch.arange(CELLS * CELLS).view(CELLS, CELLS)
    pixels, picks, rows = [], [], []
    for index in range(len(batch.pixels)):
        objects = (batch.color[index] > 0).nonzero().flatten().tolist()
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
    color, shape, place, mask = (t[frame, chosen] for t in (batch.color, batch.shape, batch.place, batch.mask))
    return FrameBatch(torch.stack(pixels), color, shape, place, mask, chosen)


def dense_loss(tower: Any, heads: TowerHeads, batch: FrameBatch, device: str) -> tuple[Tensor, dict[str, float]]:
    """Weighted sum of the six losses, and accuracies on foreground patches."""
    positions = None if batch.positions is None else batch.positions.to(device)
    with torch.autocast(device, torch.bfloat16):
        hidden = tower_features(tower, batch.pixels.to(device), positions)
        color, shape = heads.color(hidden).float(), heads.shape(hidden).float()
        place, mask = heads.place(hidden).float(), heads.mask(hidden).float()
        presence = heads.presence(hidden).float()
    wanted_color, wanted_shape = batch.color.to(device), batch.shape.to(device)
    seen = wanted_color > 0
    loss = _naming_loss(color, wanted_color) + 1.5 * _naming_loss(shape, wanted_shape)
    loss = loss + 3 * functional.binary_cross_entropy_with_logits(mask, batch.mask.to(device))
    loss = loss + _presence_loss(presence, wanted_color, wanted_shape)
    error = (place - batch.place.to(device)).abs()[seen]
    if len(error):
        loss = loss + 2 * error.mean()
    right = {
        "color": (color.argmax(-1)[seen] == wanted_color[seen]).float().mean().item(),
        "shape": (shape.argmax(-1)[seen] == wanted_shape[seen]).float().mean().item(),
        "center_error": error[:, :2].mean().item() / 4,
        "background": (color.argmax(-1)[wanted_color == 0] == 0).float().mean().item(),
    }
    return loss, right


def _naming_loss(scores: Tensor, wanted: Tensor) -> Tensor:
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
    held_out = frame_batch(VALIDATION.start, run.held_out(160))
    average: dict[str, float] = {}
    while budget.left:
        set_rate(optimizer, budget.done, budget.share, warmup=100)
        batch = frame_batch(seed, 16)
        seed += 4
        if budget.share < FULL_FROM:
            batch = cut_windows(batch, random.Random(seed))
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
    """Rounded for the log."""
    return {key: round(value, 3) for key, value in values.items()}
