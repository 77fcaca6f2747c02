# SPDX-License-Identifier: Apache-2.0
"""Several requests side by side against each of them alone."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from families import FAMILY_NAMES, checkpoint, load, moving_square

import vidcomp
import vidcomp.engine.together
from vidcomp.config import RunConfig
from vidcomp.engine.run import VideoLM
from vidcomp.errors import InputError, ModelError, UsageError

QUESTIONS = ("What happens at the end?", "First?", "Describe the video in detail. Why is this video funny?")
INNER = ("none", "holitom:k=2", "fastv:k=2", "pyramiddrop")
GREEDY = {"temperature": 0.0, "max_new_tokens": 6}


def items(pair: int = 1):
    """Three videos of other lengths and sizes, with questions of other lengths."""
    shapes = ((4 * pair, 56, 84), (7 * pair, 84, 56), (2 * pair, 56, 56))
    clips = [moving_square(*shape, seed=number) for number, shape in enumerate(shapes)]
    return [(vidcomp.FrameSequence(clip, fps=1), question) for clip, question in zip(clips, QUESTIONS, strict=True)]


class Logits:
    """The logits of every step of every ``generate``, [B, V] each, while the block is open."""

    def __init__(self, model) -> None:
        self.head, self.steps = model.get_output_embeddings(), []

    def __enter__(self):
        self.handle = self.head.register_forward_hook(lambda _, args, out: self.steps.append(out[:, -1].detach()))
        return self.steps

    def __exit__(self, *exc) -> None:
        self.handle.remove()


@pytest.fixture(scope="module")
def loaded(replicas, tmp_path_factory):
    root = tmp_path_factory.mktemp("siblings")

    @cache
    def make(name, attn="sdpa", double=False):
        family = load(checkpoint(replicas, root, name), attn)
        if double:
            family.model.double()
        return VideoLM(family, RunConfig())

    yield make


def compared(lm, asked, settings):
    """Answers alone and together, and the largest difference of their logits."""
    singles, steps = [], []
    for video, question in asked:
        with Logits(lm.family.model) as seen:
            singles.append(lm.ask(video, question, **settings))
        steps.append([step[0] for step in seen])
    with Logits(lm.family.model) as seen:
        many = lm.ask_many(asked, **settings)
    rows = sorted(range(len(asked)), key=lambda place: singles[place].ledger.tokens.sequence)  # the shortest first
    apart = (
        seen[step][row] - steps[place][step] for row, place in enumerate(rows) for step in range(len(steps[place]))
    )
    return singles, many, max(float(difference.abs().max()) for difference in apart)


def facts(answer):
    """What a ledger counts."""
    ledger = answer.ledger
    stages = [(stage.name, stage.into, stage.out) for stage in ledger.stages]
    return answer.text, answer.finish, ledger.new_tokens, ledger.tokens, ledger.layer_rows, ledger.layer_updated, stages


@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_each_answer_is_that_of_the_request_alone(loaded, name, inner):
    attn = "eager" if inner.startswith("fastv") else "sdpa"
    settings = {"keep": 0.4, "method": "holitom", "inner": inner, **GREEDY}

    def run(lm):
        return compared(lm, items(lm.family.frames_per_slice), settings)

    singles, many, apart = run(loaded(name, attn))
    assert [facts(answer) for answer in many] == [facts(answer) for answer in singles]
    # Where logits are large, rounding alone may reach the bound on some processors; in double precision it does not.
    assert apart < 1e-4 or run(loaded(name, attn, double=True))[2] < 1e-4
    assert len({answer.ledger.tokens.sequence for answer in many}) == 3
    assert all(any("beside 2 others" in note for note in answer.notes) for answer in many)


def test_other_budgets_and_prefixes_stand_side_by_side(loaded):
    lm = loaded("qwen3_vl", "eager")
    budgets, settings = (0.3, 1.0, 0.6), {"method": "holitom", "inner": "fastv:k=2", **GREEDY}
    singles = [lm.ask(*item, keep=keep, **settings) for item, keep in zip(items(2), budgets, strict=True)]
    encoded = [
        (lm.compress(video, keep=keep, **settings), question)
        for (video, question), keep in zip(items(2), budgets, strict=True)
    ]
    many = lm.ask_many(encoded, **GREEDY)
    assert [facts(answer) for answer in many] == [facts(answer) for answer in singles]
    assert [facts(answer)[0] for answer in lm.ask_many(encoded[::-1], **GREEDY)] == [one.text for one in singles[::-1]]


def test_padding_is_no_matter_of_repetition_rules(loaded, monkeypatch):
    lm = loaded("llava_onevision")
    for name, value in (("repetition_penalty", 1.8), ("no_repeat_ngram_size", 2)):
        monkeypatch.setattr(lm.family.model.generation_config, name, value)
    settings = {"keep": 0.4, **GREEDY}
    with Logits(lm.family.model) as seen:
        lm.ask(*items()[2], **settings)  # the shortest prompt
    likeliest = int(seen[0].argmax())
    monkeypatch.setattr(lm.family.model.generation_config, "pad_token_id", likeliest)
    given, run = [], vidcomp.engine.together.run_stock
    monkeypatch.setattr(
        "vidcomp.engine.together.run_stock", lambda *args, **more: given.append(more) or run(*args, **more)
    )
    singles, many, _ = compared(lm, items(), settings)
    assert [answer.text for answer in many] == [answer.text for answer in singles]
    for ids, mask in zip(given[0]["input_ids"], given[0]["attention_mask"], strict=True):
        assert set(ids[mask == 0].tolist()) <= set(ids[mask == 1].tolist())  # nothing is held for said that was not


@pytest.fixture
def sampled(samples):
    """Files of the embedded model's world with questions whose answers have other lengths."""
    files = sorted(samples.glob("*.mp4"))[:4]
    questions = ("what happens at the end?", "how many shapes are there?", "what happens?", "first?")
    return list(zip(files, questions, strict=False))


def test_answers_that_end_early_stop_counting(nano, sampled):
    singles, many, apart = compared(nano, sampled, {"keep": 0.25})
    assert len({answer.ledger.new_tokens for answer in singles}) > 1 and {one.finish for one in singles} == {"stop"}
    assert [facts(answer) for answer in many] == [facts(answer) for answer in singles]
    assert apart < 1e-4
    last = [answer.ledger.stages[-1].seconds for answer in many]
    longest = max(range(len(many)), key=lambda place: many[place].ledger.new_tokens)
    assert last[longest] == max(last)


def test_a_bad_file_is_an_error_in_its_place(nano, sampled, tmp_path):
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"no video")
    settings = {"keep": 0.25, "batch_size": 2}
    alone = [answer.text for answer in nano.ask_many(sampled, **settings)]
    found = nano.ask_many([sampled[0], (bad, "first?"), (sampled[1][0], ""), *sampled[1:]], **settings)
    assert isinstance(found[1], InputError) and isinstance(found[2], UsageError)
    assert [answer.text for answer in (found[0], *found[3:])] == alone


def test_logits_that_are_not_finite_end_their_sequence_alone(nano, sampled, monkeypatch):
    prepare, alone = nano.prepare, nano.ask_many(sampled, keep=0.25)

    def spoilt(encoded, question, *rest):
        prefill = prepare(encoded, question, *rest)
        if question == sampled[1][1]:
            prefill.rows[-1] = torch.nan
        return prefill

    monkeypatch.setattr(nano, "prepare", spoilt)
    found = nano.ask_many(sampled, keep=0.25)
    assert isinstance(found[1], ModelError) and "not finite" in str(found[1])
    assert [answer.text for answer in found[:1] + found[2:]] == [answer.text for answer in alone[:1] + alone[2:]]


def test_a_group_that_does_not_fit_is_halved(nano, sampled, monkeypatch):
    alone, batches, generate = nano.ask_many(sampled, keep=0.25), [], nano.family.model.generate

    def small(**inputs):
        batches.append(len(inputs["input_ids"]))
        if batches[-1] > 2:
            raise torch.OutOfMemoryError("out of memory")
        return generate(**inputs)

    monkeypatch.setattr(nano.family.model, "generate", small)
    found = nano.ask_many(sampled, keep=0.25)
    assert batches == [4, 2, 2]
    assert [answer.text for answer in found] == [answer.text for answer in alone]
    monkeypatch.setattr("vidcomp.engine.together.run_stock", lambda *args, **inputs: None)  # groups of one do without
    assert [answer.text for answer in nano.ask_many(sampled, keep=0.25, batch_size=1)] == [one.text for one in alone]


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"positions": "ppe"}, "several positions"),
        ({"inner": "shortv:n=1"}, "pass layers unchanged"),
        ({"inner": "dycoke"}, "read part of the keys"),
        ({"inner": "pyramiddrop:positions=compact"}, "renumbered"),
        ({"temperature": 0.7}, "drawn"),
    ],
)
def test_what_cannot_stand_beside_others_is_asked_alone_and_says_so(nano, sampled, settings, reason):
    asked, settings = sampled[:2], {"method": "holitom", "keep": 0.25, **settings}
    many = nano.ask_many(asked, **settings)
    assert [facts(answer) for answer in many] == [facts(nano.ask(*item, **settings)) for item in asked]
    assert all(any("alone" in note and reason in note for note in answer.notes) for answer in many)


def test_one_request_is_ask_to_the_bit(nano, sampled):
    with Logits(nano.family.model) as alone:
        answer = nano.ask(*sampled[0], keep=0.25)
    with Logits(nano.family.model) as many:
        (found,) = nano.ask_many(sampled[:1], keep=0.25)
    assert facts(found) == facts(answer) and found.notes == answer.notes
    assert all(torch.equal(one, other) for one, other in zip(alone, many, strict=True))


def test_what_is_wrong_for_all_is_raised_before_a_video_is_read(nano, sampled):
    for wrong in ({"keep": 7}, {"method": "no such"}, {"batch_size": 0}, {"batch": 2}):
        with pytest.raises(UsageError):
            nano.ask_many(sampled, **wrong)
    with pytest.raises(UsageError, match="items"):
        nano.ask_many([sampled[0][0]])
    assert nano.ask_many([]) == []
