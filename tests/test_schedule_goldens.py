# SPDX-License-Identifier: Apache-2.0
"""Inner schedules against outputs of the published code: PyramidDrop, FrameFusion and AIM."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from goldens import check, of, tensor
from torch import Tensor, nn
from transformers.models.qwen2.modeling_qwen2 import apply_rotary_pos_emb

from vidcomp.schedules import get_schedule
from vidcomp.schedules.aim import shares_after
from vidcomp.schedules.base import best_rows
from vidcomp.schedules.blocks.scoring import Attention, AttentionInput, page_rank
from vidcomp.schedules.framefusion import merge_repeats, required_removal
from vidcomp.schedules.prunevid import best_of_groups

__all__ = ["apply_rotary_pos_emb"]  # looked up in the module of the attention class


class Projections(nn.Module):
    """An attention module as far as the scoring asks for it."""

    def __init__(self, wq: Tensor, wk: Tensor, heads: int, kv_heads: int) -> None:
        super().__init__()
        self.q_proj, self.k_proj = nn.Linear(*wq.T.shape, bias=False), nn.Linear(*wk.T.shape, bias=False)
        self.q_proj.weight.data, self.k_proj.weight.data = wq, wk
        self.head_dim = wq.shape[0] // heads
        assert wk.shape[0] // kv_heads == self.head_dim
        self.scaling = self.head_dim**-0.5
        self.config = SimpleNamespace(num_attention_heads=heads)


def rotary(length: int, size: int) -> tuple[Tensor, Tensor]:
    angles = torch.arange(length)[:, None] / 10000 ** (torch.arange(0, size, 2) / size)
    angles = torch.cat([angles, angles], 1)[None]
    return angles.cos(), angles.sin()


@torch.no_grad()
@of("pyramiddrop", "rank_drop")
def test_pyramiddrop(case: dict[str, Any]) -> None:
    params, inputs = case["params"], {name: tensor(entry) for name, entry in case["inputs"].items()}
    start, before = params["image_start"], params["image_tokens_before"]
    rows = torch.cat([inputs["text_pre"], inputs["feat"].flatten(0, 1)[:before], inputs["text_post"]])[None]
    module = Projections(inputs["wq"], inputs["wk"], params["heads"], params["kv_heads"])
    source = AttentionInput(module, rows, *rotary(rows.shape[1], module.head_dim))
    looked_at = Attention(source, source.keys()).last_row()[:, start : start + before]
    keep = params["ratio_list"][params["stage"] + 1]
    schedule = get_schedule("pyramiddrop", at=(1,), keep=(keep,))
    kept = best_rows(looked_at, max(1, schedule.count(params["image_tokens_total"], keep)))
    if case["parity"] == "error":  # grouped heads, which the published step cannot read
        assert kept.shape == (1, 144)
        torch.testing.assert_close(looked_at[0], grouped_by_hand(module, rows[0])[start : start + before])
        return
    check(case, "attn_text", looked_at[0])
    expected = case["outputs"]["keep_image_indices"]["shape"]
    if expected == [0]:  # a share of nothing: we keep the best row
        assert kept.shape[1] == 1
        return
    check(case, "keep_image_indices", kept[0] + start)


def grouped_by_hand(module: Projections, rows: Tensor) -> Tensor:
    """Last row's attention, head by head."""
    heads, size = module.config.num_attention_heads, module.head_dim
    cos, sin = rotary(len(rows), size)
    query, key = module.q_proj(rows).view(len(rows), -1, size), module.k_proj(rows).view(len(rows), -1, size)
    total = torch.zeros(len(rows))
    for head in range(heads):
        q, k = query[None, None, :, head], key[None, None, :, head // (heads // key.shape[1])]
        q, k = apply_rotary_pos_emb(q, k, cos, sin)
        total += (k[0, 0] @ q[0, 0, -1] * module.scaling).softmax(0)
    return total / heads


@of("framefusion", "merge")
def test_framefusion_merge(case: dict[str, Any]) -> None:
    params, inputs = case["params"], {name: tensor(entry) for name, entry in case["inputs"].items()}
    feat, before = inputs["feat"], len(inputs["text_pre"])
    visual, place = feat.flatten(0, 1)[None], torch.arange(feat.shape[1]).repeat(len(feat))
    present = torch.arange(place.numel())
    removed: list[float] = []
    kept_steps, merging, pruning = [], [], []
    for _ in range(params["max_calls"]):
        wanted = required_removal(removed, params["num_layers"], params["cost"])
        if case["parity"] == "error" and wanted == 1.0:
            return  # the layers that ran cost more than the budget; a stage then keeps a single row
        merged = merge_repeats(visual, place[present], wanted, params["similarity_lower_bound"])
        share = 1 - merged.kept.shape[1] / len(present)
        visual, present = merged.rows, present[merged.kept[0]]
        if not merged.capped:
            removed.append(share)
        kept_steps.append(present)
        merging.append(int(merged.capped or share < params["ratio_lower_bound"]))
        pruning.append(int(merged.capped))
        if merging[-1]:
            break
    assert case["parity"] != "error"
    texts = torch.arange(before), torch.arange(len(inputs["text_post"])) + before + place.numel()
    for step, kept in enumerate(kept_steps):
        check(case, f"keep_indices_step{step}", torch.cat([texts[0], kept + before, texts[1]]))
    check(case, "hidden", torch.cat([inputs["text_pre"][None], visual, inputs["text_post"][None]], 1))
    check(case, "finish_merging", merging)
    check(case, "finish_pruning", pruning)
    if removed:
        check(case, "sparsity_list", torch.tensor(removed, dtype=torch.float64))


@of("framefusion", "prune")
def test_framefusion_prune(case: dict[str, Any]) -> None:
    params, hidden = case["params"], tensor(case["inputs"]["hidden"])
    start, length = params["image_start"], params["image_length_now"]
    looked_at = tensor(case["inputs"]["attn"]).mean(1)[:, 0, start : start + length]
    wanted = required_removal(params["sparsity_list"], params["num_layers"], params["cost"])
    check(case, "pruning_ratio", wanted)
    kept = best_rows(looked_at, round(length * (1 - wanted)))[0] + start
    index = torch.cat([torch.arange(start), kept, torch.arange(start + length, hidden.shape[1])])
    check(case, "keep_indices", index)
    check(case, "hidden", hidden[:, index])


@of("aim", "importance")
def test_aim_importance(case: dict[str, Any]) -> None:
    params, logits = case["params"], tensor(case["inputs"]["logits"])
    sharp = logits.div(params["tau_imp"]).softmax(-1)

    def walk() -> Any:
        for start in range(0, logits.shape[2], 7):
            part = slice(start, min(start + 7, logits.shape[2]))
            yield part, sharp[:, :, part]

    check(case, "importance", page_rank(walk, logits.shape[2], params["iters"], params["d"]))


@of("aim", "prune_mask")
def test_aim_prune_mask(case: dict[str, Any]) -> None:
    params, importance = case["params"], tensor(case["inputs"]["importance"])
    start, end, depth = params["visual_start"], params["visual_end"], params["num_layers"]
    shares = shares_after(14, 22, depth)
    check(case, "retain_rate", torch.tensor(shares, dtype=torch.float64))
    kept = best_rows(importance[:, start:end], int((end - start) * shares[params["layer_idx"]])) + start
    mask = torch.ones(importance.shape[1], dtype=torch.uint8)
    mask[start:end] = 0
    mask[kept[0]] = 1
    check(case, "keep_mask", mask)
    plan = get_schedule("aim").plan(28)
    assert plan.get(params["layer_idx"] + 1, 1.0) == shares[params["layer_idx"]]


@of("prunevid", "llm_select")
def test_prunevid_select(case: dict[str, Any]) -> None:
    params = case["params"]
    scores, group = tensor(case["inputs"]["attn"]).amax((0, 1)), []
    for static, dynamic, frames in zip(
        *(params[f"{name}_sizes"] for name in ("static", "dynamic", "window")), strict=True
    ):
        number = max(group, default=-1) + 1
        group += [number] * static + [number + 1 + i * frames // dynamic for i in range(dynamic)]
    selected = best_of_groups(scores, torch.tensor(group), params["alpha"]).nonzero()[:, 0]
    check(case, "selected_sorted", selected)
