# SPDX-License-Identifier: Apache-2.0
"""More outer methods as plain loops, those with several steps; see :mod:`method_loops` for the conventions."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
from method_loops import Array, alone, best, ceiling, cos, density_peaks, largest_remainder, outlier_factor, spread


def flashvid(x: Array, salience: Array, keep: float, link: float = 0.8) -> tuple[list[int], list[float]]:
    """Who joins whom, and with which share."""
    frames, tokens = x.shape[:2]
    budget = math.ceil(tokens * keep - 1e-9)
    chosen_count = math.ceil(budget * 0.7 - 1e-9)
    middle = x.mean(1)
    similar = [cos(middle[t], middle[t + 1]) for t in range(frames - 1)]
    cuts = {t for t in range(frames - 1) if similar[t] < 0.9}
    for t in sorted(range(frames - 1), key=lambda t: similar[t]):
        if len(cuts) + 1 < min(8, frames):
            cuts.add(t)
    ends = [*sorted(cuts), frames - 1]
    joined, share = [-1] * (frames * tokens), [0.0] * (frames * tokens)
    for start, end in zip([0, *(e + 1 for e in ends)], ends, strict=False):
        event = middle[start : end + 1].mean(0)
        chosen = {t: attended(x[t], salience[t], event, chosen_count) for t in range(start, end + 1)}
        trees = grown(x, chosen, start, end, budget, link)
        for t in range(start, end + 1):
            for i in chosen[t]:
                joined[t * tokens + i], share[t * tokens + i] = t * tokens + i, 1.0
        left = (budget - chosen_count) * (end - start + 1)
        ratio = left / max(1, len(trees))
        for t in range(start, end + 1):
            roots = sorted(root for root in trees if root // tokens == t)
            count = math.ceil(len(roots) * ratio - 1e-9) if ratio < 1 else len(roots)
            if not count:
                continue
            flat = x.reshape(-1, x.shape[2])
            centre = density_peaks(np.array([flat[trees[root]].mean(0) for root in roots]), count, 7)
            for root, c in zip(roots, centre, strict=True):
                for member in trees[root]:
                    joined[member] = roots[c]
                    share[member] = 1 / len(trees[root]) / centre.count(c)
    return joined, share


def attended(rows: Array, salience: Array, event: Array, count: int) -> list[int]:
    """ADTS of one frame."""
    size = len(rows)
    weight = [float(salience[j]) * max(0.0, float(rows[j] @ event)) for j in range(size)]
    apart = [[(1 - cos(rows[i], rows[j])) * weight[j] if i != j else 0.0 for j in range(size)] for i in range(size)]
    picks: list[int] = []
    for _ in range(count):
        if picks:
            score = [min(apart[i][j] for i in picks) for j in range(size)]
        else:
            score = [sorted(apart[i][j] for i in range(size))[1] for j in range(size)]
        picks.append(max((j for j in range(size) if j not in picks), key=lambda j: (score[j], -j)))
    return sorted(picks)


def grown(
    x: Array, chosen: dict[int, list[int]], start: int, end: int, budget: int, link: float
) -> dict[int, list[int]]:
    """TSTM of one segment: root to members, both flat."""
    tokens = x.shape[1]
    parent: dict[int, tuple[float, int]] = {}
    for t in range(start + 1, end + 1):
        for i in range(tokens):
            free = [j for j in range(tokens) if j not in chosen[t - 1]]
            if i not in chosen[t] and free:
                parent[t * tokens + i] = max((cos(x[t, i], x[t - 1, j]), -((t - 1) * tokens + j)) for j in free)
    most = (end - start + 1) * (tokens - budget)
    if sum(value > link for value, _ in parent.values()) > most:
        link = sorted((value for value, _ in parent.values()), reverse=True)[most - 1] if most else 2.0
    root: dict[int, int] = {}
    trees: dict[int, list[int]] = {}
    for t in range(start, end + 1):
        for i in range(tokens):
            if i in chosen[t]:
                continue
            me = t * tokens + i
            value, above = parent.get(me, (-1.0, 0))
            root[me] = root[-above] if value > link else me
            trees.setdefault(root[me], []).append(me)
    return trees


def gleanvid(x: Array, grid: tuple[int, int], keep: float) -> list[int]:
    frames, tokens, width = x.shape
    rows = x.reshape(-1, width)
    main = np.linalg.svd(rows - rows.mean(0), full_matrices=False)[2][0]
    plain = (rows - np.outer((rows - rows.mean(0)) @ main, main)).reshape(x.shape)
    cell = [(i // grid[1] // 2, i % grid[1] // 2) for i in range(tokens)]
    cells = sorted(set(cell))
    mean = [[plain[t][[i for i in range(tokens) if cell[i] == c]].mean(0) for c in cells] for t in range(frames)]
    ridge = 1e-4 * float(np.mean([z @ z for frame in mean for z in frame]))
    added = []
    for t in range(frames):
        earlier = np.array([z for frame in mean[:t] for z in frame]).reshape(-1, width)
        inverse = np.linalg.inv(earlier @ earlier.T + ridge * np.eye(len(earlier)))
        added.append(sum(math.sqrt(max(0.0, z @ z - (earlier @ z) @ inverse @ (earlier @ z))) for z in mean[t]))
    budget = math.floor(frames * tokens * keep + 1e-9)
    order = sorted(added)
    gini = 2 * sum((i + 1) * order[i] for i in range(frames)) / (frames * sum(added)) - (frames + 1) / frames
    even = 0.6 - 0.4 * gini
    quota = [even * budget / frames + (1 - even) * budget * a / sum(added) for a in added]
    picks: list[int] = []
    for t, count in enumerate(largest_remainder(quota, budget, tokens)):
        taken = plain.reshape(-1, width)[picks]
        local, outside = [], []
        for i in range(tokens):
            near = x[t][[j for j in range(tokens) if cell[j] == cell[i]]].mean(0)
            local.append(math.log(1 + math.exp(4 * (cos(x[t, i], near) - cos(x[t, i], x[t].mean(0))))) / 4)
            z = plain[t, i]
            fit = np.linalg.lstsq(taken.T, z, rcond=None)[0] if picks else np.zeros(0)
            outside.append(float(np.linalg.norm(z - taken.T @ fit)))
        score = [to_one(local)[i] + to_one(outside)[i] for i in range(tokens)]
        picks += [t * tokens + i for i in best(score, count)]
    return alone(picks, frames * tokens)


def to_one(values: list[float]) -> list[float]:
    return [(v - min(values)) / (max(values) - min(values)) for v in values]


def recoverable(x: Array, attention: Array, keys: Array, query: Array, keep: float) -> tuple[list[int], list[float]]:
    """Who joins whom, and its weight before it is brought to the sum of one."""
    frames, tokens = attention.shape
    joined, weight = [-1] * (frames * tokens), [float(a) for a in attention.flat]
    words = query.mean(0)
    for t, budget in enumerate(spread(ceiling(frames * tokens, keep), frames)):
        text, seen = [cos(row, words) for row in x[t]], [float(a) for a in attention[t]]

        def outliers(values: list[float], k: int) -> float:
            return sum(f > 1.5 for f in outlier_factor(values, k)) / tokens

        first = outliers(seen, 20)
        kept = best(seen, round(first * tokens))
        second = outliers([min(text) if i in kept else text[i] for i in range(tokens)], 20)
        third = outliers([min(seen) if i in kept else seen[i] for i in range(tokens)], 10)
        salient, recovered = first * tokens, (tokens - first * tokens) * second
        shares = [salient, recovered, (salient + recovered) * third]
        last = budget > 1
        counts = largest_remainder(shares if sum(shares) else [1, 1, 1], budget - last, tokens)
        kept = best(seen, counts[0])
        kept += best([-9.0 if i in kept else text[i] for i in range(tokens)], counts[1])
        centres = best([-9.0 if i in kept else seen[i] for i in range(tokens)], counts[2])
        rest = [i for i in range(tokens) if i not in kept + centres]
        lists = {c: sorted(rest, key=lambda i: (-cos(keys[t, c], keys[t, i]) - 50 * text[i], i))[:32] for c in centres}
        mine = {i: [c for c in centres if i in lists[c]] for i in rest}
        if last and rest:
            alone_ = [i for i in rest if not mine[i]] or rest
            anchor = max(alone_, key=lambda i: (seen[i], -i))
            mine[anchor] = []
            for i in rest:
                if not mine[i]:
                    joined[t * tokens + i] = t * tokens + anchor
        for i in rest:
            if mine[i]:
                to = max(mine[i], key=lambda c: (cos(keys[t, c], keys[t, i]), -c))
                joined[t * tokens + i] = t * tokens + to
        for i in kept + centres:
            joined[t * tokens + i], weight[t * tokens + i] = t * tokens + i, 1.0
    return joined, weight


def kmeans(x: Array, keep: float, window: int, rounds: int = 5) -> list[int]:
    """Token Sequence Compression, for data on which no cluster runs empty."""
    frames, tokens = x.shape[:2]
    rows = x.reshape(-1, x.shape[2])
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    parts = [range(t * tokens, min(t + window, frames) * tokens) for t in range(0, frames, window)]
    joined = [-1] * len(rows)
    counts = largest_remainder([len(p) for p in parts], ceiling(len(rows), keep), len(rows))
    for part, count in zip(parts, counts, strict=True):
        mine = list(part)
        apart = {i: {j: 1 - float(unit[i] @ unit[j]) for j in mine} for i in mine}
        picks = [max(mine, key=lambda i: (min(apart[i][j] for j in mine if j != i), -i))]
        while len(picks) < count:
            picks.append(max((i for i in mine if i not in picks), key=lambda i: (min(apart[i][j] for j in picks), -i)))
        centres = [unit[p] for p in picks]
        for step in range(rounds + 1):
            owner = {i: max(range(count), key=lambda c: (float(unit[i] @ centres[c]), -c)) for i in mine}
            assert len(set(owner.values())) == count
            if step == rounds:
                break
            sums = [sum(unit[i] for i in mine if owner[i] == c) for c in range(count)]
            centres = [s / np.linalg.norm(s) for s in sums]
        for c in range(count):
            members = [i for i in mine if owner[i] == c]
            near = [cos(unit[i], sum(unit[j] for j in members)) for i in members]
            nearest = next(i for i, value in zip(members, near, strict=True) if value >= max(near) - 1e-6)
            for i in members:
                joined[i] = nearest
    return joined


def kffocus(x: Array, salience: Array, grid: tuple[int, int], keep: float) -> list[int]:
    frames, tokens = salience.shape
    budget = ceiling(frames * tokens, keep)
    change = [1 - np.mean([cos(a, b) for a, b in zip(x[t], x[t - 1], strict=True)]) for t in range(1, frames)]
    level = np.median(change) + 3 * 1.4826 * np.median(np.abs(change - np.median(change)))
    key = [True, *(c > level for c in change)]
    for side in range(1, max(grid) + 1):
        cells = [[(t, i // grid[1] // s, i % grid[1] // s) for i in range(tokens)]
                 for t, s in enumerate(side if k else 2 * side for k in key)]  # fmt: skip
        used = len({c for frame in cells for c in frame})
        if used <= budget * 0.95:
            break
    joined = [0] * (frames * tokens)
    for t, count in enumerate(spread(max(0, budget - used), frames)):
        shared = [cells[t].count(c) > 1 for c in cells[t]]
        kept = best([float(salience[t, i]) if shared[i] else -9.0 for i in range(tokens)], min(count, sum(shared)))
        for i in range(tokens):
            first = (
                next(j for j in range(tokens) if cells[t][j] == cells[t][i] and j not in kept) if i not in kept else i
            )
            joined[t * tokens + i] = t * tokens + first
    return joined


def crowding(rows: Array, alpha: float) -> list[float]:
    return [sum(math.exp(-float(((a - b) ** 2).sum()) / alpha) for b in rows) for a in rows]


def differences(x: Array) -> list[float]:
    """KiToke's difference of each frame to the one before."""
    found = []
    for old, new in pairwise(x):
        place = np.mean([np.linalg.norm(b - a) for a, b in zip(old, new, strict=True)])
        match = np.mean([min(np.linalg.norm(a - b) for b in new) for a in old])
        found.append(float(place + match))
    return found
