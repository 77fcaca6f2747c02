# SPDX-License-Identifier: Apache-2.0
"""How an answer ended: loops of any period are found, lists are none."""

from __future__ import annotations

import json

import pytest
import torch
from clips import make_clip
from hypothesis import given, settings
from hypothesis import strategies as st

from vidcomp.cli.app import run
from vidcomp.core.endings import ending_note, finish_of, repeated_block

END = 0
tokens = st.lists(st.integers(1, 40), max_size=60)


def smallest_period(block):
    return next(p for p in range(1, len(block) + 1) if all(block[i] == block[i % p] for i in range(len(block))))


def by_definition(ids):
    """The rule as it is written: periods tried one after the other."""
    for period in range(1, len(ids) // 3 + 1):
        length = period
        while length < len(ids) and ids[-1 - length] == ids[-1 - length + period]:
            length += 1
        if length >= 3 * period and length >= min(len(ids), 12):
            return True
    return False


@settings(deadline=None, max_examples=200)
@given(tokens, st.lists(st.integers(1, 40), min_size=1, max_size=50), st.integers(3, 9), st.integers(0, 49))
def test_a_loop_of_any_period_is_found_wherever_it_is_cut(before, block, times, cut):
    looped = block * max(times, -(-12 // len(block)) + 1) + block[: cut % len(block)]
    found = repeated_block(before + looped)
    assert found
    assert found <= len(block)
    assert finish_of(before + looped, [END], len(before + looped), False) == "loop"


@settings(deadline=None, max_examples=200)
@given(st.integers(2, 30), st.lists(st.integers(100, 120), min_size=1, max_size=8))
def test_a_numbered_list_and_a_list_of_different_things_are_none(count, words):
    numbered = [token for number in range(count) for token in (number, 99, *words)]
    different = [token for number in range(count) for token in (98, 200 + number, 99)]
    assert not repeated_block(numbered + different)
    assert not repeated_block(different + numbered) or count < 3


@settings(deadline=None, max_examples=300)
@given(st.lists(st.integers(1, 3), max_size=40))
def test_it_is_the_definition(ids):
    assert bool(repeated_block(ids)) == by_definition(ids)


@pytest.mark.parametrize(
    ("new", "limit", "stopped", "finish"),
    [
        ([5, 6, END], 3, False, "stop"),
        ([5, 6, END], 3, True, "stop"),
        ([5, 6, 7], 3, False, "length"),
        ([5] * 20, 20, False, "loop"),
        ([5, 6] * 10, 20, False, "loop"),
        ([5] * 20, 20, True, "interrupted"),
        ([5] * 20 + [END], 40, False, "stop"),
        ([5, 6], 9, True, "interrupted"),
        ([5, 6, 5, 6], 4, False, "length"),
    ],
)
def test_how_an_answer_ended(new, limit, stopped, finish):
    assert finish_of(new, [END], limit, stopped) == finish
    assert (ending_note(finish, limit, 1) is None) == (finish == "stop")


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return make_clip(tmp_path_factory.mktemp("clips") / "clip.mp4", frames=20)


def test_a_cut_answer_says_so_in_the_record_and_on_stderr(nano, clip, tmp_path, capfd):
    whole, cut = (
        nano.ask(clip, "what happens at the end?"),
        nano.ask(clip, "what happens at the end?", max_new_tokens=1),
    )
    assert (whole.finish, cut.finish) == ("stop", "length")
    assert (whole.to_dict()["finish"], cut.to_dict()["finish"]) == ("stop", "length")
    assert not any("cut at" in note for note in whole.notes)
    assert cut.notes[-1].startswith("the answer was cut at 1 tokens")
    stopped = nano.ask(clip, "what happens at the end?", stop=lambda: True)
    assert (stopped.finish, stopped.notes[-1]) == ("interrupted", "the answer was interrupted")
    assert run(["caption", str(clip), "-o", str(tmp_path / "out.jsonl"), "--max-new-tokens", "1"]) == 0
    assert "the answer was cut at 1 tokens" in capfd.readouterr().err
    record = json.loads((tmp_path / "out.jsonl").read_text().splitlines()[-1])  # behind the settings
    assert record["finish"] == "length"


def test_an_answer_that_repeats_itself_is_a_loop(nano, clip):
    def always(head, args, logits):
        """Prefer one token, whatever the head says."""
        return torch.zeros_like(logits).index_fill_(-1, torch.tensor([7]), 1.0)

    handle = nano.family.model.lm_head.register_forward_hook(always)
    try:
        answer = nano.ask(clip, "what?", max_new_tokens=40)
    finally:
        handle.remove()
    assert answer.finish == "loop"
    assert answer.notes[-1] == "the answer repeats the same one token until it is cut at 40 tokens"
