"""Every inner schedule against the slow masked reference, and what a stage tells against the eager attention maps."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
import torch
from test_inllm import AFTER, BEFORE, STEPS, VISUAL, hooks_on, run, sequence, visible_rows, with_answer
from tiny import masked_reference, tiny_model
from torch.nn.functional import cosine_similarity, normalize

from vidcomp.errors import ModelError, UsageError
from vidcomp.inllm import Cut, Schedule, get_schedule, schedule_names, schedules
from vidcomp.inllm.base import best_rows
from vidcomp.inllm.gsearch import search_shares
from vidcomp.inllm.psigmoid import sigmoid_shares
from vidcomp.inllm.scoring import page_rank
from vidcomp.inllm.visiondrop import contextual_merge

DEPTH, LENGTH, FRAMES = 6, BEFORE + VISUAL + AFTER, 5
FACTS = {
    "frame": torch.tensor([*(torch.arange(VISUAL - 1) // 8).tolist(), -1]),
    "place": torch.tensor([*(torch.arange(VISUAL - 1) % 8).tolist(), -1]),
    "salience": torch.rand(VISUAL, generator=torch.Generator().manual_seed(5)),
}

TABLE = [
    ("fastv", {"k": 1, "keep": 0.25}),
    ("fastv", {"k": 3}),
    ("pyramiddrop", {}),
    ("pyramiddrop", {"at": (1, 4), "keep": (0.5, 0.05), "positions": "compact"}),
    ("visiondrop", {}),
    ("visiondrop", {"at": 2, "keep": 0.4, "contextual": 0.5, "official": True, "positions": "compact"}),
    ("vscan", {"k": 2}),
    ("vflowopt", {}),
    ("todre", {"adaptive": False}),
    ("todre", {"tau": 1.0, "k": 1}),
    ("todre", {"tau": 0.0}),
    ("aim", {"start": 1, "end": 4}),
    ("framefusion", {"cost": 0.6, "threshold": 0.05}),
    ("framefusion", {"cost": 0.4, "threshold": -1.0}),
    ("flashvid", {}),
    ("unified_st", {}),
    ("catp", {}),
    ("catp", {"k": 3, "query_frames": 2, "keep": 0.3}),
    ("gsearch", {"at": "1/2/5", "keep": "0.7/0.4/0.1"}),
    ("psigmoid", {"keep": 0.5, "drops": 3}),
    ("holitom", {"k": 2}),
    ("shortv", {}),
    ("shortv", {"order": "0/2/5"}),
    ("dycoke", {"layer": 2, "gate": 1.1}),
    ("dycoke", {"layer": 1, "gate": -1.0, "prune": 0.5}),
]


@dataclass(frozen=True)
class Noting(Schedule):
    """Passes everything on to a schedule and notes what it saw and said."""

    inner: Schedule
    stages: dict = field(default_factory=dict)
    cuts: dict = field(default_factory=dict)
    reads: list = field(default_factory=list)

    @property
    def renumbers(self):
        return self.inner.renumbers

    def __getattribute__(self, name):
        if name in {"layers", "watched", "frozen", "read_from"}:
            return getattr(object.__getattribute__(self, "inner"), name)
        return object.__getattribute__(self, name)

    def reduce(self, stage):
        self.stages[stage.layer], self.cuts[stage.layer] = stage, self.inner.reduce(stage)
        return self.cuts[stage.layer]

    def read(self, attention, memory):
        self.reads.append(self.inner.read(attention, memory))
        return self.reads[-1]


def noted(name, parameters, attn="sdpa", **settings):
    model = tiny_model(attn)
    rows, flags = sequence(model)
    schedule = Noting(get_schedule(name, **parameters))
    out, cache = run(model, rows, flags, schedule, facts=FACTS, **settings)
    return model, rows, flags, schedule, out, cache


def reference(model, rows, flags, schedule, tokens, cache, sequence_of_batch=0):
    """Logits of the answer's rows, with the schedule's decisions carried out by hiding and overwriting."""
    one = sequence_of_batch
    full, places = with_answer(model, rows, torch.arange(len(rows))[None], tokens)
    kept, replaced, renumbered = {}, {}, {}
    for layer, cut in schedule.cuts.items():
        if cut is None:
            continue
        kept[layer] = torch.cat(
            [(~flags).nonzero()[:, 0], cache.survivors[layer][one], torch.arange(len(rows), len(full))]
        )
        if cut.merged is not None:
            replaced[layer] = (cache.survivors[layer][one], lambda _, new=cut.merged[one]: new)
        if schedule.renumbers:
            moved = places.clone()
            moved[0, kept[layer].sort().values] = torch.arange(len(kept[layer]))
            renumbered[layer] = moved
    frozen = {layer: flags.nonzero()[:, 0] for layer in cache.frozen}
    unread = {
        layer: unread_keys(schedule, len(rows), len(full), one) for layer in range(cache.read_layer or DEPTH, DEPTH)
    }
    return masked_reference(model, full, places, kept, replaced, frozen, unread, renumbered)[len(rows) - 1 :]


def unread_keys(schedule, prompt, total, one):
    hidden = torch.zeros(total, total, dtype=torch.bool)
    for step, choice in enumerate(schedule.reads):
        if choice is not None:
            hidden[prompt + step, BEFORE : BEFORE + VISUAL] = True
            hidden[prompt + step, BEFORE + choice[one]] = False
    return hidden


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
@pytest.mark.parametrize(("name", "parameters"), TABLE)
def test_logits_equal_the_masked_reference(name, parameters, attn):
    model, rows, flags, schedule, out, cache = noted(name, parameters, attn)
    expected = reference(model, rows, flags, schedule, out.sequences[0], cache)
    assert torch.stack(out.logits)[:, 0].sub(expected).abs().max() < 1e-4
    assert cache.applied
    left = VISUAL
    lengths = []
    for layer in range(DEPTH):
        cut = schedule.cuts.get(layer)
        left = left if cut is None else cut.kept.shape[1]
        lengths.append(BEFORE + left + AFTER)
    assert [cache.prefill_rows[layer] for layer in range(DEPTH)] == lengths
    assert cache.lengths() == [length + STEPS - 1 for length in lengths]


@pytest.mark.parametrize(("name", "parameters"), [
    ("pyramiddrop", {"at": (1, 4), "keep": (0.5, 0.05), "positions": "compact"}),
    ("visiondrop", {}),
    ("shortv", {"order": "0/2/5"}),
    ("dycoke", {"layer": 2, "gate": 1.1}),
])  # fmt: skip
def test_the_reference_fails_when_one_thing_differs(name, parameters):
    model, rows, flags, schedule, out, cache = noted(name, parameters)
    logits, tokens = torch.stack(out.logits)[:, 0], out.sequences[0]
    if schedule.renumbers:
        plain = Noting(get_schedule(name, **{**parameters, "positions": "keep"}), schedule.stages, schedule.cuts)
        wrong = reference(model, rows, flags, plain, tokens, cache)
    elif schedule.cuts:
        layer = max(schedule.cuts)
        cut = schedule.cuts[layer]
        schedule.cuts[layer] = replace(
            cut, merged=cut.merged + 0.1 * (torch.arange(cut.kept.shape[1]) == 3)[None, :, None]
        )
        wrong = reference(model, rows, flags, schedule, tokens, cache)
    elif cache.frozen:
        cache.frozen = cache.frozen - {2}
        wrong = reference(model, rows, flags, schedule, tokens, cache)
    else:
        schedule.reads[1] = schedule.reads[1][:, 1:]
        wrong = reference(model, rows, flags, schedule, tokens, cache)
    assert logits.sub(wrong).abs().max() > 1e-3


@pytest.mark.parametrize(("name", "parameters"), TABLE)
def test_samples_of_one_prompt_follow_the_reference_too(name, parameters):
    torch.manual_seed(1)
    model, rows, flags, schedule, out, cache = noted(name, parameters, do_sample=True, num_return_sequences=2)
    for one in range(2):
        expected = reference(model, rows, flags, schedule, out.sequences[one], cache, one)
        assert torch.stack(out.logits)[:, one].sub(expected).abs().max() < 1e-4


@pytest.mark.parametrize(("name", "parameters"), [TABLE[3], TABLE[4], ("shortv", {})])
def test_the_score_of_a_beam_is_the_references_log_probability(name, parameters):
    model, rows, flags, schedule, out, cache = noted(name, parameters, num_beams=3, output_scores=True)
    best = out.sequences[0]
    logits = reference(model, rows, flags, schedule, best, cache)
    expected = logits.log_softmax(-1).gather(1, best[:, None]).mean()
    torch.testing.assert_close(out.sequences_scores[0], expected, rtol=0, atol=1e-4)


def test_a_choice_of_keys_moves_with_its_beam():
    schedule = get_schedule("dycoke", layer=2, gate=1.1)
    model = tiny_model()
    rows, flags = sequence(model)
    out, _ = run(model, rows, flags, schedule, num_beams=3, output_scores=True)
    best = out.sequences[0]
    forced = Noting(schedule)
    cache_out, cache = teacher_forced(model, rows, flags, forced, best)
    expected = cache_out.log_softmax(-1).gather(1, best[:, None]).mean()
    torch.testing.assert_close(out.sequences_scores[0], expected, rtol=0, atol=1e-4)
    assert len(cache.reads) == STEPS - 1


def teacher_forced(model, rows, flags, schedule, tokens):
    """Logits of the answer's rows when a fixed answer is fed token by token."""
    from vidcomp.inllm import Attachment, CompressedCache

    cache = CompressedCache(model.config.text_config, flags, schedule, DEPTH, FACTS)
    logits = []
    with Attachment(model), torch.no_grad():
        fed = rows[None]
        for step in range(len(tokens)):
            start = 0 if step == 0 else len(rows) + step - 1
            hidden = model.get_decoder()(
                inputs_embeds=fed, position_ids=torch.arange(start, start + fed.shape[1])[None], past_key_values=cache,
                attention_mask=torch.ones(1, start + fed.shape[1]),
            ).last_hidden_state  # fmt: skip
            logits.append(model.lm_head(hidden[0, -1]))
            fed = model.get_input_embeddings()(tokens[step])[None, None]
    return torch.stack(logits), cache


def test_every_schedule_leaves_no_trace():
    model = tiny_model()
    rows, flags = sequence(model)
    before = model.generate(inputs_embeds=rows[None], max_new_tokens=STEPS, do_sample=False)
    for name, parameters in TABLE[::3]:
        run(model, rows, flags, get_schedule(name, **parameters), facts=FACTS)
    assert hooks_on(model) == 0
    assert torch.equal(before, model.generate(inputs_embeds=rows[None], max_new_tokens=STEPS, do_sample=False))


# -- what a stage tells, against eager attention maps


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
    whole = noted("visiondrop", {})[-1].survivors
    monkeypatch.setattr("vidcomp.inllm.scoring._SCRATCH_BYTES", 4 * 4 * LENGTH * 3)
    parts = noted("visiondrop", {})[-1].survivors
    assert all(torch.equal(whole[layer], parts[layer]) for layer in whole)


# -- decisions, against loops


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


def test_separators_outlive_every_drop_by_salience():
    _, _, _, schedule, _, cache = noted("vflowopt", {"keep": (0.2, 0.2)})
    assert all(BEFORE + VISUAL - 1 in survivors[0].tolist() for survivors in cache.survivors.values())
    order = FACTS["salience"][:-1].argsort(descending=True)[:7]
    assert (cache.survivors[2][0, :-1] - BEFORE).tolist() == order.sort().values.tolist()
    assert schedule.cuts[2].kept.shape[1] == 8


@pytest.mark.parametrize(("tau", "left"), [(0.0, VISUAL), (1.0, 0)])
def test_todre_removes_only_when_both_attentions_have_faded(tau, left):
    cache = noted("todre", {"tau": tau})[-1]
    assert cache.survivors[5].shape[1] == left


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


# -- plans and parameters


def test_shares_of_p_sigmoid_meet_the_budget_and_fall():
    for depth, keep, a, b in [(28, 0.3, 10, 0.5), (32, 0.1, 30, 0.2), (4, 0.5, 5, 0.9), (28, 0.9, 0, 0.5)]:
        curve = sigmoid_shares(depth, keep, a, b)
        assert curve.mean() == pytest.approx(keep)
        assert (curve[:-1] >= curve[1:] - 1e-12).all()
        plan = get_schedule("psigmoid", keep=keep, a=a, b=b).plan(depth)
        shares = [1.0]
        for layer in range(1, depth):
            shares.append(plan.get(layer, shares[-1]))
        assert sum(shares) / depth == pytest.approx(keep)
        assert shares == sorted(shares, reverse=True)
        assert len(plan) <= 4


def test_the_search_finds_the_smallest_harmless_shares():
    needed = {1: 0.8, 2: 0.8, 3: 0.3}

    def harm(plan):
        return max((needed[layer] - share for layer, share in plan.items()), default=0.0)

    found = search_shares((1, 2, 3), harm, allowed=0.0, steps=10)
    assert found == pytest.approx({1: 0.8, 3: 0.3}, abs=2e-3)


def test_published_layers_of_shallow_decoders_do_not_collide():
    for info in schedules():
        for depth in (3, 4, 24, 28, 36, 80):
            if info.name in {"gsearch", "psigmoid"}:
                continue
            parameters = {"layer": 1} if info.name == "dycoke" else {}
            schedule = get_schedule(info.name, **parameters)
            layers = schedule.layers(depth)
            assert list(layers) == sorted(set(layers))
            assert all(1 <= layer < depth for layer in layers)
            assert all(0 <= layer < depth for layer in schedule.frozen(depth) | schedule.watched(depth))


def test_the_list_names_every_schedule():
    listed = {info.name: info for info in schedules()}
    assert set(listed) == set(schedule_names()) >= {name for name, _ in TABLE}
    assert all(info.summary and info.source and info.stage == "inner" for info in listed.values())
    assert listed["vflowopt"].needs == {"salience"}
    assert listed["pyramiddrop"].parity == "goldens"


@pytest.mark.parametrize(("name", "parameters", "says"), [
    ("fastw", {}, "did you mean 'fastv'"),
    ("fastv", {"kep": 0.5}, "did you mean 'keep'"),
    ("fastv", {"k": 0}, "at least 1"),
    ("fastv", {"keep": 1.5}, "between 0 and 1"),
    ("pyramiddrop", {"at": "8/x"}, "numbers"),
    ("pyramiddrop", {"at": "1/2"}, "2 layers need"),
    ("pyramiddrop", {"keep": "0.2/0.5/0.1"}, "cannot grow"),
    ("pyramiddrop", {"positions": "none"}, "keep or compact"),
    ("aim", {"start": 4, "end": 3}, "above start"),
    ("gsearch", {}, "calibrate gsearch"),
    ("gsearch", {"file": "nowhere.json"}, "cannot read the preset"),
    ("shortv", {"order": "llava-2"}, "llava-1.5-7b"),
    ("shortv", {"order": "1/1"}, "twice"),
    ("dycoke", {"prune": -1}, "between 0 and 1"),
])  # fmt: skip
def test_wrong_parameters_are_clear_errors(name, parameters, says):
    with pytest.raises(UsageError) as error:
        get_schedule(name, **parameters)
    assert says in f"{error.value} {error.value.hint}"


@pytest.mark.parametrize(("name", "parameters", "depth"), [
    ("fastv", {"k": 6}, 6), ("pyramiddrop", {"at": "1/7/9"}, 6), ("psigmoid", {"keep": 0.1}, 6),
    ("aim", {"end": 9}, 6), ("catp", {"k": 9}, 6),
])  # fmt: skip
def test_plans_that_the_decoder_cannot_hold(name, parameters, depth):
    with pytest.raises(ValueError):
        get_schedule(name, **parameters).layers(depth)


def test_orders_that_the_decoder_cannot_hold():
    with pytest.raises(ValueError, match="layer 31"):
        get_schedule("shortv", order="llava-1.5-7b").frozen(6)
    with pytest.raises(ValueError, match="names 2"):
        get_schedule("shortv", order="1/2", n=3).frozen(6)
    assert get_schedule("shortv", order="llava-1.5-7b", n=5).frozen(32) == {31, 29, 30, 28, 0}


def test_what_a_schedule_may_not_say():
    class Bad(Schedule):
        def layers(self, depth):
            return (2,)

        def reduce(self, stage):
            return Cut(torch.tensor([[3, 1]]))

    model = tiny_model()
    rows, flags = sequence(model)
    with pytest.raises(ValueError, match="ascending"):
        run(model, rows, flags, Bad())
    with pytest.raises(ModelError, match="needs the place"):
        run(model, rows, flags, get_schedule("framefusion", cost=0.5))
    with pytest.raises(UsageError, match="cannot be met"):
        run(model, rows, flags, get_schedule("framefusion", cost=0.1), facts=FACTS)
    assert hooks_on(model) == 0


def test_visible_rows_names_what_is_left():
    _, _, flags, _, _, cache = noted("fastv", {"k": 3})
    assert len(visible_rows(cache, 3, flags, LENGTH)) == BEFORE + AFTER + VISUAL // 2
