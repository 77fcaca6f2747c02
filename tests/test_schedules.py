# SPDX-License-Identifier: Apache-2.0
"""Every inner schedule against the slow masked reference: logits, cache lengths, samples, beams, threads, few rows."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest
import torch
from schedule_runs import DEPTH, FACTS, LENGTH, TABLE, Noting, noted, reference
from test_inllm import AFTER, BEFORE, STEPS, VISUAL, hooks_on, run, sequence
from tiny import tiny_model

from vidcomp.engine.decoder import Attachment, CompressedCache, RowPlan
from vidcomp.engine.decoder.frozen import freeze_rows
from vidcomp.errors import ModelError, UsageError
from vidcomp.schedules import Cut, Schedule, get_schedule, list_schedules


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
    assert [cache.measured.entered[layer] for layer in range(DEPTH)] == lengths
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
    elif cache.plan.frozen:
        vars(cache.plan)["frozen"] = cache.plan.frozen - {2}
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


@pytest.mark.parametrize(("name", "parameters"), [TABLE[4], TABLE[5], ("shortv", {})])
def test_the_score_of_a_beam_is_the_references_log_probability(name, parameters):
    model, rows, flags, schedule, out, cache = noted(name, parameters, num_beams=3, output_scores=True)
    best = out.sequences[0]
    logits = reference(model, rows, flags, schedule, best, cache)
    expected = logits.log_softmax(-1).gather(1, best[:, None]).mean()
    torch.testing.assert_close(out.sequences_scores[0], expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("renumbered", ["keep", "compact"])
def test_positions_with_gaps_may_be_renumbered_inside(renumbered):
    gaps = torch.arange(LENGTH)[None] + torch.arange(LENGTH).clamp(max=20) * 2
    parameters = {"at": (1, 4), "keep": (0.5, 0.2), "positions": renumbered}
    model, rows, flags, schedule, out, cache = noted("pyramiddrop", parameters, positions=gaps)
    expected = reference(model, rows, flags, schedule, out.sequences[0], cache, positions=gaps)
    assert torch.stack(out.logits)[:, 0].sub(expected).abs().max() < 1e-4


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
    assert len(cache.measured.reads) == STEPS - 1


def teacher_forced(model, rows, flags, schedule, tokens):
    """Logits of the answer's rows when a fixed answer is fed token by token."""
    cache = CompressedCache(model.config.text_config, RowPlan(flags, DEPTH, schedule, FACTS))
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


def test_threads_with_their_own_schedules_do_not_disturb_each_other():
    model = tiny_model()
    settings = [("shortv", {"order": "0/2/5"}), ("dycoke", {"layer": 1, "gate": 1.1}), ("catp", {"k": 3}), TABLE[4]]
    jobs = [(*sequence(model, seed), get_schedule(name, **given)) for seed, (name, given) in enumerate(settings)]

    def answer(rows, flags, schedule):
        cache = CompressedCache(model.config.text_config, RowPlan(flags, DEPTH, schedule, FACTS))
        return model.generate(
            inputs_embeds=rows[None], position_ids=torch.arange(len(rows))[None], past_key_values=cache,
            attention_mask=torch.ones(1, len(rows), dtype=torch.long), max_new_tokens=STEPS, do_sample=False,
        ).tolist()  # fmt: skip

    with Attachment(model):
        alone = [answer(*job) for job in jobs]
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(lambda job: answer(*job), jobs * 3))
    assert together == alone * 3


def test_frozen_layers_need_a_kernel_with_masks():
    model = tiny_model()
    rows, flags = sequence(model)
    model.config.text_config._attn_implementation = "flash_attention_2"
    with pytest.raises(ModelError, match="cannot skip rows"):
        freeze_rows(model.get_decoder().layers[0], rows[None], flags.nonzero()[:, 0][None], None)


def test_a_schedule_of_another_package_is_found(monkeypatch):
    @dataclass(frozen=True)
    class Last(Schedule):
        keep: int = 4
        name = "last"
        summary = "keeps the last rows"
        source = "a test"

        def layers(self, depth):
            return (2,)

        def reduce(self, stage):
            return Cut(torch.arange(stage.count - self.keep, stage.count).expand(len(stage.rows), -1))

    point = SimpleNamespace(name="last", load=lambda: Last)
    broken = SimpleNamespace(name="broken", load=lambda: 1 / 0)
    points = {"vidcomp.schedules": [point, broken]}
    monkeypatch.setattr("vidcomp.core.registry.entry_points", lambda group: points.get(group, []))
    assert "last" in {info.name for info in list_schedules()} and "broken" not in {
        info.name for info in list_schedules()
    }
    with pytest.raises(UsageError, match="cannot be loaded"):
        get_schedule("broken")
    model = tiny_model()
    _, cache = run(model, *sequence(model), get_schedule("last", keep=3))
    assert cache.measured.survivors[2][0].tolist() == [BEFORE + VISUAL - 3 + i for i in range(3)]


@pytest.mark.parametrize("visual", [0, 1, 2])
def test_hardly_any_visual_rows(visual):
    model = tiny_model()
    rows, flags = sequence(model)
    rows, flags = rows[: BEFORE + visual + AFTER], flags & (torch.arange(LENGTH) < BEFORE + visual)
    facts = {name: fact[:visual] for name, fact in FACTS.items()}
    for name, parameters in TABLE:
        out, cache = run(model, rows, flags[: len(rows)], get_schedule(name, **parameters), facts=facts)
        assert torch.stack(out.logits).isfinite().all()
        assert cache.applied
        least = 0 if name in ("aim", "todre") else min(1, visual)
        assert all(least <= kept.shape[1] <= visual for kept in cache.measured.survivors.values())


@pytest.mark.parametrize(("name", "parameters"), TABLE)
def test_bfloat16_is_finite_and_keeps_the_same_number(name, parameters):
    model = tiny_model(dtype=torch.bfloat16)
    rows, flags = sequence(model)
    out, cache = run(model, rows.bfloat16(), flags, get_schedule(name, **parameters), facts=FACTS)
    assert torch.stack(out.logits).isfinite().all()
    if get_schedule(name, **parameters).exact:
        exact = noted(name, parameters)[-1]
        assert cache.measured.entered == exact.measured.entered
    assert all(layer.keys.dtype == torch.bfloat16 for layer in cache.layers)


def test_every_schedule_leaves_no_trace():
    model = tiny_model()
    rows, flags = sequence(model)
    before = model.generate(inputs_embeds=rows[None], max_new_tokens=STEPS, do_sample=False)
    for name, parameters in TABLE[::3]:
        run(model, rows, flags, get_schedule(name, **parameters), facts=FACTS)
    assert hooks_on(model) == 0
    assert torch.equal(before, model.generate(inputs_embeds=rows[None], max_new_tokens=STEPS, do_sample=False))
