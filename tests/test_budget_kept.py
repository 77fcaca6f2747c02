# SPDX-License-Identifier: Apache-2.0
"""The budget means what it says: counts told beforehand, exact numbers on request, and a word where it is not met."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from clips import make_clip
from test_methods_properties import make_view
from typer.testing import CliRunner

import vidcomp
from vidcomp.cli.app import app
from vidcomp.config import OuterConfig, RunConfig
from vidcomp.core.tokens import Reduction, TokenView, identity
from vidcomp.engine.conversation import Conversation
from vidcomp.engine.outer import outer_notes, reduced
from vidcomp.errors import NotApplied, UsageError
from vidcomp.methods import get_method, list_methods, method_names
from vidcomp.methods.base import Method, settled
from vidcomp.methods.blocks.select import keep_only
from vidcomp.methods.holitom import Holitom, default_tau
from vidcomp.spans import every_frame

QUESTION = "what happens at the end?"
TOTAL = 8 * 36


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return make_clip(tmp_path_factory.mktemp("clips") / "clip.mp4", frames=40)


@pytest.fixture(scope="module")
def watched(nano, clip):
    return nano.encode(clip, signals=nano.family.signals)


@pytest.mark.parametrize("name", method_names())
@pytest.mark.parametrize("count", [1, 29, 200, 287])
def test_every_method_keeps_exactly_the_tokens_that_are_asked_for(nano, watched, name, count):
    encoded = nano.compress(watched, method=name, keep_tokens=count, question=QUESTION)
    assert len(encoded.tokens) == encoded.ledger.tokens.kept == count
    assert not any("were asked for" in note for note in encoded.ledger.notes)
    assert sum(span.kept for span in encoded.ledger.spans) == count


@pytest.mark.parametrize("count", [TOTAL, TOTAL + 1, 10**6])
def test_as_many_tokens_as_there_are_is_the_plain_model(nano, clip, count):
    plain = nano.ask(clip, QUESTION, keep=1.0, max_new_tokens=6)
    answer = nano.ask(clip, QUESTION, keep_tokens=count, max_new_tokens=6)
    assert (answer.text, answer.inner, answer.ledger.layer_rows) == (plain.text, "none", plain.ledger.layer_rows)
    assert answer.ledger.keep_requested == 1 and not answer.notes


def test_frames_that_merge_in_the_tower_leave_fewer_tokens_than_asked_for(nano, clip):
    merging = {"encoder": "earlytom:tau=-1,window=9", "inner": "none"}
    answer = nano.ask(clip, QUESTION, keep_tokens=TOTAL - 1, method="uniform", max_new_tokens=2, **merging)
    assert answer.ledger.tokens.kept < TOTAL - 1
    assert any(note.endswith("frames merged in the vision tower") for note in answer.notes)


def test_frames_that_are_not_encoded_leave_no_token_less(nano, clip):
    answer = nano.ask(clip, QUESTION, keep_tokens=TOTAL - 1, skip_repeats=-1, max_new_tokens=2)
    assert answer.ledger.frames_encoded == 1
    assert answer.ledger.tokens.kept == TOTAL - 1


def test_one_budget_at_a_time(nano):
    with pytest.raises(UsageError, match="--keep-tokens together with --keep"):
        RunConfig.from_flat(keep=0.1, keep_tokens=5)
    for wrong in (0, -1):
        with pytest.raises(UsageError, match="--keep-tokens"):
            RunConfig.from_flat(keep_tokens=wrong)
    tokens = RunConfig.from_flat(keep_tokens=5)
    assert "keep" not in tokens.flat() and RunConfig.from_flat(**tokens.flat()) == tokens
    assert tokens.replace(frames=4).outer.keep_tokens == 5
    share = tokens.replace(keep=0.3)
    assert (share.outer.keep, share.outer.keep_tokens) == (0.3, None)
    assert share.replace(keep_tokens=7).outer.keep_tokens == 7
    with pytest.raises(UsageError, match="together"):
        share.replace(keep=0.2, keep_tokens=7)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--keep", "0.1", "--keep-tokens", "5"], "--keep-tokens together with --keep"),
        (["--keep-tokens", "0"], "--keep-tokens 0"),
        (["--keep-tokens", "many"], "--keep-tokens"),
    ],
)
def test_the_command_line_takes_one_budget(clip, options, words):
    found = CliRunner().invoke(app, ["ask", str(clip), QUESTION, *options])
    assert found.exit_code != 0 and (words in str(found.exception) or words in found.output)


def test_a_conversation_changes_from_one_budget_to_the_other(nano, clip):
    talk = Conversation(nano, clip, keep_tokens=20)
    assert len(talk.open().tokens) == 20
    talk.change(method="uniform")
    assert len(talk.open().tokens) == 20
    talk.change(keep=0.25)
    assert len(talk.open().tokens) == 72
    talk.change(keep_tokens=30)
    assert len(talk.open().tokens) == 30


@pytest.mark.parametrize(
    ("method", "keep", "words"),
    [
        ("dycoke", 0.05, "kept 25 % of the tokens where 5 % were asked for: dycoke keeps the first of every four"),
        ("none", 0.5, "kept 100 % of the tokens where 50 % were asked for: none keeps every token"),
        ("evs", 0.02, "kept 12.5 % of the tokens where 2 % were asked for: evs keeps the first frame whole"),
        ("fopru:mode=rows", 0.01, None),  # a row instead of three tokens: rounding
        ("frames", 0.1, None),  # 36 for 29: a fourth more
        ("uniform", 0.03, None),
    ],
)
def test_an_unmet_budget_is_told(nano, watched, method, keep, words):
    encoded = nano.compress(watched, method=method, keep=keep)
    told = [note for note in encoded.ledger.notes if "were asked for" in note]
    off = encoded.ledger.tokens.kept - TOTAL * keep
    assert (abs(off) > max(4.5, TOTAL * keep / 5)) == bool(told)
    assert words is None or (len(told) == 1 and words in told[0])


def test_a_still_video_keeps_less_and_says_so():
    view = make_view("still", (8, 36, 16), torch.float32, 0)
    plan, config = every_frame(8), OuterConfig(keep=0.9)
    reduction, _ = reduced(view, plan, Holitom(), config)
    notes = list(outer_notes(reduction, plan, Holitom(), config))
    assert notes == [
        "kept 12.5 % of the tokens where 90 % were asked for: holitom stores static positions once, "
        "and rounds up per frame"
    ]


@pytest.mark.parametrize("shape", [(1, 1, 4), (1, 4, 4), (2, 4, 4), (3, 1, 4)])
@pytest.mark.parametrize("name", method_names())
def test_a_few_tokens_are_not_worth_a_word(name, shape):
    view, plan = make_view("noise", shape, torch.float32, 0), every_frame(shape[0])
    for keep in (0.01, 0.1, 0.6):
        config, method = OuterConfig(keep=keep), get_method(name)
        reduction, _ = reduced(view, plan, method, config)
        told = [note for note in outer_notes(reduction, plan, method, config) if "asked" in note]
        assert not told or reduction.kept > 4


@dataclass(frozen=True)
class Promises(Method):
    """Says that it is exact and keeps one token."""

    name: ClassVar[str] = "promises"
    summary: ClassVar[str] = "for the tests"
    source: ClassVar[str] = "nowhere"
    exact: ClassVar[bool] = True

    def __call__(self, view: TokenView, keep: float) -> Reduction:
        return keep_only(torch.tensor([0]), view.total)


class Bare:
    """A method that derives from nothing."""

    name, needs, inner = "bare", frozenset(), None

    def __call__(self, view: TokenView, keep: float) -> Reduction:
        return identity(*view.features.shape[:2])


def test_a_promised_count_is_checked():
    view, plan = make_view("noise", (4, 9, 8), torch.float32, 0), every_frame(4)
    with pytest.raises(NotApplied, match="kept 1 tokens and had promised 18"):
        reduced(view, plan, Promises(), OuterConfig(keep=0.5))
    assert reduced(view, plan, Bare(), OuterConfig(keep=0.5))[0].kept == 36
    assert reduced(view, plan, Bare(), OuterConfig(keep=0.5, keep_tokens=5))[0].kept == 5


def test_the_list_says_what_is_exact():
    for row in list_methods(built_in=True):
        method = get_method(row.name)
        assert row.exact == method.exact and row.rule == method.rule
        if row.exact:
            differs = [k for k in (0.01, 0.05, 0.35, 0.5) if method.count(7, (5, 5), k) != -int(-175 * k // 1)]
            assert bool(differs) == bool(row.rule), row.name
    assert not get_method("vidcom2", official=True).exact and get_method("vidcom2").exact


def test_settings_that_follow_the_request():
    assert settled(Holitom(), 0.1).tau == default_tau(0.1) and settled(Holitom(tau=0.7), 0.1).tau == 0.7
    for name in ("random", "kitoke"):
        drawn = settled(get_method(name), 0.1, seed=3)
        assert drawn.seed == 3 and settled(get_method(name, seed=0), 0.1, seed=3).seed == 0
    assert settled(get_method("uniform"), 0.1, seed=3) == get_method("uniform")
    assert isinstance(settled(Bare(), 0.1, seed=3), Bare)


def test_the_seed_of_the_run_reaches_methods_that_draw(nano, watched):
    """By name and as an object, here and in a conversation."""
    drawn = {}
    for seed in (1, 2):
        for method in ("random", get_method("random")):
            anchors = nano.compress(watched, method=method, keep=0.2, seed=seed).reduction.anchors
            assert torch.equal(drawn.setdefault(seed, anchors), anchors)
    assert not torch.equal(drawn[1], drawn[2])
    fixed = nano.compress(watched, method="random:seed=2", keep=0.2, seed=1).reduction.anchors
    assert torch.equal(fixed, drawn[2])


def test_brightness_is_no_frame_feature(nano, clip):
    """luma finds spans and repeats; what methods compare frames by are the model's own features then."""
    tower, luma, dino = (
        nano.encode(clip, method="longvu", segmenter=name, skip_repeats="off") for name in ("tower", "luma", "dinov2")
    )
    assert luma.seen is None and luma.segments is not None
    assert torch.equal(luma.view.frame_features, tower.view.frame_features)
    assert luma.view.frame_features.shape[1] == luma.view.features.shape[2]
    assert dino.seen is not None and torch.equal(dino.view.frame_features, dino.seen)
    for video, noted in ((tower, True), (luma, True), (dino, False)):
        notes = nano.compress(video, method="longvu", question=QUESTION).ledger.notes
        assert any("--segmenter dinov2" in note and "own features" in note for note in notes) == noted
        again = video.compress(method="longvu", question=QUESTION, segmenter="dinov2")
        assert torch.equal(again.encoded.view.frame_features, dino.seen)


def test_the_drop_in_keeps_exact_numbers(replicas):
    from families import load, moving_square, stock_inputs

    family = load(replicas("llava_onevision"))
    clip = moving_square(3)
    layout = family.layout([0.0, 1.0, 2.0], *clip.shape[1:3], 3.0)
    inputs, total = stock_inputs(family, clip, layout), layout.slices * layout.tokens
    with torch.no_grad():
        plain = family.model(**inputs, logits_to_keep=1).logits
        with vidcomp.attach(family.model, keep_tokens=50) as run:
            family.model(**inputs, logits_to_keep=1)
        assert run.ledgers[-1].tokens.kept == 50 and not run.ledgers[-1].notes
        with vidcomp.attach(family.model, keep_tokens=total) as run:
            assert torch.equal(family.model(**inputs, logits_to_keep=1).logits, plain)
        with vidcomp.attach(family.model, method="dycoke", keep=0.02) as run:
            family.model(**inputs, logits_to_keep=1)
        assert "dycoke keeps the first" in run.ledgers[-1].notes[0]
    with pytest.raises(UsageError, match="together"):
        vidcomp.attach(family.model, keep=0.5, keep_tokens=50)
