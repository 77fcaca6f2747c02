# SPDX-License-Identifier: Apache-2.0
"""What a stage tells against eager attention maps, and what schedules decide against loops."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
import torch
from schedule_runs import FACTS, FRAMES, LENGTH, noted
from test_inllm import AFTER, BEFORE, VISUAL, run, sequence
from tiny import tiny_model
from torch.nn.functional import cosine_similarity, normalize

from vidcomp.core.tokens import Reduction, Span, TokenView
from vidcomp.engine.inner import visual_facts
from vidcomp.errors import UsageError
from vidcomp.schedules import Schedule, get_schedule
from vidcomp.schedules.base import best_rows
from vidcomp.schedules.blocks import merge
from vidcomp.schedules.blocks.merge import most_similar
from vidcomp.schedules.blocks.scoring import page_rank
from vidcomp.schedules.visiondrop import contextual_merge
from vidcomp.spans import FramePlan


@pytest.fixture(scope="module")
def seen():
    """A stage before layer 3 of the tiny model, and all attention maps [layer] of [heads, S, S]."""

    @dataclass(frozen=True)
    class Look(Schedule):
        asked: list = field(default_factory=list)

        def layers(self, depth):
            return (3,)

        def watched(self, depth):
            return frozenset({1, 2})

        def reduce(self, stage):
            tall = stage.attention
            every = torch.arange(LENGTH)[None]
            self.asked.append({
                "last": [tall(back).last_row()[0] for back in (0, 1, 2)],
                "received": [tall().received(stage.visual, fair)[0] for fair in (False, True)],
                "strongest": tall().strongest(stage.question)[0],
                "mass": (tall().mass(stage.question, ~stage.text), tall().mass(stage.visual, stage.text)),
                "rank": page_rank(lambda: tall().blocks(every, 0.5), LENGTH, 3)[0],
                "hidden": stage.rows[0],
            })  # fmt: skip
            return None

    model = tiny_model("eager")
    rows, flags = sequence(model)
    look = Look()
    run(model, rows, flags, look, max_new_tokens=1)
    maps = model.get_decoder()(inputs_embeds=rows[None], output_attentions=True).attentions
    return look.asked[0], [item[0].detach() for item in maps], flags


def test_last_rows_of_three_layers(seen):
    asked, maps, _ = seen
    for row, back in zip(asked["last"], (0, 1, 2), strict=True):
        torch.testing.assert_close(row, maps[3 - back][:, -1].mean(0), rtol=0, atol=1e-6)


def test_attention_received_and_strongest(seen):
    asked, maps, flags = seen
    mean = maps[2].mean(0)
    plain = mean[flags].mean(0)
    viewers = torch.tensor([sum(bool(flags[i]) and i >= j for i in range(LENGTH)) for j in range(LENGTH)])
    torch.testing.assert_close(asked["received"][0], plain, rtol=0, atol=1e-6)
    torch.testing.assert_close(asked["received"][1], plain * VISUAL / viewers.clamp(min=1), rtol=0, atol=1e-6)
    torch.testing.assert_close(asked["strongest"], mean[-AFTER:].amax(0), rtol=0, atol=1e-6)


def test_attention_masses(seen):
    asked, maps, flags = seen
    mean = maps[2].mean(0)
    to_vision, to_text = asked["mass"]
    torch.testing.assert_close(to_vision[0], mean[-AFTER:][:, flags].sum(1).mean(), rtol=0, atol=1e-6)
    torch.testing.assert_close(to_text[0], mean[flags][:, ~flags].sum(1).mean(), rtol=0, atol=1e-6)


def test_page_rank_follows_the_sharpened_map(seen):
    asked, maps, _ = seen
    causal = torch.ones(LENGTH, LENGTH).tril().bool()
    sharp = maps[2].log().div(0.5).masked_fill(~causal, -torch.inf).softmax(-1)
    rank = torch.full((sharp.shape[0], 1, LENGTH), 1 / LENGTH)
    for _ in range(3):
        rank = rank @ sharp
    torch.testing.assert_close(asked["rank"], rank[:, 0].square().mean(0).sqrt(), rtol=0, atol=1e-6)


def test_blocks_do_not_change_a_score(monkeypatch):
    whole = noted("visiondrop", {})[-1].measured.survivors
    monkeypatch.setattr("vidcomp.schedules.blocks.scoring._SCRATCH_BYTES", 4 * 4 * LENGTH * 3)
    parts = noted("visiondrop", {})[-1].measured.survivors
    assert all(torch.equal(whole[layer], parts[layer]) for layer in whole)


def test_contextual_rows_are_means_over_their_members():
    generator = torch.Generator().manual_seed(2)
    hidden, keys = torch.randn(1, 11, 4, generator=generator), torch.randn(1, 11, 3, generator=generator)
    cut = contextual_merge(hidden, keys, torch.tensor([[2, 5, 6]]), 3, summed=False)
    rest = [0, 1, 3, 4, 7, 8, 9, 10]
    targets = [0, 3, 7]  # every second of the rest
    unit = normalize(keys[0], dim=-1)
    groups = {target: [hidden[0, target]] for target in targets}
    for row in rest:
        if row not in targets:
            groups[max(targets, key=lambda t: float(unit[row] @ unit[t]))].append(hidden[0, row])
    assert cut.kept.tolist() == [sorted([2, 5, 6, *targets])]
    for row, value in zip(cut.kept[0].tolist(), cut.merged[0], strict=True):
        expected = torch.stack(groups[row]).mean(0) if row in groups else hidden[0, row]
        torch.testing.assert_close(value, expected)


def test_text_aware_merge_by_hand():
    _, _, _, schedule, _, _ = noted("unified_st", {"k": 2, "keep": 0.4})
    stage, cut = schedule.stages[2], schedule.cuts[2]
    attention = stage.attention
    del attention  # its input is gone by now; the map comes from the eager model
    model = tiny_model("eager")
    rows, flags = sequence(model)
    mean = model.get_decoder()(inputs_embeds=rows[None], output_attentions=True).attentions[1][0].mean(0)
    hidden, text = stage.hidden[0], stage.rows[0, -AFTER:]
    strongest = mean[-AFTER:][:, flags].amax(0)
    alike = torch.stack([cosine_similarity(row[None], text).max() for row in hidden])
    blend = sum((v - v.min()) / (v.max() - v.min()) for v in (strongest, alike)) / 2
    kept = blend.argsort(descending=True)[:16].sort().values
    assert cut.kept[0].tolist() == kept.tolist()
    groups = {int(k): [hidden[k]] for k in kept}
    for row in range(VISUAL):
        if row not in groups:
            groups[int(kept[cosine_similarity(hidden[row][None], hidden[kept]).argmax()])].append(hidden[row])
    torch.testing.assert_close(cut.merged[0], torch.stack([torch.stack(groups[int(k)]).mean(0) for k in kept]))


def test_catp_ranks_growth_of_attention_and_likeness_to_the_question():
    _, _, _, schedule, _, _ = noted("catp", {"k": 3, "keep": 0.5, "query_frames": 2})
    model = tiny_model("eager")
    rows, flags = sequence(model)
    maps = model.get_decoder()(inputs_embeds=rows[None], output_attentions=True).attentions
    growth = (maps[2][0].mean(0)[-1] - maps[1][0].mean(0)[-1])[flags].clamp(min=0)
    stage = schedule.stages[3]
    scores = growth + 0.6 * cosine_similarity(stage.hidden[0], stage.rows[0, -AFTER:].mean(0)[None])
    context = FACTS["frame"] < FRAMES - 2
    best = scores.masked_fill(~context, -9).argsort(descending=True)[: round(int(context.sum()) / 2)]
    assert schedule.cuts[3].kept[0].tolist() == sorted([*best.tolist(), *(~context).nonzero()[:, 0].tolist()])
    left = FACTS["frame"][stage.origin[0]][schedule.cuts[3].kept[0]]
    final = left[schedule.cuts[4].kept[0]]
    assert (final < FRAMES - 2).sum() == (left < FRAMES - 2).sum()  # the context is left alone
    assert (final >= FRAMES - 2).sum() == round(int((left >= FRAMES - 2).sum()) / 2)


def test_every_scene_and_frame_keeps_its_share_by_unrotated_attention():
    _, _, _, schedule, _, _ = noted("prunevid", {"k": 2, "alpha": 0.5})
    model = tiny_model()
    rows, flags = sequence(model)
    inputs = []
    attention = model.get_decoder().layers[1].self_attn
    handle = attention.register_forward_pre_hook(
        lambda _, args, kw: inputs.append(kw["hidden_states"][0]), with_kwargs=True
    )
    with torch.no_grad():
        model.get_decoder()(inputs_embeds=rows[None])
        handle.remove()
        query = attention.q_proj(inputs[0][-AFTER:]).view(AFTER, 4, -1)
        key = attention.k_proj(inputs[0]).view(LENGTH, 2, -1).repeat_interleave(2, 1)
        weights = (torch.einsum("qhd,khd->hqk", query, key) * query.shape[-1] ** -0.5).softmax(-1)
    scores = weights.amax((0, 1))[flags]
    groups = {}
    for row in range(VISUAL - 1):
        still = bool(FACTS["still"][row])
        groups.setdefault(("span", row // 24) if still else ("frame", row // 8), []).append(row)
    expected = [VISUAL - 1]
    for members in groups.values():
        expected += sorted(members, key=lambda row: -float(scores[row]))[: len(members) // 2]
    assert schedule.cuts[2].kept[0].tolist() == sorted(expected)


def test_what_is_known_about_the_rows_of_a_reduction():
    attention = torch.arange(9.0).view(3, 3)  # of three encoded frames: frame 2 shows frame 1 again
    view = TokenView(torch.zeros(3, 3, 2), (1, 3), torch.arange(3.0), trusted_attention=attention)
    plan = FramePlan(torch.tensor([0, 1, 3]), torch.tensor([0, 1, 1, 2]))
    assign = torch.tensor([0, -1, 1, 2, -1, 1, 2, -1, -1, 3, -1, 3])
    anchors = torch.tensor([0, 2, 3, 9])
    reduction = Reduction(anchors, assign, (assign >= 0).float(), (Span(0, 0), Span(1, 3)))
    facts = visual_facts(get_schedule("vflowopt"), view, plan, anchors, 2, reduction)
    assert {name: fact.tolist() for name, fact in facts.items()} == {
        "frame": [0, 0, 1, 3, -1, -1],
        "place": [0, 2, 0, 0, -1, -1],
        "span": [0, 0, 1, 1, 0, 0],
        "still": [0, 1, 1, 0, 0, 0],
        "trusted_attention": [0, 2, 3, 6, 0, 0],
    }
    assert visual_facts(None, view, plan, anchors, 2) == {}
    with pytest.raises(UsageError, match="encoded without it"):
        visual_facts(get_schedule("vflowopt"), replace(view, trusted_attention=None), plan, anchors, 2)


def test_separators_outlive_every_drop_by_importance():
    _, _, _, schedule, _, cache = noted("vflowopt", {"keep": (0.2, 0.2)})
    assert all(BEFORE + VISUAL - 1 in survivors[0].tolist() for survivors in cache.measured.survivors.values())
    order = FACTS["trusted_attention"][:-1].argsort(descending=True)[:7]
    assert (cache.measured.survivors[2][0, :-1] - BEFORE).tolist() == order.sort().values.tolist()
    assert schedule.cuts[2].kept.shape[1] == 8


@pytest.mark.parametrize(("tau", "left"), [(0.0, VISUAL), (1.0, 0)])
def test_todre_removes_only_when_both_attentions_have_faded(tau, left):
    cache = noted("todre", {"tau": tau})[-1]
    assert cache.measured.survivors[5].shape[1] == left


def test_a_steady_gaze_keeps_its_choice_and_a_new_one_is_made_otherwise():
    schedule = get_schedule("dycoke", layer=2, prune=0.7)
    gaze = torch.rand(1, 20, generator=torch.Generator().manual_seed(0))
    memory: dict = {}
    first = schedule.read(gaze, memory)
    assert first.tolist() == best_rows(gaze, 6).tolist()
    assert torch.equal(schedule.read(gaze * 1.01, memory), first)
    assert not torch.equal(schedule.read(1 - gaze, memory), first)
    published = get_schedule("dycoke", layer=2, official=True)
    memory = {}
    assert published.read(gaze, memory) is not None
    assert published.read(gaze, memory) is None


@pytest.mark.parametrize("block", [64 * 2**20, 1])
def test_equally_similar_rows_go_to_the_one_listed_first(block, monkeypatch):
    """Within a block, and with one row a block across them; whole numbers, so that no rounding decides."""
    monkeypatch.setattr(merge, "_BLOCK_BYTES", block)
    hidden = torch.tensor([[[2.0, 0.0], [0.0, 2.0], [1.0, 0.0], [1.0, 0.0], [0.0, 4.0], [0.0, 1.0], [0.0, 0.0]]])
    kept = torch.tensor([[4, 3, 1, 2, 5]])
    found = most_similar(hidden, torch.tensor([[0, 6]]), kept)
    assert kept[0, found[0]].tolist() == [3, 4]  # of 3 and 2; a zero vector is similar to none: the first of all
    turned = kept.flip(1)
    assert turned[0, most_similar(hidden, torch.tensor([[0]]), turned)[0]].tolist() == [2]
