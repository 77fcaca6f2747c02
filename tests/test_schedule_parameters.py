# SPDX-License-Identifier: Apache-2.0
"""Plans and parameters of inner schedules, their names in records, and their combinations with outer methods."""

from __future__ import annotations

import pytest
import torch
from schedule_runs import FACTS, LENGTH, TABLE, noted
from test_inllm import AFTER, BEFORE, VISUAL, hooks_on, run, sequence, visible_rows
from tiny import tiny_model

from vidcomp.core.specs import parse_spec
from vidcomp.errors import ModelError, UsageError
from vidcomp.methods.base import described
from vidcomp.schedules import Cut, Schedule, get_schedule, list_schedules, schedule_names
from vidcomp.schedules.gsearch import search_shares
from vidcomp.schedules.psigmoid import sigmoid_shares


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
    for info in list_schedules():
        for depth in (3, 4, 24, 28, 36, 80):
            if info.name in {"gsearch", "psigmoid"}:
                continue
            parameters = {"layer": 1} if info.name == "dycoke" else {}
            schedule = get_schedule(info.name, **parameters)
            layers = schedule.layers(depth)
            assert list(layers) == sorted(set(layers))
            assert all(1 <= layer < depth for layer in layers)
            assert all(0 <= layer < depth for layer in schedule.frozen(depth) | schedule.watched(depth))


def test_records_name_what_ran_as_it_would_be_typed(nano, samples):
    typed = "gsearch:at=1/3,keep=0.5/0.25"
    answer = nano.ask(samples / "blue_cross_moves_right.mp4", "what happens?", keep=0.25, method="uniform", inner=typed,
                      encoder="tome:r=4", max_new_tokens=1)  # fmt: skip
    assert (answer.inner, answer.encoder) == (typed, "tome:r=4")
    assert answer.to_dict()["inner"] == typed
    for name, parameters in TABLE:
        schedule = get_schedule(name, **parameters)
        again, written = parse_spec(described(schedule))
        assert get_schedule(again, **written) == schedule


WITH_PARAMETERS = ("fastv:k=1", "pyramiddrop:positions=compact", "shortv:n=2", "psigmoid:keep=0.6",
                   "gsearch:at=1,keep=0.3", "todre:adaptive=false")  # fmt: skip
ASKED = (*WITH_PARAMETERS, *sorted(set(schedule_names()) - {spec.partition(":")[0] for spec in WITH_PARAMETERS}))


@pytest.mark.parametrize("method", ["holitom", "pool", "prunevid"])
def test_any_outer_method_with_any_inner_schedule(nano, samples, method):
    needed = frozenset({"salience", "trusted_attention"})
    watched = nano.encode(samples / "blue_cross_moves_right.mp4", method="none", inner="none", signals=needed)
    for inner in ASKED:
        encoded = nano.compress(watched, method=method, keep=0.4, inner=inner)
        answer = nano.ask(encoded, "what happens?", max_new_tokens=2)
        ledger, (name, _) = answer.ledger, parse_spec(inner)
        assert answer.inner.startswith(name)
        assert ledger.tokens.kept == len(encoded.tokens)
        assert ledger.tokens.after_llm_layer <= ledger.tokens.kept
        held = [new + before for new, before in zip(ledger.layer_rows, ledger.layer_cached or [0] * 99, strict=False)]
        shorter = held[-1] < held[0]  # an encoded video is asked on a fork, whose layers hold most rows already
        assert shorter or name in {"shortv", "dycoke", "framefusion", "st_simdiff"}, (
            inner
        )  # some ask for a cost that is met


def test_the_list_names_every_schedule():
    listed = {info.name: info for info in list_schedules()}
    assert set(listed) == set(schedule_names()) >= {name for name, _ in TABLE}
    assert all(info.summary and info.source and info.stage == "inner" for info in listed.values())
    assert listed["vflowopt"].needs == {"trusted_attention"}
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
