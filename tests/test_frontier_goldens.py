# SPDX-License-Identifier: Apache-2.0
"""Outer methods of 2025 and 2026 against what their published implementations return, case by case."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from goldens import Case, cases, check, given, of, tensor
from torch import Tensor

from vidcomp.bench.compress import near_square
from vidcomp.core.budget import token_budget
from vidcomp.core.tokens import Span, TokenView, apply_reduction
from vidcomp.methods import get_method
from vidcomp.methods.aot import attended, clip_length, gathered, taken_in
from vidcomp.methods.blocks.graph_flow import gathered_norms
from vidcomp.methods.blocks.merge import mean_of_members
from vidcomp.methods.blocks.pieces import pieces
from vidcomp.methods.blocks.select import top_mask
from vidcomp.methods.blocks.similarity import cosines, frame_cosine
from vidcomp.methods.echoprune import Echoprune, echoes, relevance
from vidcomp.methods.flashvid import Flashvid, _event, attended_and_different, cut_segments
from vidcomp.methods.forestprune import Forestprune, depths, grown_forest, joined_roots
from vidcomp.methods.ott_vid import Pairs, covering, masses
from vidcomp.methods.surge import surprises
from vidcomp.schedules import get_schedule
from vidcomp.schedules.base import best_rows
from vidcomp.schedules.framefusion import required_removal


def view_of(features: Tensor, grid: list[int] | None = None, **signals: Tensor) -> TokenView:
    rows, columns = grid or near_square(features.shape[1])
    return TokenView(features, (rows, columns), torch.arange(len(features)).float(), **signals)


def chosen(case: Case, names: dict[str, str]) -> dict[str, Any]:
    """Parameters by our names, as far as a case gives them."""
    return {ours: case["params"][theirs] for ours, theirs in names.items() if theirs in case["params"]}


# -- SURGE


@of("surge", "surge")
def test_surge(case: Case) -> None:
    keep, view = case["params"]["rho"], view_of(given(case, "feat"), case["params"]["grid"])
    names = {"decay": "ema_var_decay", "drift": "enable_drift_correction", "normalise": "enable_variance_norm"}
    method = get_method("surge", **chosen(case, names), official=True)
    assert get_method("surge", **chosen(case, names))(view, keep).kept == token_budget(view.total, keep)
    if case["parity"] == "error":  # a grid of one line, which no plane fits
        assert torch.isfinite(apply_reduction(view, method(view, keep)).features).all()
        return
    score = surprises(view.features, view.grid, method.decay, method.drift, method.normalise)
    check(case, "scores", score)
    if case["parity"] == "informative":  # hinges on the rounding of equal scores
        return
    kept = method(view, keep)
    check(case, "keep_indices", kept.anchors)
    check(case, "kept_per_frame", torch.bincount(kept.anchors // view.features.shape[1], minlength=len(view.features)))
    whole = int(len(score) * score.shape[1] * keep)  # as many as the published rule, over the same frames
    best = score.flatten().argsort(descending=True, stable=True)[:whole] + score.shape[1]
    assert set(best.tolist()) <= set(kept.anchors.tolist())


# -- EchoPrune: an independent port of the paper, no official code


@of("echoprune", "select")
def test_echoprune(case: Case) -> None:
    features, query = given(case, "feat"), given(case, "query")[:6]
    view, budget = view_of(features, query=query), case["params"]["budget"]
    method = Echoprune(case["params"]["temperature"])
    step = torch.arange(1, len(features))
    check(case, "relevance", relevance(features, query))
    later = {"echo": echoes(features, method.temperature), "correspondence": frame_cosine(features, step, step - 1)}
    for name, value in later.items():
        check(case, name, torch.cat([torch.zeros(1, value.shape[1]), value]))
    check(case, "selected", method(view, (budget - 0.5) / view.total).anchors)


# -- G-Prune


@of("gprune", "select")
def test_gprune(case: Case) -> None:
    names = {"similarity": "similarity", "temperature": "temperature", "steps": "iterate_num"}
    options, keep = chosen(case, names), case["params"]["keep_ratio"]
    for name, prefix in (("feat", ""), ("base", ""), ("tiles", "tile_")):
        if name not in case["inputs"]:
            continue
        features = given(case, name)
        rows = features.flatten(0, -2)
        score, degree = gathered_norms(rows, options["similarity"], options["temperature"], options["steps"])
        check(case, f"{prefix}score", score)
        if not prefix:
            check(case, "degree", degree)
        expected = tensor(case["outputs"][f"{prefix}kept_indices"]).tolist()
        view = view_of(rows[None])
        kept = get_method("gprune", **options, official=True)(view, keep).anchors.tolist()
        assert kept == expected or (not expected and len(kept) == 1)  # published: none is left
        whole = view_of(features if features.dim() == 3 else features[None])
        video = get_method("gprune", **options, group="video")(whole, keep)
        assert video.kept == token_budget(len(rows), keep) and set(expected) <= set(video.anchors.tolist())


# -- ForestPrune


@of("forestprune", "score")
def test_forestprune_scores(case: Case) -> None:
    features = given(case, "feat")
    edge = case["params"].get("similarity", 0.5)
    score = torch.stack([gathered_norms(frame, edge, 0.03, 5)[0] for frame in features])
    assert torch.isfinite(score).all()
    if case["parity"] == "error":  # a share that rounds to no token
        return
    check(case, "scores", score)
    count = torch.full((len(features),), case["outputs"]["selected"]["shape"][1])
    check(case, "selected", top_mask(score, count).nonzero()[:, 1].view(len(features), -1))


def check_forest(case: Case, view: TokenView, places: Tensor, method: Forestprune) -> None:
    """Who hangs where, how deep, and how many of each frame and depth stay."""
    frames, tokens = view.features.shape[:2]
    nodes = (places + torch.arange(frames)[:, None] * tokens).flatten()
    parent = grown_forest(view.features, places, view.grid, method)
    kept = case["outputs"]["kept"]["value"]
    joined_roots(view.features, nodes, parent, kept, method.window)
    check(case, "roots", int((parent < 0).sum()))
    depth = depths(parent)
    if case["parity"] == "informative":
        return
    check(case, "depth", depth)
    check(case, "parent", parent)
    order = sorted(range(len(nodes)), key=lambda node: (depth[node], node))[:kept]
    check(case, "kept_per_depth", np.bincount(depth[order], minlength=case["outputs"]["kept_per_depth"]["shape"][0]))
    check(case, "kept_per_frame", torch.bincount(nodes[order] // tokens, minlength=frames))


def forestprune(case: Case, **more: Any) -> Forestprune:
    names = {"preselect": "k_intra", "similarity": "tau", "nearness": "tau_spatial"}
    return Forestprune(**chosen(case, names), **more)


@of("forestprune", "forest")
def test_forestprune_trees(case: Case) -> None:
    view = view_of(given(case, "feat"), case["params"]["grid"])
    every = torch.arange(view.features.shape[1]).expand(view.features.shape[:2])
    places = given(case, "selected").long() if "selected" in case["inputs"] else every
    check_forest(case, view, places, forestprune(case))


@of("forestprune", "method")
def test_forestprune(case: Case) -> None:
    view, keep = view_of(given(case, "feat"), case["params"]["grid"]), case["params"]["keep_ratio"]
    assert forestprune(case)(view, keep).kept == token_budget(view.total, keep)
    kept = forestprune(case, official=True)(view, keep)
    check(case, "kept", kept.kept)
    if case["parity"] == "informative":
        return
    check(case, "kept_per_frame", torch.bincount(kept.anchors // view.features.shape[1], minlength=len(view.features)))
    check_forest(case, view, tensor(case["outputs"]["preselected"]).long(), forestprune(case))


# -- OTT-Vid


def tables(features: Tensor) -> list[Tensor]:
    return [cosines(frame, frame) for frame in features]


@of("ott_vid", "spatial")
def test_ott_vid_covers(case: Case) -> None:
    order = covering(tables(given(case, "feat")), given(case, "attn"), case["params"]["K"])
    check(case, "order", order)
    check(case, "selected", order.sort(dim=1).values)


@of("ott_vid", "mass")
def test_ott_vid_masses(case: Case) -> None:
    found = masses(
        tables(given(case, "feat")), given(case, "attn"), given(case, "selected").long(), case["params"]["tau"]
    )
    check(case, "mass", found)


@of("ott_vid", "pairs")
def test_ott_vid_pairs(case: Case) -> None:
    features, chosen, params = given(case, "feat"), given(case, "selected").long(), case["params"]
    mass = masses(tables(features), given(case, "attn"), chosen, params["tau"])
    pairs = Pairs.of(features, chosen, tuple(params["grid"]), mass, params["eps"], params["iters"])
    for name, value in {"alpha": pairs.mix, "cost": pairs.cost, "plan": pairs.plan, "pair_cost": pairs.total}.items():
        check(case, name, value)


def ott_vid(case: Case, port: str) -> None:
    names = {
        "share": "temporal_share", "mass": "ot_mass_tau", "budget": "ot_budget_temperature", "eps": "ot_sinkhorn_eps",
        "threshold": "ot_cost_threshold", "iterations": "ot_sinkhorn_iters",
    }  # fmt: skip
    params, keep = case["params"], case["params"]["total_retention_ratio"]
    view = view_of(given(case, "feat"), params["grid"], salience=given(case, "attn"))
    exact = get_method("ott_vid", **chosen(case, names))(view, keep)
    assert exact.kept == token_budget(view.total, keep)
    if not params.get("enable_temporal", True):  # what the first stage leaves is all
        keep, names = keep**0.7, {}
        case = {**case, "params": {"share": 0.0}}
        names = {"share": "share"}
    reduction = get_method("ott_vid", **chosen(case, names), official=port)(view, keep)
    if case["parity"] == "informative":  # every pair costs the same
        return
    check(case, "keep_indices", reduction.anchors)
    check(case, "tokens", apply_reduction(view, reduction).features)
    frame = torch.arange(view.total) // view.features.shape[1]
    if "temporal_ranges" in case["outputs"]:
        own = [frame[reduction.assign == number] for number in range(reduction.kept)]
        check(case, "temporal_ranges", [[int(part.min()), int(part.max())] for part in own])


@of("ott_vid", "qwen")
def test_ott_vid_on_qwen(case: Case) -> None:
    ott_vid(case, "qwen")


@of("ott_vid", "llava")
def test_ott_vid_on_llava(case: Case) -> None:
    if not case["params"].get("grid_is_wrong"):  # the published port takes every grid for 13 x 13
        ott_vid(case, "llava")


# -- AOT: on the published grid of 27 x 27, and on the grid of the features


def aot_mask(case: Case) -> Tensor:
    shallow, deep = given(case, "shallow"), given(case, "deep")
    count, side = case["params"]["V"], int(shallow.shape[1] ** 0.5)
    local = int(count * (1 - case["params"]["global_ratio"]))
    lost = local % 9 if count < side * side else 0  # published: what 9 windows do not share
    return attended(shallow, deep, (side, side), count - lost, local - local % 9)


@pytest.mark.parametrize("case", [*cases("aot", "select"), *cases("aot", "select_grid")], ids=lambda case: case["id"])
def test_aot_chooses(case: Case) -> None:
    mask = aot_mask(case)
    if case["parity"] != "error":  # fewer than one for each window
        check(case, "mask", mask.to(torch.uint8))
        check(case, "kept_per_frame", mask.sum(dim=1))


@of("aot", "intra")
def test_aot_within_a_frame(case: Case) -> None:
    features, mask = given(case, "feat"), given(case, "mask").bool()
    check(case, "anchors", torch.bmm(gathered(features, mask, near_square(mask.shape[1])), features))


@of("aot", "temporal")
def test_aot_within_a_clip(case: Case) -> None:
    features, mask, ratio = given(case, "feat"), given(case, "mask").bool(), case["params"]["keep_ratio"]
    if case["parity"] == "error" or "newline" in case["params"] or case["params"]["scale"] != 1:
        return  # a frame without tokens; separators are the family's business
    place, frame, kind, tokens = [], [], [], []
    for start, length in case["params"]["segments"]:
        rows = [features[t][mask[t]] for t in range(start, start + length)]
        held, kept = taken_in(rows, [math.ceil(ratio * (len(row) - 1)) for row in rows[1:]])
        where = [mask[t].nonzero()[:, 0] for t in range(start, start + length)]
        listed = [(0, start, where[0], rows[0])]  # the published output lists the first frame before and after
        listed += [(1, start + t, where[t][some], rows[t][some]) for t, some in enumerate(kept, 1)]
        listed += [(2, start, where[0], held @ torch.cat(rows))] if length > 1 else []
        for what, at, some, values in listed:
            kind += [what] * len(some)
            frame += [at] * len(some)
            place.append(some)
            tokens.append(values)
    for name, value in {"token_frame": frame, "token_kind": kind, "token_pos": torch.cat(place)}.items():
        check(case, name, value)
    check(case, "tokens", torch.cat(tokens))


@of("aot", "segments")
def test_aot_clips(case: Case) -> None:
    frames = case["params"]["frames"]
    lengths = [len(clip) for clip in pieces(frames, clip_length(frames))]
    assert sum(lengths) == frames
    if case["parity"] != "error":
        check(case, "segments", [[sum(lengths[:i]), size] for i, size in enumerate(lengths)])


# -- FlashVID, two published lines repaired: the divisor of a tree, and double tokens in segments of one frame


@of("flashvid", "segments")
def test_flashvid_segments(case: Case) -> None:
    middle = given(case, "frame") if "frame" in case["inputs"] else given(case, "feat").mean(dim=1)
    lengths = [len(span) for span in cut_segments(middle, case["params"]["cut"], case["params"]["least"])]
    assert lengths == [size for size in tensor(case["outputs"]["segment_lengths"]).tolist() if size]


@of("flashvid", "adts")
def test_flashvid_chooses(case: Case) -> None:
    features, attention = given(case, "feat"), given(case, "attn")
    if case["parity"] == "informative":  # the published variant may choose a token again
        return
    features, attention = features[:3], attention[:3]
    weight = torch.ones_like(attention) if case["params"]["variant"] == "div" else attention
    if case["params"]["variant"] == "attn_div_v2":
        weight = weight * _event(features, features.mean(dim=1), (Span(0, 2),))
    marked = attended_and_different(features, weight, case["params"]["count"])
    check(case, "selected", marked.nonzero()[:, 1].view(len(features), -1))


@of("flashvid", "trees")
def test_flashvid_trees(case: Case) -> None:
    features, free, frames = given(case, "feat"), given(case, "free").bool(), case["params"]["frames"]
    features = features if frames == "all" else features[frames[0] : frames[0] + len(free)]
    method, span = Flashvid(link=case["params"]["link"]), Span(0, len(free) - 1)
    root = method._trees(features, ~free, (span,), case["params"]["budget_per_frame"]).flatten()
    own = (root == torch.arange(len(root))) & free.flatten()
    check(case, "root_index", own.nonzero()[:, 0])
    if "official_patched" in case:
        view = view_of(features)
        check(case, "roots", apply_reduction(view, mean_of_members(torch.where(free.flatten(), root, -1))).features)


@of("flashvid", "outer")
def test_flashvid(case: Case) -> None:
    names = {"alpha": "alpha", "expansion": "expansion", "cut": "segment_threshold", "segments": "min_segment_num"}
    options = {"expansion": 1.25, **chosen(case, {**names, "link": "temporal_threshold"})}
    method = Flashvid(**options, event=case["params"].get("token_selection_method", "attn_div_v2") == "attn_div_v2")
    view = view_of(given(case, "feat"), salience=given(case, "attn"))
    reduction = method(view, case["params"]["retention_ratio"])
    rows = apply_reduction(view, reduction).features
    assert torch.isfinite(rows).all()
    if case["parity"] not in ("required", "zero_noise"):  # the unrepaired code, ties, or a budget above a frame
        return
    check(case, "index", reduction.anchors)
    if "tokens" in case["outputs"]:
        check(case, "tokens", rows)
    else:
        check(case, "token_norm", rows.norm(dim=1))
        check(case, "token_first4", rows[:, :4])


@of("flashvid", "prune")
def test_flashvid_prunes(case: Case) -> None:
    length, start = case["params"]["visual_length"], case["params"]["visual_start"]
    looked_at = given(case, "attention_last_row").mean(dim=1)[:, -1, start : start + length]
    count = get_schedule("flashvid").count(length, case["params"]["keep"])
    kept = best_rows(looked_at, count)[0] + start
    rest = torch.arange(start + length, given(case, "hidden").shape[1])
    check(case, "keep_index", torch.cat([torch.arange(start), kept, rest]))


# -- ST-SimDiff: the graph, and what its share leaves to the attention of layer 1


def st_simdiff(case: Case) -> tuple[TokenView, Tensor]:
    view = view_of(given(case, "feat"), case["params"]["grid"])
    method = get_method("st_simdiff", **chosen(case, {"same": "low", "event": "event"}), official=True)
    return view, method(view, case["params"]["cost"]).anchors


@of("st_simdiff", "graph")
def test_st_simdiff(case: Case) -> None:
    if case["parity"] != "required" or "spatial" in case["params"]:  # ties; kinds of edges cannot be switched off
        return
    view, kept = st_simdiff(case)
    check(case, "keep_indices", kept)
    check(case, "kept_per_frame", torch.bincount(kept // view.features.shape[1], minlength=len(view.features)))
    removed = [1 - len(kept) / view.total] if "dropped_share" in case["outputs"] else []
    check(case, "next_drop_share", required_removal(removed, 28, case["params"]["cost"]))


@of("st_simdiff", "graph_then_attention")
def test_st_simdiff_goes_on_inside(case: Case) -> None:
    view, kept = st_simdiff(case)
    check(case, "keep_outer", kept)
    looked_at = given(case, "attn_last")[len(given(case, "text_pre")) :][kept][None]
    if len(kept) == view.total:  # published: a graph without an edge counts as a layer that has not run
        return
    share = 1 - required_removal([1 - len(kept) / view.total], 28, case["params"]["cost"])
    check(case, "keep_final", kept[best_rows(looked_at, round(len(kept) * share))[0]])
