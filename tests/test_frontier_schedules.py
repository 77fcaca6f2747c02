# SPDX-License-Identifier: Apache-2.0
"""Inner schedules DART and FitPrune against what their published implementations return, case by case."""

from __future__ import annotations

from typing import Any

import torch
from goldens import Case, check, given, of
from test_schedule_goldens import Projections, rotary
from torch import Tensor

from vidcomp.schedules import get_schedule
from vidcomp.schedules.base import best_rows
from vidcomp.schedules.blocks.scoring import Attention, AttentionInput
from vidcomp.schedules.dart import pivots, taken
from vidcomp.schedules.fitprune import both_looked_at, deleted


def sequence(case: Case) -> tuple[Tensor, int, int]:
    """All rows, where the visual ones begin, and where they end."""
    if "states" in case["inputs"]:
        rows = given(case, "states")
        return rows, case["params"]["image_start"], len(rows) - case["params"]["text_after"]
    parts = [given(case, "text_pre"), given(case, "feat").flatten(0, 1), given(case, "text_post")]
    return torch.cat(parts), len(parts[0]), len(parts[0]) + len(parts[1])


@of("dart", "select")
def test_dart(case: Case) -> None:
    rows, start, end = sequence(case)
    params, size = case["params"], (rows @ given(case, "wk").T).abs().sum(dim=1)[None]
    own = pivots(size[:, start:end], params["pivot_image_token"])[0]
    behind = pivots(size[:, end:], min(params["pivot_text_token"], len(rows) - end))[0]
    if case["parity"] != "required":  # more pivots than text, a share of everything, or identical frames
        return
    check(case, "image_pivots", own)
    check(case, "text_pivots", behind)
    method = get_schedule("dart", official=True)
    order = method._order((own + start).tolist() + (behind + end).tolist())
    check(case, "pivot_order", order)
    part = case["outputs"]["per_pivot"]["value"]
    if params["variant"] != "llava":
        keep: Any = get_schedule("dart", official=True, keep=1 - params["reduction_ratio"])
        assert keep._parts(0, end - start, len(own), len(order)) == [part] * len(order)
    kept = taken(rows[start:end], own, rows[order], [part] * len(order))
    check(case, "retained", kept)
    check(case, "count", len(kept))


@of("fitprune", "scheme")
def test_recipes_of_fitprune(case: Case) -> None:
    if case["params"]["reduction_ratio"] and case["parity"] == "required":
        check(case, "deleted", deleted(case["params"]["reduction_ratio"]))
        schedule, left = get_schedule("fitprune", ratio=case["params"]["reduction_ratio"]), 576
        plan = schedule.plan(32)
        for layer, count in enumerate(deleted(schedule.ratio)[:-1], 1):
            left -= count
            assert schedule.count(576, plan.get(layer, 0)) == (left if count else 0)


@torch.no_grad()
@of("fitprune", "delete")
def test_fitprune_drops(case: Case) -> None:
    rows, start, end = sequence(case)
    module = Projections(given(case, "wq"), given(case, "wk"), case["params"]["heads"], case["params"]["heads"])
    source = AttentionInput(module, rows[None], *rotary(len(rows), module.head_dim))
    visual, text = torch.arange(start, end)[None], torch.arange(end, len(rows))[None]
    score = both_looked_at(Attention(source, source.keys()), visual, text)
    kept = best_rows(score, end - start - case["params"]["count"])[0]
    check(case, "kept_indices", kept)
    if "deleted_indices" in case["outputs"]:
        check(case, "deleted_indices", sorted(set(range(end - start)) - set(kept.tolist())))
