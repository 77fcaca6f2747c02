# SPDX-License-Identifier: Apache-2.0
"""Outer methods without published code as plain loops, written from their formulas and kept slow and literal.

Each returns who survives and who joined whom: a list of flat indices, for every token the one it joined, -1 for none.
Tokens are rows of float64 arrays [T, N, D]; ties go to the lower index.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

Array = np.ndarray


def cos(a: Array, b: Array) -> float:
    size = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / size if size else 0.0


def best(scores: list[float], count: int) -> list[int]:
    """Indices of the largest scores, ascending."""
    return sorted(sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:count])


def spread(total: int, parts: int) -> list[int]:
    return [(i + 1) * total // parts - i * total // parts for i in range(parts)]


def ceiling(total: int, keep: float) -> int:
    return max(1, math.ceil(total * keep - 1e-9))


def alone(picks: list[int], total: int) -> list[int]:
    """Nothing merges."""
    return [i if i in picks else -1 for i in range(total)]


def largest_remainder(shares: list[float], total: int, most: int, least: int = 0) -> list[int]:
    """Whole numbers by shares, in the case that no group is full."""
    scale = (total - least * len(shares)) / sum(shares)
    exact = [share * scale for share in shares]
    counts = [math.floor(x + 1e-9) for x in exact]
    order = sorted(range(len(shares)), key=lambda i: (-round(exact[i] - counts[i], 9), i))
    for i in order[: total - least * len(shares) - sum(counts)]:
        counts[i] += 1
    assert max(counts) + least <= most
    return [count + least for count in counts]


def evs(x: Array, keep: float) -> list[int]:
    frames, tokens = x.shape[:2]
    change = [255.0] * tokens + [1 - cos(x[t, i], x[t - 1, i]) for t in range(1, frames) for i in range(tokens)]
    return alone(best(change, max(tokens, int(frames * tokens * keep + 1e-9))), frames * tokens)


def per_frame(scores: Array, keep: float) -> list[int]:
    """The best of each frame."""
    frames, tokens = scores.shape
    counts = spread(ceiling(frames * tokens, keep), frames)
    picks = [t * tokens + i for t in range(frames) for i in best(list(scores[t]), counts[t])]
    return alone(picks, frames * tokens)


def v_cast(x: Array, keep: float) -> list[int]:
    frames, tokens = x.shape[:2]
    path = [x[t].mean(0) / np.linalg.norm(x[t].mean(0)) for t in range(frames)]
    bend = [
        1.0 if t in (0, frames - 1) else 1 - cos(path[t] - path[t - 1], path[t + 1] - path[t]) for t in range(frames)
    ]
    shares = [math.exp(b / 0.7) for b in bend]
    counts = largest_remainder(shares, max(frames, round(frames * tokens * keep)), tokens, least=1)
    picks = []
    for t in range(frames):
        length = [float(np.linalg.norm(row)) for row in x[t]]
        low, high = min(length), max(length)
        score = [1 - cos(row, path[t]) + (size - low) / (high - low) for row, size in zip(x[t], length, strict=True)]
        picks += [t * tokens + i for i in best(score, counts[t])]
    return alone(picks, frames * tokens)


def vscan(x: Array, shallow: Array, deep: Array, grid: tuple[int, int], keep: float, side: int) -> list[int]:
    frames, tokens = deep.shape
    joined = [-1] * (frames * tokens)
    for t, budget in enumerate(spread(ceiling(frames * tokens, keep), frames)):
        local = int(budget * 0.5)
        windows: dict[tuple[int, int], list[int]] = {}
        for i in range(tokens):
            row, column = divmod(i, grid[1])
            windows.setdefault((row * side // grid[0], column * side // grid[1]), []).append(i)
        kept: set[int] = set()
        while len(kept) < local:  # a round takes the next token of every window
            left = [[i for i in window if i not in kept] for window in windows.values()]
            following = [max(window, key=lambda i: (shallow[t, i], -i)) for window in left if window]
            following.sort(key=lambda i: (-shallow[t, i], i))
            kept |= set(following[: local - len(kept)])
        others = [i for i in range(tokens) if i not in kept]
        others.sort(key=lambda i: (-deep[t, i], i))
        kept |= set(others[: budget - len(kept)])
        for i in range(tokens):
            to = i if i in kept else max(sorted(kept), key=lambda j: cos(x[t, i], x[t, j]), default=-1)
            joined[t * tokens + i] = t * tokens + to if to >= 0 else -1
    return joined


def dispersed(x: Array, salience: Array, keep: float) -> list[int]:
    rows = x.reshape(-1, x.shape[2])
    picks = [int(salience.argmax())]
    while len(picks) < ceiling(len(rows), keep):
        sums = {v: sum(cos(rows[v], rows[p]) for p in picks) for v in range(len(rows)) if v not in picks}
        picks.append(min(sums, key=lambda v: (round(sums[v], 9), v)))
    return alone(picks, len(rows))


def covered(x: Array, encoded: Array, query: Array, keep: float, window: int) -> list[int]:
    """MMTok."""
    rows, pictures = x.reshape(-1, x.shape[2]), encoded.reshape(-1, encoded.shape[2])
    total, size = len(rows), window * x.shape[1]

    def softmax(values: list[float], temperature: float) -> list[float]:
        raised = [math.exp((v - max(values)) / temperature) for v in values]
        return [r / sum(raised) for r in raised]

    table = [[v / len(query) for v in softmax([cos(z, row) for row in rows], 0.02)] for z in query]
    for i in range(total):
        near = [j for j in range(total) if j // size == i // size]
        share = softmax([cos(pictures[i], pictures[j]) for j in near], 0.2)
        line = [0.0] * total
        for j, value in zip(near, share, strict=True):
            line[j] = 0.5 * value / total
        table.append(line)
    held, picks = [0.0] * len(table), []
    for _ in range(ceiling(total, keep)):
        gain = {j: sum(max(0.0, line[j] - b) for line, b in zip(table, held, strict=True))
                for j in range(total) if j not in picks}  # fmt: skip
        pick = min(gain, key=lambda j: (-gain[j], j))
        picks.append(pick)
        held = [max(b, line[pick]) for line, b in zip(table, held, strict=True)]
    return alone(picks, total)


def folded(x: Array, metric: Array, penalty: Array, keep: float, first: bool) -> list[int]:
    """ToMe and Turbo: lists of members per token, merged pass after pass."""
    frames, tokens = metric.shape[:2]
    joined = [-1] * (frames * tokens)
    for t, budget in enumerate(spread(ceiling(frames * tokens, keep), frames)):
        items = [([i], i) for i in range(tokens)] if budget else []  # members, place

        def mean(values: Array, item: tuple[list[int], int]) -> Array:
            return sum(values[i] for i in item[0]) / len(item[0])

        while len(items) > budget:
            pairs = []
            for a in range(0, len(items), 2):
                likeness = [
                    (cos(mean(metric[t], items[a]), mean(metric[t], items[b])), -b) for b in range(1, len(items), 2)
                ]
                value, partner = max(likeness)
                pairs.append((value - float(mean(penalty[t], items[a])), -a, -partner))
            pairs.sort(reverse=True)
            merges = pairs[: min(len(items) - budget, len(items) // 2)]
            for _, a, b in merges:
                items[b] = (items[b][0] + items[-a][0], items[b][1])
            gone = {-a for _, a, _ in merges}
            items = [item for number, item in enumerate(items) if number not in gone]
        for members, place in items:
            for i in members:
                joined[t * tokens + i] = t * tokens + (min(members) if first else place)
    return joined


def lftr_like(x: Array, keep: float) -> list[int]:
    frames, tokens = x.shape[:2]
    budget = ceiling(frames * tokens, keep)
    groups = [[t] for t in range(frames)]

    def mean(group: list[int]) -> Array:
        return sum(x[t] for t in group) / len(group)

    while len(groups) > max(math.ceil(budget / tokens), min(round(frames * math.sqrt(keep)), budget), 1):
        alike = [np.mean([cos(a, b) for a, b in zip(mean(groups[g]), mean(groups[g + 1]), strict=True)])
                 for g in range(len(groups) - 1)]  # fmt: skip
        at = int(np.argmax(alike))
        groups[at : at + 2] = [groups[at] + groups[at + 1]]
    joined = [-1] * (frames * tokens)
    for group, count in zip(groups, spread(budget, len(groups)), strict=True):
        rows = mean(group)
        distinct = [
            1 - sum(cos(rows[i], rows[j]) for j in range(tokens) if j != i) / (tokens - 1) for i in range(tokens)
        ]
        for i in best(distinct, count):
            for t in group:
                joined[t * tokens + i] = group[0] * tokens + i
    return joined


def density_peaks(points: Array, count: int, k: int) -> list[int]:
    """For each point the centre it joins."""
    size = len(points)
    apart = [[float(((a - b) ** 2).sum()) / points.shape[1] for b in points] for a in points]
    density = [math.exp(-sum(sorted(row)[: min(k, count)]) / min(k, count)) for row in apart]
    highest = max(max(row) for row in apart)
    away = [min([apart[i][j] for j in range(size) if density[j] > density[i]], default=highest) for i in range(size)]
    centres = best([math.sqrt(away[i]) * density[i] for i in range(size)], count)
    return [i if i in centres else min(centres, key=lambda c: (apart[i][c], c)) for i in range(size)]


def unified(x: Array, salience: Array, keep: float, tau: float) -> list[int]:
    rows = x.reshape(-1, x.shape[2])
    budget = max(1, round(len(rows) * keep))
    clusters = round(0.3 * budget)
    order = sorted(range(len(rows)), key=lambda i: (-salience.flat[i], i))
    pool: list[int] = []
    for i in order:
        if len(pool) < budget - clusters and all(cos(rows[i], rows[j]) < tau for j in pool):
            pool.append(i)
    near = {i: max(cos(rows[i], rows[j]) for j in pool) for i in order if i not in pool}
    pool += sorted(near, key=lambda i: near[i])[: budget - clusters - len(pool)]
    joined = alone(pool, len(rows))
    rest = [i for i in range(len(rows)) if i not in pool]
    if clusters:
        for i, centre in zip(rest, density_peaks(rows[rest], clusters, 7), strict=True):
            joined[i] = rest[centre]
    return joined


def outlier_factor(values: list[float], k: int) -> list[float]:
    """Local outlier factor, as defined."""
    size = len(values)
    k = min(k, size - 1)
    near = [sorted((abs(values[i] - values[j]), j) for j in range(size) if j != i)[:k] for i in range(size)]
    reach = [sum(max(near[j][-1][0], d) for d, j in near[i]) / k for i in range(size)]
    density = [1 / (r + 1e-10) for r in reach]
    return [sum(density[j] for _, j in near[i]) / k / density[i] for i in range(size)]


Oracle = Callable[..., list[int]]
