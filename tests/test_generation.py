# SPDX-License-Identifier: Apache-2.0
"""Sampling, seeds, the checkpoint's generation defaults, and answers that are given up."""

from __future__ import annotations

import threading
import time

import pytest
import torch
from clips import make_clip

import vidcomp
from vidcomp.engine.generate import stream_text

QUESTION = "what happens at the end?"
# how a checkpoint may want its answers written; the defaults of the model are replaced by these
DEFAULTS = [
    {"repetition_penalty": 1.6},
    {"no_repeat_ngram_size": 2},
    {"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.05},
    {"do_sample": True, "temperature": 1e-6, "repetition_penalty": 1.05},
]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return make_clip(tmp_path_factory.mktemp("clips") / "clip.mp4", frames=20)


@pytest.fixture(scope="module")
def replica(replicas):
    with vidcomp.load(str(replicas("llava_onevision_tied")), device="cpu", frames=2, max_new_tokens=12) as lm:
        yield lm


@pytest.fixture
def defaults(replica, monkeypatch):
    """Change the model's generation defaults for one test."""

    def change(values):
        for name, value in values.items():
            monkeypatch.setattr(replica.family.model.generation_config, name, value)

    return change


@pytest.mark.parametrize("values", DEFAULTS)
def test_the_checkpoints_generation_defaults_rule_as_in_the_stock_model(replica, clip, defaults, values):
    """Penalties look at prompt ids too, which embeddings alone would hide."""
    defaults(values)
    encoded = replica.encode(clip)
    frames, prompt = encoded.frames.pixels, replica.family.prompt(QUESTION, encoded.layout)
    ids = prompt.full_ids(196, 1, replica.family.visual_id)[None]
    torch.manual_seed(3)
    stock = replica.family.model.generate(
        input_ids=ids, pixel_values_videos=replica.family.pixels(frames)[None], attention_mask=torch.ones_like(ids),
        max_new_tokens=12, pad_token_id=0,
    )  # fmt: skip
    text = replica.family.tokenizer.decode(stock[0, ids.shape[1] :], skip_special_tokens=True).strip()
    assert replica.ask(clip, QUESTION, keep=1.0, seed=3).text == text


def test_a_penalty_that_sees_the_prompt_answers_differently(replica, clip, defaults):
    plain = replica.ask(clip, QUESTION, keep=1.0).text
    defaults(DEFAULTS[0])
    assert replica.ask(clip, QUESTION, keep=1.0).text != plain


def test_what_the_caller_says_about_sampling_wins(replica, clip, defaults):
    greedy = replica.ask(clip, QUESTION, keep=0.5).text
    defaults(DEFAULTS[2] | {"repetition_penalty": 1.0})
    assert replica.ask(clip, QUESTION, keep=0.5, temperature=0).text == greedy
    hot = {replica.ask(clip, QUESTION, keep=0.5, temperature=5.0, seed=seed).text for seed in range(3)}
    assert len(hot) == 3
    assert replica.ask(clip, QUESTION, keep=0.5, top_p=1e-6).text == greedy


def test_a_seed_repeats_and_torchs_own_generator_is_left_as_it_was(replica, clip):
    settings = {"keep": 0.5, "temperature": 2.0, "seed": 5}
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    first = replica.ask(clip, QUESTION, **settings).text
    assert torch.equal(torch.rand(3), expected)
    assert replica.ask(clip, QUESTION, **settings).text == first


# -- giving up


def test_an_answer_ends_where_it_is_told_to(replica, clip):
    asked = iter([False, False, True])
    answer = replica.ask(clip, QUESTION, keep=0.5, stop=lambda: next(asked))
    assert answer.ledger.new_tokens == 3


def test_an_abandoned_stream_stops_generating(replica, clip):
    before = threading.active_count()
    stream = replica.stream(clip, QUESTION, keep=0.5, max_new_tokens=4096, temperature=3.0)
    next(stream)
    assert threading.active_count() > before
    stream.close()
    assert threading.active_count() == before


def test_a_stream_that_is_closed_before_it_speaks_is_told_to_stop():
    told = threading.Event()

    def work(on_text, stop):
        on_text("one")
        while not stop():
            time.sleep(0.001)
        told.set()

    stream = stream_text(work)
    assert next(stream) == "one"
    stream.close()
    assert told.is_set()
