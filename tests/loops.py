# SPDX-License-Identifier: Apache-2.0
"""HoliTom's outer stage as plain loops: our own literal reading of the method, kept slow and simple.

Used as an oracle on random inputs, and as the "published loops" that the vectorised method is timed against. It follows
the shape of the published implementation (Python loops over windows, frames and clusters, whole-tensor steps where that
has them) without the noise, with exact ties to the lower index.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class Outcome:
    """Rows in the published order with (frame, position, kind), windows, r'."""

    rows: list[Tensor] = field(default_factory=list)
    places: list[tuple[int, int, int]] = field(default_factory=list)
    windows: list[tuple[int, int]] = field(default_factory=list)
    ratio: float = 0.0

    def add(self, row: Tensor, frame: int, position: int, kind: int) -> None:
        self.rows.append(row)
        self.places.append((frame, position, kind))


def loops_holitom(
    features: Tensor,
    salience: Tensor,
    keep: float,
    tau: float,
    beta: float | None = 0.6,
    k: int = 7,
    contextual: float = 0.0,
    max_span: int = 1024,
) -> Outcome:
    """Features [T, N, D] and salience [T, N] to the survivors."""
    frames, tokens = features.shape[:2]
    unit = features / features.norm(dim=-1, keepdim=True)
    similar = (unit[:-1] * unit[1:]).sum(-1) > tau  # [T-1, N]
    windows, saved = best_windows(similar, frames, max_span)
    out = Outcome(windows=windows, ratio=min(keep / ((frames * tokens - saved) / (frames * tokens)), 1.0))
    for start, end in windows:
        window(out, features, salience, similar, start, end, beta, k, contextual)
    return out


def best_windows(similar: Tensor, frames: int, max_span: int) -> tuple[list[tuple[int, int]], int]:
    gain = torch.zeros(frames, frames)
    for start in range(frames):
        steady = torch.ones(similar.shape[1], dtype=torch.bool) if similar.numel() else torch.zeros(1)
        for end in range(start + 1, frames):
            steady = steady & similar[end - 1]
            gain[start, end] = steady.sum() * (end - start)
    best, first = [0] * frames, [0] * frames
    for end in range(frames):
        best[end], first[end] = (best[end - 1] if end else 0), end
        for width in range(2, min(end + 1, max_span) + 1):
            before = end - width
            value = (best[before] if before >= 0 else 0) + int(gain[before + 1, end])
            if value > best[end]:
                best[end], first[end] = value, before + 1
    windows, end = [], frames - 1
    while end >= 0:
        windows.append((first[end], end))
        end = first[end] - 1
    return windows[::-1], best[-1]


def window(
    out: Outcome,
    features: Tensor,
    salience: Tensor,
    similar: Tensor,
    start: int,
    end: int,
    beta: float | None,
    k: int,
    contextual: float,
) -> None:
    """Survivors of one window: static clusters, then every frame."""
    tokens = features.shape[1]
    static = similar[start:end].all(0) if end > start else torch.zeros(tokens, dtype=torch.bool)
    places = static.nonzero()[:, 0].tolist()
    count = round(len(places) * out.ratio)
    if count:
        means = features[start : end + 1, static].float().mean(0)
        for centre, row in clusters(means, count, k, beta):
            out.add(row, start, places[centre], 0)
    dynamic = (~static).nonzero()[:, 0].tolist()
    quota = math.ceil(len(dynamic) * out.ratio - 1e-9)
    salient = round(quota * (1 - contextual))
    for frame in range(start, end + 1):
        weight = salience[frame].tolist()
        ranked = sorted(dynamic, key=lambda position: (-weight[position], position))
        for position in sorted(ranked[:salient]):
            out.add(features[frame, position].float(), frame, position, 1)
        if quota > salient:
            rest = sorted(ranked[salient:])
            for centre, row in clusters(features[frame, rest].float(), quota - salient, k, beta):
                out.add(row, frame, rest[centre], 2)


def clusters(points: Tensor, count: int, k: int, beta: float | None) -> list[tuple[int, Tensor]]:
    """(centre, merged row) of DPC-KNN, by position."""
    distance = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist" if len(points) < 26 else
                           "use_mm_for_euclid_dist_if_necessary") / points.shape[1] ** 0.5  # fmt: skip
    distance.fill_diagonal_(0)
    density = (-(distance.topk(min(k, count), largest=False).values ** 2).mean(-1)).exp()
    denser = density[None, :] > density[:, None]
    separation = torch.where(denser, distance, distance.max()).min(-1).values
    order = (density * separation).argsort(descending=True, stable=True)
    centres = sorted(order[:count].tolist())
    nearest = distance[:, centres].argmin(1).tolist()
    merged = []
    for number, centre in enumerate(centres):
        others = [i for i in range(len(points)) if nearest[i] == number and i != centre and i not in centres]
        row = points[centre]
        if others and beta is None:
            row = points[[centre, *others]].mean(0)
        elif others:
            row = beta * points[centre] + (1 - beta) * points[others].mean(0)
        merged.append((centre, row))
    return merged


def loops_halving(hidden: Tensor, scores: Tensor, ratio: float) -> tuple[list[int], Tensor]:
    """HoliTom's inner merge for one sequence [V, D], one dropped row after the other."""
    count = max(1, round(len(scores) * (1 - ratio)))
    ranked = sorted(range(len(scores)), key=lambda i: (-float(scores[i]), i))
    kept = sorted(ranked[:count])
    unit = torch.nn.functional.normalize(hidden.double(), dim=-1)
    target = {i: kept[int((unit[kept] @ unit[i]).argmax())] for i in sorted(ranked[count:])}
    merged = hidden.double().clone()
    for i, into in target.items():
        merged[into] = (merged[into] + merged[i]) / 2
    return kept, merged[kept]


def main() -> None:
    """Time the vectorised method beside these loops, alternating: python tests/loops.py [TxNxD]."""
    import sys
    import time

    from vidcomp import apply_reduction, get_method
    from vidcomp.bench.compress import made_up_view

    frames, tokens, width = map(int, (sys.argv[1:] or ["32x196x3584"])[0].split("x"))
    view, method = made_up_view((frames, tokens, width), seed=0), get_method("holitom")
    seconds: dict[str, list[float]] = {"vectorised": [], "loops": []}
    with torch.inference_mode():
        for _ in range(12):
            marks = [time.perf_counter()]
            apply_reduction(view, method(view, 0.1))
            marks.append(time.perf_counter())
            loops_holitom(view.features, view.salience, 0.1, 0.65)
            marks.append(time.perf_counter())
            seconds["vectorised"].append(marks[1] - marks[0])
            seconds["loops"].append(marks[2] - marks[1])
    medians = {name: sorted(runs[2:])[5] for name, runs in seconds.items()}
    text = ", ".join(f"{name} {median * 1e3:.1f} ms" for name, median in medians.items())
    sys.stdout.write(
        f"{text}, ratio {medians['loops'] / medians['vectorised']:.2f}, {torch.get_num_threads()} threads\n"
    )


if __name__ == "__main__":
    main()
