# SPDX-License-Identifier: Apache-2.0
"""Time of the outer stage alone, on made-up features: decide and merge, without a model."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from vidcomp.bench.memory import peak_memory
from vidcomp.core.arguments import checked, expect
from vidcomp.core.tokens import TokenView, apply_reduction
from vidcomp.methods import Method, get_method
from vidcomp.methods.base import reads

__all__ = ["CompressTiming", "bench_compress", "made_up_view", "near_square", "with_signals"]

_TOWER = {"layers": 26, "keys": 72, "width": 1152}  # SigLIP so400m, the tower of LLaVA-OneVision
_ATTENTION = ("cls_attention", "summary_attention", "value_norm", "value_similarity")


@dataclass(frozen=True)
class CompressTiming:
    """Result of :func:`bench_compress`.

    Attributes:
        method: name.
        shape: (T, N, D) of the features.
        dtype, device, threads: how it ran; threads are those of torch on the CPU.
        keep: requested share; kept: survivors.
        repeats: timed runs, after one that is not counted.
        median_seconds, p10_seconds, p90_seconds: method and merge together.
        decide_seconds: median of the method alone.
        feature_bytes: size of the features.
        read_pass_seconds: median time of one full read of the features (their sum), taken between the same runs.
        passes_equivalent: median_seconds / read_pass_seconds.
        peak_bytes: most memory that one run took beyond its inputs; None where that cannot be measured.
    """

    method: str
    shape: tuple[int, int, int]
    dtype: str
    device: str
    threads: int
    keep: float
    kept: int
    repeats: int
    median_seconds: float
    p10_seconds: float
    p90_seconds: float
    decide_seconds: float
    feature_bytes: int
    read_pass_seconds: float
    passes_equivalent: float
    peak_bytes: int | None

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain values."""
        return asdict(self) | {"shape": list(self.shape)}


@checked
def bench_compress(
    method_name: str = "holitom",
    *,
    shape: tuple[int, int, int] = (32, 196, 3584),
    keep: float = 0.1,
    repeats: int = 20,
    threads: int | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    **parameters: Any,
) -> CompressTiming:
    """Time a method on :func:`made_up_view`.

    Every repeat times the read pass, the method and the merge one after the other: a busy machine slows all alike.

    Args:
        method_name: a name of :func:`vidcomp.methods`, with its ``parameters``.
        shape: (T, N, D).
        keep: share of tokens to keep, in (0, 1].
        repeats: timed runs.
        threads: torch threads during the run; None leaves them as they are.
        seed: of the features.
        dtype: of the features.
        device: where they live.

    Raises:
        UsageError: unknown method or parameter.
        ValueError: a shape or repeats below 1, or keep outside its range.
    """
    whole = isinstance(shape, (list, tuple)) and [type(size) for size in shape] == [int] * 3
    expect("shape", shape, whole, "(T, N, D)")
    expect("dtype", dtype, isinstance(dtype, torch.dtype), "a torch.dtype")
    if min(shape) < 1 or repeats < 1:
        raise ValueError(f"shape and repeats must be at least 1, got {shape} and {repeats}")
    method = get_method(method_name, **parameters)
    with torch.inference_mode(), _threads(threads):
        view = _moved(with_signals(made_up_view(shape, seed=seed, dtype=dtype), method, seed), device)
        seconds, kept, peak = _measure(view, method, keep, repeats)
        used = torch.get_num_threads()
    both = [decide + merge for _, decide, merge in seconds]
    median, low, high = (_quantile(both, share) for share in (0.5, 0.1, 0.9))
    read = _quantile([row[0] for row in seconds], 0.5)
    decide = _quantile([row[1] for row in seconds], 0.5)
    size = view.features.numel() * view.features.element_size()
    kind = str(dtype).removeprefix("torch.")
    return CompressTiming(method_name, shape, kind, device, used, keep, kept, repeats, median, low, high, decide, size,
                          read, median / read, peak)  # fmt: skip


def _measure(
    view: TokenView, method: Method, keep: float, repeats: int
) -> tuple[list[tuple[float, ...]], int, int | None]:
    """Seconds of (read pass, method, merge) for each repeat, the survivors, and the peak memory of one run before."""
    wait: Callable[[], None] = torch.cuda.synchronize if view.features.is_cuda else lambda: None
    with peak_memory(view.features.device) as peak:
        apply_reduction(view, method(view, keep))
    rows = []
    for _ in range(repeats):
        marks = [_now(wait)]
        view.features.sum()
        marks.append(_now(wait))
        reduction = method(view, keep)
        marks.append(_now(wait))
        apply_reduction(view, reduction)
        marks.append(_now(wait))
        rows.append(tuple(after - before for before, after in pairwise(marks)))
    return rows, reduction.kept, peak.bytes


def _moved(view: TokenView, device: str) -> TokenView:
    signals: dict[str, Any] = {name: value.to(device) for name, value in view.signals.items()}
    return replace(view, features=view.features.to(device), times=view.times.to(device), **signals)


def with_signals(view: TokenView, method: Method, seed: int = 0) -> TokenView:
    """The view with made-up signals that the method reads, in the sizes of LLaVA-OneVision's tower.

    Attention follows the view's salience with noise; keys and the tower's output are random projections of the
    features; frame features are their means; the question has 16 tokens.
    """
    draw = torch.Generator().manual_seed(seed + 1)
    frames, tokens, width = view.features.shape

    def projected(size: int) -> Tensor:
        table = view.features.float() @ torch.randn(width, size, generator=draw)
        return (table / math.sqrt(width)).to(view.features.dtype)

    def noisy() -> Tensor:
        assert view.salience is not None
        return view.salience * (0.5 + torch.rand(frames, tokens, generator=draw))

    makers: dict[str, Callable[[], Tensor]] = {
        "keys": lambda: projected(_TOWER["keys"]),
        "encoder_features": lambda: projected(_TOWER["width"]),
        "cls_by_layer": lambda: torch.stack([noisy() for _ in range(_TOWER["layers"])], dim=-1),
        "frame_features": lambda: view.features.float().mean(1),
        "query": lambda: torch.randn(16, width, generator=draw).to(view.features.dtype),
        **dict.fromkeys(_ATTENTION, noisy),
    }
    made: dict[str, Any] = {name: makers[name]() for name in makers if name in reads(method, frozenset(makers))}
    return replace(view, **made)


def _now(wait: Callable[[], None]) -> float:
    wait()
    return time.perf_counter()


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(count or before)
        yield
    finally:
        torch.set_num_threads(before)


def _quantile(values: list[float], share: float) -> float:
    return float(torch.tensor(values, dtype=torch.float64).quantile(share))


def made_up_view(
    shape: tuple[int, int, int], *, seed: int = 0, dtype: torch.dtype = torch.float32, scene_frames: int = 8
) -> TokenView:
    """Features with the redundancy of a video: scenes, background regions that stay, one object that moves.

    Every ``scene_frames`` frames a cut brings a new background: up to 12 regions, each a common vector plus texture
    that stays with its position. Each region flickers from frame to frame with its own strength, from 0.05 to 1 of the
    common vector's spread, so that about three quarters of the positions count as static at the usual thresholds. An
    object of a sixteenth of the frame moves one position per frame and carries most of the salience. All tokens share
    an offset, as real ones do.

    Args:
        shape: (T, N, D).
        seed: one seed gives one video on every machine.
        dtype: of the features.
        scene_frames: frames between cuts.

    Returns:
        A view on the CPU with salience [T, N] that sums to one per frame; its grid is as square as N allows.
    """
    frames, tokens, width = shape
    draw = torch.Generator().manual_seed(seed)
    height, across = near_square(tokens)
    features = torch.empty(shape, dtype=dtype)
    salience = torch.rand(frames, tokens, generator=draw)
    offset = torch.randn(width, generator=draw) * 0.5
    thing = torch.randn(width, generator=draw)
    size = max(1, round(math.sqrt(tokens / 16)))
    for frame in range(frames):
        if frame % scene_frames == 0:
            scene, flicker = _scene(height, across, width, draw)
        picture = offset + scene + flicker[:, None] * torch.randn(tokens, width, generator=draw)
        inside = _object(height, across, size, frame)
        picture[inside] = offset + thing + 0.3 * torch.randn(int(inside.sum()), width, generator=draw)
        salience[frame, inside] += 2
        features[frame] = picture
    times = torch.arange(frames, dtype=torch.float32)
    return TokenView(features, (height, across), times, salience=salience / salience.sum(1, keepdim=True))


def _scene(height: int, across: int, width: int, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Background [N, D] and flicker strength [N] of one scene: a 3 by 4 board of regions."""
    row = torch.arange(height)[:, None] * 3 // height
    column = torch.arange(across)[None, :] * 4 // across
    region = (row * 4 + column).reshape(-1)
    common = torch.randn(12, width, generator=draw)
    strength = 0.05 * 20 ** torch.rand(12, generator=draw)
    return common[region] + 0.3 * torch.randn(region.numel(), width, generator=draw), strength[region]


def _object(height: int, across: int, size: int, frame: int) -> Tensor:
    """[N] bool, where the object is: it walks along the rows, one position per frame."""
    mask = torch.zeros(height, across, dtype=torch.bool)
    left = frame % max(1, across - size + 1)
    top = min(height // 3, max(0, height - size))
    mask[top : top + size, left : left + size] = True
    return mask.reshape(-1)


def near_square(tokens: int) -> tuple[int, int]:
    """(H, W) with H * W == tokens, as close to a square as the divisors allow, H <= W."""
    height = next(side for side in range(math.isqrt(tokens), 0, -1) if tokens % side == 0)
    return height, tokens // height
