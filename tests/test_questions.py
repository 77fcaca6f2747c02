# SPDX-License-Identifier: Apache-2.0
"""Many questions about one video: what a second question costs, and that its answer is the one it would get alone."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from clips import make_clip
from schedule_runs import FACTS, TABLE
from test_inllm import AFTER, BEFORE, STEPS, VISUAL, Drop, run, sequence, with_answer
from tiny import tiny_model

import vidcomp
from vidcomp.engine.decoder import Attachment, CompressedCache, PrefixCache, RowPlan
from vidcomp.engine.record import Recorder
from vidcomp.errors import NotApplied, UsageError
from vidcomp.schedules import get_schedule
from vidcomp.schedules.holitom import HolitomInner

QUESTIONS = ("what happens at the end?", "first?", "what color is the circle?")


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return make_clip(tmp_path_factory.mktemp("clips") / "clip.mp4", frames=40)


def logits(lm, prefill, steps=6):
    """[steps, V] of the answer to a prepared request."""
    embeds = {} if prefill.cached else {"inputs_embeds": prefill.rows[None]}
    out = lm.family.model.generate(
        input_ids=prefill.ids[None], position_ids=prefill.positions, past_key_values=prefill.cache,
        attention_mask=torch.ones(1, len(prefill.rows), dtype=torch.long), max_new_tokens=steps, do_sample=False,
        output_logits=True, return_dict_in_generate=True, **embeds,
    )  # fmt: skip
    return torch.stack(out.logits)[:, 0]


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
@pytest.mark.parametrize(
    "settings",
    [{"keep": 1.0}, {"keep": 0.25, "inner": "none"}, {"keep": 0.1, "method": "uniform", "positions": "keep"}],
)
def test_a_question_alone_and_a_later_question_get_the_same_logits(replicas, clip, attn, settings):
    with vidcomp.load(str(replicas("llava_onevision_tied")), device="cpu", attn=attn, frames=4) as lm:
        encoded = lm.compress(clip, **settings)
        for question in QUESTIONS:
            alone = logits(lm, lm.prepare(encoded, question))
            later = logits(lm, encoded.prefix.continued(lm.family, lm.prepare(encoded, question), Recorder()))
            assert (alone - later).abs().max() < 1e-4


@pytest.mark.parametrize("settings", [{"keep": 1.0}, {"keep": 0.25}, {"keep": 0.5, "method": "uniform"}])
def test_the_second_answer_costs_no_vision_pass_and_no_visual_prefill(nano, clip, settings):
    encoded = nano.compress(clip, **settings)
    seen = []
    layers = nano.family.model.get_decoder().layers
    handles = [layer.register_forward_hook(lambda _, args, out: seen.append(args[0].shape[1])) for layer in layers]
    handles.append(nano.family.tower.register_forward_hook(lambda *_: seen.append("tower")))
    try:
        first = nano.ask(encoded, QUESTIONS[0], max_new_tokens=1).ledger
        assert max(seen) > len(encoded.tokens)  # the first question reads the video, so the counters count
        seen.clear()
        second = nano.ask(encoded, QUESTIONS[1], max_new_tokens=1).ledger
    finally:
        for handle in handles:
            handle.remove()
    asked = len(nano.family.prompt(QUESTIONS[1], encoded.encoded.layout).after)
    assert seen == [asked] * 4 == second.layer_rows
    assert second.tokens.cached == encoded.ledger.tokens.kept + second.tokens.sequence - asked - second.tokens.kept
    assert [stage.name for stage in first.stages if stage.reused] == []
    assert [stage.name for stage in second.stages if stage.reused] == ["read", "encode", "compress"]
    assert "prefill video" in [stage.name for stage in first.stages]
    assert "prefill video" not in [stage.name for stage in second.stages]
    assert second.seconds == sum(stage.seconds for stage in second.stages[3:])  # what was reused costs nothing again
    assert second.stages[0].to_dict()["reused"] is True


def test_answers_do_not_depend_on_what_was_asked_before(nano, clip):
    one, other = nano.compress(clip, keep=0.25), nano.compress(clip, keep=0.25)
    forth = {q: nano.ask(one, q).text for q in QUESTIONS}
    back = {q: nano.ask(other, q).text for q in reversed(QUESTIONS)}
    assert forth == back == {q: nano.ask(one, q).text for q in QUESTIONS}


def test_threads_may_ask_one_video_at_once(nano, clip):
    encoded = nano.compress(clip, keep=0.25)
    alone = [nano.ask(encoded, q).text for q in QUESTIONS]
    fresh = nano.compress(clip, keep=0.25)
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(lambda q: nano.ask(fresh, q).text, QUESTIONS)) == alone


def test_an_encoded_video_keeps_its_settings(nano, clip):
    encoded = nano.compress(clip, keep=0.25)
    with pytest.raises(UsageError, match="keep cannot change after compress"):
        nano.ask(encoded, QUESTIONS[0], keep=0.5)


def test_a_model_whose_hooks_are_gone_does_not_continue_either(clip):
    lm = vidcomp.load("nano", device="cpu")
    encoded = lm.compress(clip, keep=0.25)
    lm._attachment.remove()
    with pytest.raises(NotApplied, match="without the compressor"):
        lm.ask(encoded, QUESTIONS[0])


# -- stages that look at the question, on a fork of the cache


def forked(model, rows, flags, schedule, facts=None):
    """Read everything before the question, then ask on a fork: its output, the fork, and the shared cache."""
    text, length = model.config.text_config, BEFORE + VISUAL
    plan = RowPlan(flags, text.num_hidden_layers, schedule, facts or {})
    shared = PrefixCache(text, plan, length)
    embedding = model.get_input_embeddings()
    ids = torch.full((1, len(rows)), 7)
    ids[0, length:] = torch.arange(20, 20 + AFTER)
    with Attachment(model), torch.no_grad():
        rows[length:] = embedding(ids[0, length:])
        model.get_decoder()(inputs_embeds=rows[None, :length], past_key_values=shared, use_cache=True)
        fork = shared.fork()
        out = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), past_key_values=fork, do_sample=False,
            position_ids=torch.arange(len(rows))[None], max_new_tokens=STEPS, output_logits=True,
            return_dict_in_generate=True,
        )  # fmt: skip
    return torch.stack(out.logits)[:, 0], out.sequences[0, len(rows) :], fork, shared


@torch.no_grad()
def late_reference(model, rows, positions, hidden_columns):
    """Logits [S, V]: from layer k on, question and answer do not see ``hidden_columns[k]``; the video still does."""
    decoder, length, first = model.get_decoder(), len(rows), BEFORE + VISUAL
    hidden, rotary = rows[None], decoder.rotary_emb(rows[None], positions)
    seen = torch.ones(length, length).tril().bool()
    for index, layer in enumerate(decoder.layers):
        if index in hidden_columns:
            seen[first:, hidden_columns[index]] = False
        mask = torch.zeros(length, length).masked_fill(~seen, torch.finfo(torch.float32).min)
        out = layer(hidden, attention_mask=mask[None, None], position_embeddings=rotary, position_ids=None,
                    past_key_values=None, use_cache=False)  # fmt: skip
        hidden = out[0] if isinstance(out, tuple) else out
    return model.lm_head(decoder.norm(hidden))[0]


def dropped(fork, layer):
    gone = set(range(BEFORE, BEFORE + VISUAL)) - set(fork.measured.survivors[layer][0].tolist())
    return torch.tensor(sorted(gone), dtype=torch.long)


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
@pytest.mark.parametrize("schedule", [Drop(1), Drop(3), Drop(1, 3, 4), HolitomInner(k=4)])
def test_stages_on_a_fork_equal_a_reference_that_hides_the_dropped_keys(attn, schedule):
    model = tiny_model(attn)
    rows, flags = sequence(model)
    found, answer, fork, _ = forked(model, rows, flags, schedule)
    layers = schedule.layers(6)
    assert [len(dropped(fork, layer)) for layer in layers] == [
        VISUAL - VISUAL // 2 ** (n + 1) for n in range(len(layers))
    ]
    full, places = with_answer(model, rows, torch.arange(len(rows))[None], answer)
    columns = {layer: dropped(fork, layer) for layer in layers}
    expected = late_reference(model, full, places, columns)[len(rows) - 1 :]
    assert (found - expected).abs().max() < 1e-4
    one_more = {**columns, layers[-1]: torch.cat([columns[layers[-1]], fork.measured.survivors[layers[-1]][0, :1]])}
    assert (found - late_reference(model, full, places, one_more)[len(rows) - 1 :]).abs().max() > 1e-3


def test_a_fork_scores_as_a_joint_prefill_does_and_leaves_the_shared_cache_alone():
    model = tiny_model()
    rows, flags = sequence(model)
    _, _, fork, shared = forked(model, rows, flags, Drop(3))
    cache = CompressedCache(model.config.text_config, RowPlan(flags, 6, Drop(3)))
    with Attachment(model), torch.no_grad():
        model.get_decoder()(inputs_embeds=rows[None], past_key_values=cache, use_cache=True)
    assert torch.equal(fork.measured.survivors[3], cache.measured.survivors[3])
    assert shared.lengths() == [BEFORE + VISUAL] * 6
    answered = AFTER + STEPS - 1
    assert fork.lengths() == [BEFORE + VISUAL + answered] * 3 + [BEFORE + VISUAL // 2 + answered] * 3
    assert fork.measured.entered == dict.fromkeys(range(6), AFTER)


@pytest.mark.parametrize("place", range(AFTER))
def test_a_mask_hides_the_same_row_of_the_question_in_every_layer_of_a_fork(place):
    """Behind a stage keys stand elsewhere than in the mask; what it hides may hold anything."""
    model = tiny_model()
    rows, flags = sequence(model)
    text, length = model.config.text_config, BEFORE + VISUAL
    seen = torch.ones(1, len(rows) + 1, dtype=torch.long)
    seen[0, length + place] = 0

    def step(spoiled=None):
        shared = PrefixCache(text, RowPlan(flags, 6, Drop(1, 3)), length)
        decoder = model.get_decoder()
        decoder(inputs_embeds=rows[None, :length], past_key_values=shared, use_cache=True)
        fork = shared.fork()
        decoder(inputs_embeds=rows[None, length:], past_key_values=fork, use_cache=True)
        for layer in fork.layers if spoiled is not None else ():
            layer.keys[:, :, spoiled - AFTER], layer.values[:, :, spoiled - AFTER] = 9.0, -9.0
        out = decoder(
            inputs_embeds=rows[None, :1], past_key_values=fork, use_cache=True, attention_mask=seen,
            position_ids=torch.tensor([[len(rows)]]),
        )  # fmt: skip
        return out.last_hidden_state

    with Attachment(model), torch.no_grad():
        right = step()
        changed = [not torch.equal(step(other), right) for other in range(AFTER)]
    assert changed == [other != place for other in range(AFTER)]


@pytest.mark.parametrize(("name", "parameters"), TABLE)
def test_every_schedule_sees_on_a_fork_what_it_sees_in_a_joint_prefill(name, parameters):
    model, schedule = tiny_model(), get_schedule(name, **parameters)
    rows, flags = sequence(model)
    found, _, fork, _ = forked(model, rows, flags, schedule, FACTS)
    out, joint = run(model, rows, flags, schedule, facts=FACTS)
    assert fork.applied and joint.applied
    reduced = [sorted(cache.measured.survivors)[1:2] for cache in (fork, joint)]
    assert reduced[0] == reduced[1]
    if reduced[0]:  # the first stage that cuts: later ones see rows that nothing was merged into
        (layer,) = reduced[0]
        assert torch.equal(fork.measured.survivors[layer], joint.measured.survivors[layer])
        assert fork.lengths()[layer] == joint.lengths()[layer]
    else:  # frozen layers and decode-time reads: nothing differs
        assert (found - torch.stack(out.logits)[:, 0]).abs().max() < 1e-4
        assert fork.measured.reads == joint.measured.reads and fork.plan.frozen == joint.plan.frozen


def test_schedules_that_renumber_read_the_whole_request_again(nano, clip):
    encoded = nano.compress(clip, keep=0.5, method="uniform", inner="pyramiddrop:positions=compact")
    alone = nano.ask(clip, QUESTIONS[0], keep=0.5, method="uniform", inner="pyramiddrop:positions=compact")
    later = [nano.ask(encoded, QUESTIONS[0]) for _ in range(2)][1]
    assert later.text == alone.text and later.ledger.layer_rows == alone.ledger.layer_rows
    assert later.ledger.tokens.cached == 0


def test_flops_of_a_question_are_those_of_its_own_rows(nano, clip):
    from vidcomp.report.accounting import layer_flops, prefill_cost

    shape = nano.family.shape
    whole = nano.ask(clip, QUESTIONS[0], keep=0.5, method="uniform", inner="shortv:n=2").ledger
    encoded = nano.compress(clip, keep=0.5, method="uniform", inner="shortv:n=2")
    first, second = (nano.ask(encoded, QUESTIONS[0]).ledger for _ in range(2))
    rows = whole.layer_rows[0]
    assert [a + b for a, b in zip(first.video_updated, first.layer_updated, strict=True)] == whole.layer_updated
    assert [a + b for a, b in zip(second.layer_cached, second.layer_rows, strict=True)] == whole.layer_rows
    assert second.video_rows == [] and min(whole.layer_updated) < rows
    cost = prefill_cost(shape, second.layer_rows, second.layer_updated, second.layer_cached)
    asked, held = second.layer_rows[0], second.layer_cached[0]
    assert cost.flops == pytest.approx(shape.layers * layer_flops(shape, asked, cached=held))
    assert cost.kv_bytes == prefill_cost(shape, whole.layer_rows).kv_bytes
