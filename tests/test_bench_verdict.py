# SPDX-License-Identifier: Apache-2.0
"""Verdicts of the benches on made-up times: heavy tails, warming up, second runs that find warm caches."""

from __future__ import annotations

import math
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.read import FAST, ReadBench, _alternate
from vidcomp.bench.ask import PLAIN, bench_ask
from vidcomp.bench.break_even import break_even
from vidcomp.bench.paired import CONFIDENCE, FEWEST_PAIRS, MedianInterval, median_interval, paired_ratio
from vidcomp.core.ledger import StageLedger, StageRecord

STAGES = {"read": 0.06, "encode": 0.05, "compress": 0.004, "prefill": 0.02, "generate": 0.03}


class Machine:
    """Stands for a loaded model: its answers take the times of a busy machine, which nothing in the bench knows."""

    def __init__(self, seed, new_tokens=9, **speeds):
        self.draw, self.turn, self.new_tokens, self.speeds = np.random.default_rng(seed), 0, new_tokens, speeds
        self.order = []

    def ask(self, video, question, **settings):
        plain = settings == PLAIN
        self.order.append(plain)
        return SimpleNamespace(ledger=self.ledger({} if plain else self.speeds))

    def ledger(self, speeds):
        second, drift = self.turn % 2, 1 + 4 * math.exp(-self.turn / 12)
        self.turn += 1
        load = drift * (0.6 if second else 1.0) * self.draw.lognormal(0, 0.3)
        ledger = StageLedger(new_tokens=self.new_tokens)
        for name, seconds in STAGES.items():
            tail = 1 + 0.2 * self.draw.pareto(1.2)  # its variance is infinite
            ledger.stages.append(StageRecord(name, "tokens", seconds=seconds * load * tail / speeds.get(name, 1)))
        ledger.time_to_first_token = ledger.seconds - ledger.stages[-1].seconds
        return ledger


def verdict(machine, seed, **counts):
    return bench_ask(machine, Path("v.mp4"), "?", seed=seed, **counts).verdict


def told(words):
    return "faster" in words or "SLOWER" in words or "pays" in words


def test_equal_runs_are_called_equal_nine_times_of_ten():
    verdicts = [verdict(Machine(seed), seed) for seed in range(200)]
    assert sum(map(told, verdicts)) <= 20
    assert all("no difference found" in words for words in verdicts)


def test_with_a_fixed_order_they_would_not_be():
    wrong = 0
    for seed in range(100):
        machine = Machine(seed)
        runs = [machine.ledger({}).seconds for _ in range(26)][4:]
        wrong += paired_ratio(runs[::2], runs[1::2]).side(1) != 0
    assert wrong > 20


@pytest.mark.parametrize(("speed", "word"), [(3, "faster"), (1 / 3, "SLOWER")])
def test_a_true_difference_is_found(speed, word):
    found = [verdict(Machine(seed, prefill=speed, compress=speed), seed, repeats=25) for seed in range(50)]
    assert sum(word in words.split(" up to the end of prefill")[0] for words in found) >= 45


def test_the_order_of_each_pair_is_drawn_and_comes_back_with_the_seed():
    orders = []
    for seed in (1, 1, 2):
        machine = Machine(0)
        verdict(machine, seed, repeats=40)
        orders.append(machine.order)
        pairs = list(zip(machine.order[::2], machine.order[1::2], strict=True))
        assert all(one != other for one, other in pairs)
        assert 10 <= sum(one for one, _ in pairs) <= 32
    assert orders[0] == orders[1] != orders[2]


def test_few_pairs_give_no_verdict_and_a_cold_start_never_counts():
    machine = Machine(0, prefill=100.0)
    assert verdict(machine, 0, repeats=FEWEST_PAIRS - 1).startswith("none, ")
    assert not told(verdict(Machine(0, prefill=100.0), 0, repeats=1))
    assert told(verdict(Machine(0, prefill=100.0), 0, repeats=FEWEST_PAIRS))
    with pytest.raises(ValueError, match="warmup"):
        verdict(machine, 0, warmup=0)


def test_answers_of_one_token_have_no_decode_step():
    bench = bench_ask(Machine(0, new_tokens=1, encode=30.0, prefill=30.0), Path("v.mp4"), "?", repeats=25)
    assert "per new token" not in bench.verdict and "per new token" not in bench.to_dict()["stages"]
    assert bench.break_even.kind == "always"


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=60))
def test_the_interval_holds_the_median_and_gives_way_on_both_sides_alike(values):
    found = median_interval(values)
    assert found.value == pytest.approx(np.median(values))
    assert found.low <= found.value <= found.high
    assert (found.bounds is None) == (len(values) < FEWEST_PAIRS)
    turned = median_interval([-value for value in values])
    assert (turned.low, turned.high) == (-found.high, -found.low)


@pytest.mark.parametrize("count", [8, 9, 11, 12, 25, 40])
def test_the_interval_covers_as_often_as_it_says(count):
    rows = np.random.default_rng(count).standard_cauchy((20_000, count))
    found = [median_interval(row) for row in rows.tolist()]
    missed = sum(interval.side(0) != 0 for interval in found) / len(found)
    assert missed <= 1 - CONFIDENCE + 0.003
    below = sum(value < found[0].low for value in rows[0])
    binomial = 2 * sum(math.comb(count, k) for k in range(below + 1)) / 2**count
    assert missed == pytest.approx(binomial, abs=0.003)


def exact(value):
    return MedianInterval(value, value, value, 20)


@given(st.integers(-400, 400), st.integers(-40, 40))
def test_break_even_is_where_the_sum_turns(saved, faster):
    """Beside it: every length tried."""
    found = break_even(exact(saved / 8), exact(faster / 8))
    pays = [saved + (tokens - 1) * faster > 0 for tokens in range(1, 500)]
    if found.kind == "from":
        assert pays == [tokens >= found.tokens for tokens in range(1, 500)]
    elif found.kind == "up to":
        assert pays == [tokens <= found.tokens for tokens in range(1, 500)]
    else:
        assert found.kind == ("always" if pays[-1] else "no difference" if saved == faster == 0 else "never")


def test_break_even_says_how_far_it_may_move():
    words = break_even(MedianInterval(10, 8, 12, 9), MedianInterval(-1, -2, -0.5, 9)).words
    assert words == "pays up to 10 new tokens (4-24)"
    assert break_even(MedianInterval(-10, -12, -8, 9), MedianInterval(1, 0.5, 2, 9)).words.startswith("pays from 12 ")
    unsure = MedianInterval(1, -1, 3, 9)
    words = {break_even(*both).kind for both in product([unsure, exact(1)], [unsure, exact(1)])}
    assert words == {"no difference", "always"}


def test_ways_of_reading_are_compared_round_by_round():
    slow, quick = [1.0, 2.0] * 6, [0.5, 1.0] * 6
    bench = ReadBench("decord", {"vidcomp": slow, FAST: quick, "vidcomp, decord": slow, "decord, get_batch": slow})
    assert (bench.fast_gain.low, bench.fast_gain.high) == (2, 2)
    assert bench.ratio("decord").side(1) == 0 and bench.ratio("pyav") is None
    assert bench.to_dict()["fast_gain_interval"] == [2, 2]


def test_rounds_go_through_the_ways_in_an_order_drawn_for_each():
    called = []
    ways = {name: (lambda name=name: called.append(name) or [0]) for name in "abc"}
    taken = _alternate(ways, 1, 9, 60.0)
    rounds = ["".join(called[i : i + 3]) for i in range(0, 30, 3)]
    assert {tuple(sorted(one)) for one in rounds} == {("a", "b", "c")} and len(set(rounds)) > 2
    assert [len(times) for times in taken.values()] == [9, 9, 9]
