# SPDX-License-Identifier: Apache-2.0
"""HoliTom: what the published implementation returns with its random noise at zero."""

from __future__ import annotations

from typing import Any

import torch
from goldens import cases, check, of, tensor
from torch import Tensor

from vidcomp.core.tokens import Reduction, TokenView, apply_reduction
from vidcomp.methods.blocks.global_dp import global_spans
from vidcomp.methods.holitom import Holitom, effective_keep
from vidcomp.schedules.blocks.merge import halving_merge, kept_count

DEFAULTS = {"D": 0.0, "Beta": 0.6, "K": 7, "max_window_size": 1024, "NO_BETA": None}
CASES = cases("holitom")


@of("holitom", "windows")
def test_windows(case: dict[str, Any]) -> None:
    params = case["params"]
    spans, saved = global_spans(tensor(case["inputs"]["feature_sim"]), params["tau"], params["max_window_size"])
    check(case, "windows", [list(span) for span in spans])
    check(case, "total_reduced", saved)


def run_outer(case: dict[str, Any]) -> tuple[TokenView, Reduction]:
    params = DEFAULTS | case["params"]
    feat = tensor(case["inputs"]["feat"])
    height = next(side for side in range(int(feat.shape[1] ** 0.5), 0, -1) if feat.shape[1] % side == 0)
    times = torch.arange(feat.shape[0]).float()
    view = TokenView(feat, (height, feat.shape[1] // height), times, salience=tensor(case["inputs"]["attn"]))
    beta = params["Beta"] if params["NO_BETA"] in (None, "0") else None
    method = Holitom(params["tau"], beta, params["K"], params["D"], params["max_window_size"])
    return view, method(view, params["retain_ratio"])


def saved_tokens(reduction: Reduction) -> int:
    return sum(span.static * (len(span) - 1) for span in reduction.spans)


def kinds(view: TokenView, reduction: Reduction, contextual: float) -> Tensor:
    """0 for tokens merged over frames, 1 for salient, 2 for contextual ones, from order and counts alone."""
    frames, tokens = view.features.shape[:2]
    touched = torch.zeros(reduction.kept, frames, dtype=torch.bool)
    member = reduction.assign >= 0
    touched[reduction.assign[member], (torch.arange(view.total) // tokens)[member]] = True
    kind = torch.where(touched.sum(1) > 1, 0, 2)
    for frame in range(frames):
        own = ((reduction.anchors // tokens == frame) & (kind > 0)).nonzero()[:, 0]
        kind[own[: round(own.numel() * (1 - contextual))]] = 1
    return kind


def with_newlines(view: TokenView, reduction: Reduction, newline: Tensor, policy: str) -> tuple[Tensor, list[int]]:
    """Rows as the published model reads them, and how many belong to each span (the final newline to none)."""
    tokens, side = view.features.shape[1], view.grid[1]
    grid = policy == "grid"
    reduction = reduction.in_raster_order() if grid else reduction
    merged = apply_reduction(view, reduction)
    rows: list[Tensor] = []
    lengths = [0] * len(reduction.spans)
    frames = (merged.positions // tokens).tolist()
    lines = (merged.positions // side).tolist()  # row of the grid, counted over all frames
    span_of = {frame: i for i, span in enumerate(reduction.spans) for frame in range(span.start, span.end + 1)}
    for i, row in enumerate(merged.features):
        ends_line = grid and (i + 1 == len(lines) or lines[i + 1] != lines[i])
        rows += [row, newline] if ends_line else [row]
        lengths[span_of[frames[i]]] += 1 + ends_line
    return torch.stack(rows if grid else [*rows, newline]), lengths


@of("holitom", "outer")
def test_outer(case: dict[str, Any]) -> None:
    view, reduction = run_outer(case)
    params = DEFAULTS | case["params"]
    if case["parity"] == "error":
        params["newline_position"] = "one_token"
        case = repaired_twin(case)
    saved = saved_tokens(reduction)
    check(case, "windows", [list(span) for span in reduction.spans])
    check(case, "total_reduced", saved)
    check(case, "effective_retain_ratio", effective_keep(params["retain_ratio"], view.total, saved))
    newline = tensor(case["inputs"]["newline"])
    if case["parity"] == "informative":  # the number of newlines may hinge on a tie, that of survivors does not
        published = tensor(case["outputs"]["tokens"])
        assert reduction.kept == (published != newline).any(dim=1).sum()
        if "segment_lengths" in case["stability"]["unstable_outputs"]:
            return
    rows, lengths = with_newlines(view, reduction, newline, params["newline_position"])
    check(case, "segment_lengths", lengths)
    if params["newline_position"] == "one_token":
        check(case, "token_frame", reduction.anchors // view.features.shape[1])
        check(case, "token_pos", reduction.anchors % view.features.shape[1])
        check(case, "token_kind", kinds(view, reduction, params["D"]))
    check(case, "tokens", rows)


def repaired_twin(case: dict[str, Any]) -> dict[str, Any]:
    """Where the published code fails, the right answer is that of the same settings without the fault.

    With contextual tokens that is the repaired line; for the newline policies that crash after the merge, the rows of
    ``one_token``, as separators are the family adapter's business.
    """
    settings = DEFAULTS | case["params"] | {"newline_position": "one_token"}
    return next(
        other
        for other in CASES
        if other["stage"] == "outer"
        and other["inputs"] == case["inputs"]
        and other["official"] == "ok"
        and DEFAULTS | other["params"] == settings
    )


@of("holitom", "inner")
def test_inner(case: dict[str, Any]) -> None:
    params = case["params"]
    start, length = params["image_start"], params["image_length"]
    hidden, scores = tensor(case["inputs"]["hidden"]), tensor(case["inputs"]["attn_last_row"])
    visual = slice(start, start + length)
    kept, merged = halving_merge(hidden[:, visual], scores[None, visual], params["r"])
    assert kept.shape[1] == kept_count(length, params["r"])
    if case["parity"] == "error":  # the published code fails where it would keep no token; we keep the best one
        assert kept.tolist() == [[int(scores[visual].argmax())]]
        assert torch.isfinite(merged).all()
        return
    rest = torch.arange(start + length, hidden.shape[1])
    check(case, "keep_indices", torch.cat([torch.arange(start), kept[0] + start, rest]))
    check(case, "hidden", torch.cat([hidden[:, :start], merged, hidden[:, start + length :]], dim=1))
