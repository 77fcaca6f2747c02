# SPDX-License-Identifier: Apache-2.0
"""The whole flow through the Python API: exactness at keep 1, budgets, counts measured in the forward pass, signals."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from clips import make_clip

import vidcomp
from vidcomp.config import RunConfig
from vidcomp.engine.record import check_prepared
from vidcomp.errors import InputError, NotApplied, UsageError
from vidcomp.tower.probe import attention_of, encoder_layers, received_attention

QUESTION = "what happens at the end?"


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return make_clip(tmp_path_factory.mktemp("clips") / "clip.mp4", frames=40)


def stock_answer(lm, pixels, frames, new_tokens):
    """The stock model on processor-style inputs: ids with expanded placeholders, and the pixel tensor."""
    family = lm.family
    layout = family.layout([0.0] * frames, 96, 144)
    ids = family.prompt(QUESTION, layout).full_ids(layout.tokens, 1, family.visual_id)[None]
    return ids, lm.family.model.generate(
        input_ids=ids, pixel_values_videos=pixels[None], attention_mask=torch.ones_like(ids), max_new_tokens=new_tokens,
        do_sample=False, output_logits=True, return_dict_in_generate=True,
    )  # fmt: skip


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
@pytest.mark.parametrize("positions", ["compact", "keep"])
def test_keep_1_is_bit_equal_to_the_stock_model(clip, attn, positions):
    with vidcomp.load("nano", device="cpu", attn=attn) as lm:
        encoded = lm.compress(clip, keep=1.0, positions=positions)
        prefill = lm.prepare(encoded, QUESTION)
        pixels = lm.family.pixels(encoded.encoded.frames.pixels)
        _, stock = stock_answer(lm, pixels, len(pixels), 6)
        ours = lm.family.model.generate(
            inputs_embeds=prefill.rows[None], position_ids=prefill.positions, past_key_values=prefill.cache,
            attention_mask=torch.ones(1, len(prefill.rows), dtype=torch.long), max_new_tokens=6, do_sample=False,
            output_logits=True, return_dict_in_generate=True,
        )  # fmt: skip
    assert all(torch.equal(a, b) for a, b in zip(stock.logits, ours.logits, strict=True))


@pytest.mark.parametrize("name", ["llava_onevision", "llava_onevision_tied"])
def test_keep_1_is_bit_equal_on_replicas_of_the_hub_repositories(clip, replicas, name):
    with vidcomp.load(str(replicas(name)), device="cpu", frames=4) as lm:
        answer = lm.ask(clip, QUESTION, keep=1.0, max_new_tokens=6)
        pixels = lm.family.pixels(lm.encode(clip).frames.pixels)
        ids, stock = stock_answer(lm, pixels, 4, 6)
        text = lm.family.tokenizer.decode(stock.sequences[0, ids.shape[1] :], skip_special_tokens=True)
    assert answer.text == text.strip()
    assert answer.ledger.tokens.sequence == ids.shape[1] == 4 * 196 + 1 + answer.ledger.tokens.text


def test_the_report_counts_what_the_model_read(nano, clip):
    answer = nano.ask(clip, QUESTION, keep=0.25, max_new_tokens=4)
    tokens, ledger = answer.ledger.tokens, answer.ledger
    assert tokens.uncompressed == 8 * 36
    assert tokens.kept <= 0.25 * tokens.uncompressed + 8
    assert tokens.sequence == tokens.kept + tokens.separators + tokens.text == ledger.layer_rows[0]
    assert tokens.layer == 3
    assert ledger.layer_rows == [tokens.sequence] * 3 + [
        tokens.sequence - tokens.kept - 1 + round((tokens.kept + 1) / 2)
    ]
    assert tokens.after_llm_layer in (round((tokens.kept + 1) / 2), round((tokens.kept + 1) / 2) - 1)
    assert sum(span.kept for span in ledger.spans) == tokens.kept
    assert [stage.name for stage in ledger.stages] == [
        "read", "encode", "compress", "prefill", "llm layer 3", "generate",
    ]  # fmt: skip
    assert 0 < ledger.time_to_first_token <= ledger.seconds * 1.01


@pytest.mark.parametrize("method", ["random", "uniform"])
@pytest.mark.parametrize("keep", [0.1, 0.25, 0.5])
def test_controls_keep_exactly_their_budget(nano, clip, method, keep):
    tokens = nano.ask(clip, QUESTION, keep=keep, method=method, max_new_tokens=1).ledger.tokens
    assert tokens.kept == -int(-8 * 36 * keep // 1)
    assert tokens.layer is None


def test_none_keeps_everything_and_says_so(nano, clip):
    answer = nano.ask(clip, QUESTION, keep=0.1, method="none", max_new_tokens=1)
    assert answer.ledger.tokens.kept == 8 * 36
    assert answer.to_dict()["keep"] == {"requested": 0.1, "actual": 1.0}


def test_the_json_object_is_schema_1(nano, clip):
    record = json.loads(json.dumps(nano.ask(clip, QUESTION, keep=0.1, max_new_tokens=4).to_dict()))
    assert record["schema"] == 1
    assert record["status"] == "ok"
    assert set(record["video"]) >= {"path", "duration_seconds", "frames_total", "width", "height"}
    assert record["question"] == QUESTION
    assert isinstance(record["answer"], str)
    assert record["model"] == "nano"
    assert record["method"] == "holitom"
    assert record["keep"]["requested"] == 0.1
    assert set(record["tokens"]) >= {"uncompressed", "kept", "after_llm_layer", "layer"}
    assert record["frames"]["sampled"] == record["frames"]["encoded"] == 8
    assert record["frames"]["times"][0] == 0.0
    assert record["spans"][0][0] == 0
    assert record["spans"][-1][1] == 7
    assert all(set(stage) == {"name", "seconds", "in", "out", "unit"} for stage in record["stages"])
    assert set(record["seconds"]) == {"total", "time_to_first_token"}
    assert set(record["versions"]) >= {"vidcomp", "torch", "transformers"}
    assert record["seed"] == 0


def test_streaming_gives_the_same_words(nano, clip):
    whole = nano.ask(clip, QUESTION, keep=0.25, max_new_tokens=8).text
    assert "".join(nano.stream(clip, QUESTION, keep=0.25, max_new_tokens=8)).strip() == whole


def test_errors_surface_from_a_stream(nano, tmp_path):
    with pytest.raises(InputError):
        list(nano.stream(tmp_path / "nothing.mp4", QUESTION))


def test_one_encode_serves_many_questions(nano, clip, monkeypatch):
    encoded = nano.compress(clip, keep=0.25)
    alone = [nano.ask(clip, q, keep=0.25, max_new_tokens=6).text for q in ("first?", "what color is the circle?")]
    monkeypatch.setattr(nano.family, "encode", None)  # a second vision pass would fail
    assert [nano.ask(encoded, q, max_new_tokens=6).text for q in ("first?", "what color is the circle?")] == alone
    with pytest.raises(UsageError, match="keep cannot change"):
        nano.ask(encoded, QUESTION, keep=0.5)


def test_sampling_repeats_with_its_seed(nano, clip):
    settings = dict(keep=0.25, temperature=3.0, max_new_tokens=12)
    one, same, other = (nano.ask(clip, QUESTION, seed=seed, **settings).text for seed in (1, 1, 2))
    assert one == same
    assert one != other


def test_the_same_input_gives_the_same_tokens(nano, clip):
    first, second = (nano.compress(clip, keep=0.2) for _ in range(2))
    assert torch.equal(first.reduction.anchors, second.reduction.anchors)
    assert torch.equal(first.tokens.features, second.tokens.features)


def test_salience_is_the_towers_attention_pooled_like_the_features(nano, clip):
    with vidcomp.load("nano", device="cpu", attn="eager") as lm:
        watched = lm.encode(clip, method="holitom")
        pixels = lm.family.pixels(watched.frames.pixels)
        tower = lm.family.model.model.vision_tower
        attentions = tower(pixels, output_attentions=True).attentions[-1]
    received = attentions.mean(1).mean(1).view(-1, 1, 12, 12)
    expected = torch.nn.functional.interpolate(received, size=(6, 6), mode="bilinear").flatten(1)
    torch.testing.assert_close(watched.view.salience, expected, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(nano.encode(clip).view.salience, expected, rtol=1e-4, atol=1e-6)
    assert nano.encode(clip, method="random").view.salience is None


def test_probing_leaves_the_features_as_they_are(nano, clip):
    with_probe, without = (nano.encode(clip, method=method).view.features for method in ("holitom", "random"))
    assert torch.equal(with_probe, without)


def test_received_attention_in_blocks(monkeypatch):
    query, key = torch.randn(2, 4, 50, 8), torch.randn(2, 2, 50, 8)
    whole = (query @ key.repeat_interleave(2, 1).transpose(2, 3) * 0.3).softmax(-1).mean((1, 2))
    monkeypatch.setattr("vidcomp.tower.probe._SCRATCH_BYTES", 5000)
    torch.testing.assert_close(received_attention(query, key, 0.3), whole)


def test_frames_are_encoded_in_chunks(nano, clip, monkeypatch):
    whole = nano.encode(clip, frames=8).view
    monkeypatch.setattr(type(nano.family), "chunk", 3)
    parts = nano.encode(clip, frames=8).view
    torch.testing.assert_close(parts.features, whole.features, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(parts.salience, whole.salience, rtol=1e-4, atol=1e-7)


def test_a_method_object_can_be_passed(nano, clip):
    method = vidcomp.get_method("holitom", tau=0.5)
    answer = nano.ask(clip, QUESTION, method=method, keep=0.25, max_new_tokens=2)
    assert answer.method == "holitom:tau=0.5"
    by_name = nano.ask(clip, QUESTION, method="holitom:tau=0.5", keep=0.25, max_new_tokens=2)
    assert by_name.ledger.tokens == answer.ledger.tokens


def test_automatic_positions_are_the_checkpoints_choice(nano, clip, replicas):
    assert nano.compress(clip, keep=0.25).config.outer.positions == "keep"
    assert nano.compress(clip, keep=0.25, positions="compact").config.outer.positions == "compact"
    with vidcomp.load(str(replicas("llava_onevision_tied")), device="cpu", frames=2) as lm:
        assert lm.compress(clip, keep=0.25).config.outer.positions == "compact"


def test_kept_positions_are_those_of_the_full_sequence(nano, clip):
    encoded = nano.compress(clip, keep=0.25, positions="keep")
    prefill = nano.prepare(encoded, QUESTION)
    before = len(nano.family.prompt(QUESTION, encoded.encoded.layout).before)
    kept = prefill.positions[0, before : before + len(encoded.tokens)] - before
    assert torch.equal(kept, encoded.reduction.anchors)
    assert prefill.positions[0, before + len(encoded.tokens)] == before + 8 * 36


def unreached(cache):
    """A stage that the decoder has no layer for."""
    vars(cache.plan)["stages"] = cache.plan.stages | {99}


def unread(cache):
    """Decode steps that were to read part of the keys, from a layer that does not exist."""
    vars(cache.plan)["read_layer"] = 99


def unseen(cache):
    """A cache that hooks pass by."""
    cache.reduce_before = lambda layer, module, hidden, rotary: hidden


@pytest.mark.parametrize(
    ("spoil", "words"), [(unreached, "did not run"), (unread, "read every key"), (unseen, "hooks did not run")]
)
def test_asked_for_but_not_applied_is_an_error_before_a_word_is_said(nano, clip, monkeypatch, spoil, words):
    prepare, said = nano.prepare, []

    def spoiled(*args):
        prefill = prepare(*args)
        spoil(prefill.cache)
        return prefill

    nano.ask(clip, QUESTION, keep=0.25, on_text=said.append)
    assert said  # so the last line can fail
    said.clear()
    monkeypatch.setattr(nano, "prepare", spoiled)
    with pytest.raises(NotApplied, match=words):
        nano.ask(clip, QUESTION, keep=0.25, on_text=said.append)
    assert not said


def test_what_is_read_must_be_what_was_prepared(nano, clip):
    encoded = nano.compress(clip, keep=0.25)
    prefill = nano.prepare(encoded, QUESTION)
    check_prepared(len(encoded.tokens), prefill)
    with pytest.raises(NotApplied, match="would enter the model"):
        check_prepared(len(encoded.tokens) + 1, prefill)


def test_a_model_whose_hooks_are_gone_says_that_nothing_was_applied(clip):
    lm = vidcomp.load("nano", device="cpu")
    lm._attachment.remove()
    with pytest.raises(NotApplied, match="without the compressor"):
        lm.ask(clip, QUESTION, keep=0.25)


def test_too_long_a_sequence_is_refused(nano, clip, monkeypatch):
    monkeypatch.setattr(nano.family.model.config.get_text_config(), "max_position_embeddings", 100)
    with pytest.raises(UsageError, match="made for 100"):
        nano.ask(clip, QUESTION, keep=1.0)
    assert nano.ask(clip, QUESTION, keep=0.1, positions="compact", max_new_tokens=1).ledger.tokens.kept < 100


def test_two_threads_may_encode_at_once(nano, clip):
    from concurrent.futures import ThreadPoolExecutor

    alone = nano.encode(clip).view
    with ThreadPoolExecutor(3) as pool:
        views = [watched.view for watched in pool.map(lambda _: nano.encode(clip), range(6))]
    assert all(torch.equal(view.salience, alone.salience) for view in views)
    configs = [type(attention_of(layer).config).__name__ for layer in encoder_layers(nano.family.tower)]
    assert "_InterceptedConfig" not in configs


def test_the_threshold_follows_the_requested_keep(nano, clip, monkeypatch):
    """Frames that merged in the tower raise the share that the method is called with; its default threshold follows
    the request."""
    from vidcomp.methods.holitom import Holitom

    seen = []
    call = Holitom.__call__
    monkeypatch.setattr(
        Holitom, "__call__", lambda self, view, keep: seen.append((self.tau, keep)) or call(self, view, keep)
    )
    nano.compress(clip, keep=0.1, encoder="earlytom:tau=-1,window=9", inner="none")
    (tau, keep), *_ = seen
    assert tau == 0.65
    assert keep > 0.1


def test_settings_are_checked_before_anything_runs(nano, clip):
    for bad in ({"keep": 0}, {"keep": 1.5}, {"frames": 0}, {"fps": -1}, {"segmenter": "sift"}, {"what": 1}):
        with pytest.raises(UsageError):
            nano.ask(clip, QUESTION, **bad)
    with pytest.raises(UsageError, match="device cannot change"):
        nano.ask(clip, QUESTION, device="cuda")
    with pytest.raises(UsageError, match="question is empty"):
        nano.ask(clip, "  ")
    assert RunConfig.from_flat(keep=0.3).replace(frames=4).flat()["keep"] == 0.3


def test_closing_takes_all_hooks_off():
    lm = vidcomp.load("nano", device="cpu")
    count = lambda: sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in lm.family.model.modules())  # noqa: E731
    assert count() > 0
    lm.close()
    assert count() == 0


def test_frames_are_encoded_while_later_ones_are_decoded(nano, clip, monkeypatch):
    """Chunk by chunk as frames arrive, with the bits of one go; a reader that takes over starts anew."""
    from vidcomp.engine.streaming import EagerEncoder
    from vidcomp.video import Partial

    monkeypatch.setattr(type(nano.family), "chunk", 3)
    watched = nano.encode(clip, frames=8)
    frames, signals = watched.frames, frozenset({"salience"})
    whole = nano.family.encode(frames.pixels, signals, watched.layout)
    eager, other = EagerEncoder(nano.family, signals), np.zeros_like(frames.pixels)
    calls = []
    encode = type(nano.family).encode

    def counted(self, pixels, *rest):
        calls.append(len(pixels))
        return encode(self, pixels, *rest)

    monkeypatch.setattr(type(nano.family), "encode", counted)
    eager(Partial(other, 5, frames.times, frames.info.duration_seconds))
    for ready in (1, 3, 4, 7, 8):
        eager(Partial(frames.pixels, ready, frames.times, frames.info.duration_seconds))
    assert calls == [3, 3, 3, 2]
    assert torch.equal(eager.result().features, whole.features)
    assert torch.equal(watched.view.features, whole.features)
    assert torch.equal(watched.view.salience, whole.signals["salience"])
