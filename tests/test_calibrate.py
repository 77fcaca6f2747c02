# SPDX-License-Identifier: Apache-2.0
"""Searches for a schedule's parameters: on the embedded model, through the command line, and back into an answer."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import kl_div

from vidcomp.bench.calibrate import calibrate, samples_of
from vidcomp.bench.reading import expectations
from vidcomp.cli.app import run
from vidcomp.engine.decoder import CompressedCache, RowPlan
from vidcomp.errors import UsageError
from vidcomp.methods.base import described
from vidcomp.schedules import get_schedule
from vidcomp.schedules.blocks.presets import write_preset

QUESTION = "what happens?"


@pytest.fixture(scope="module")
def asked(nano, samples):
    """One question about one video, encoded with few tokens."""
    config, nano.config = nano.config, nano.config.replace(method="uniform", keep=0.25)
    yield nano, samples_of(nano, [samples / "blue_cross_moves_right.mp4"], [QUESTION])
    nano.config = config


def test_along_its_own_answer_the_model_expects_every_token(asked):
    lm, (sample,) = asked
    assert sample.plain[:-1].argmax(-1).tolist() == sample.answer.tolist()
    assert int(sample.plain[-1].argmax()) == lm.family.tokenizer.eos_token_id


def divergence(lm, sample, schedule):
    prefill = lm.prepare(replace(sample.compressed, schedule=schedule), sample.question)
    reduced = expectations(lm.family, prefill, sample.answer)
    return float(kl_div(reduced, sample.plain, log_target=True, reduction="none").sum(-1).mean())


@torch.no_grad()
def harm_of_freezing(lm, sample, layer):
    """From one prefill in which the answer stands behind the prompt: no continuation, another code path."""
    prefill, model = lm.prepare(sample.compressed, sample.question), lm.family.model
    rows = torch.cat([prefill.rows, lm.family.embed(sample.answer)])
    flags = torch.zeros(len(rows), dtype=torch.bool)
    flags[prefill.cache.plan.visual] = True
    last = prefill.positions[:, -1:]
    positions = torch.cat([prefill.positions, last + 1 + torch.arange(len(sample.answer))], 1)
    cache = CompressedCache(model.config.text_config, RowPlan(flags, 4, get_schedule("shortv", order=(layer,), n=1)))
    inputs = rows[None].to(model.dtype)
    hidden = model.get_decoder()(inputs_embeds=inputs, position_ids=positions, past_key_values=cache)
    logs = model.lm_head(hidden.last_hidden_state[0, len(prefill.rows) - 1 :]).float().log_softmax(-1)
    return float(kl_div(sample.plain, logs, log_target=True, reduction="none").sum(-1).mean())


def test_the_order_of_layers_is_that_of_their_harm(asked):
    lm, samples = asked
    found = calibrate(lm, samples, "shortv")
    harms = [harm_of_freezing(lm, samples[0], layer) for layer in range(4)]
    assert found.entries["order"] == sorted(range(4), key=lambda layer: harms[layer])
    assert found.tried == 5


def test_searched_shares_keep_the_harm_below_what_is_allowed(asked):
    lm, samples = asked
    steps: list[str] = []
    found = calibrate(lm, samples, "gsearch", allowed=0.02, on_step=steps.append)
    keep = found.entries["keep"]
    assert len(steps) == found.tried and steps[0].startswith("gsearch")
    assert list(keep.values()) == sorted(keep.values(), reverse=True) and all(share < 1 for share in keep.values())
    schedule = get_schedule("gsearch", at=tuple(keep), keep=tuple(keep.values()))
    assert divergence(lm, samples[0], schedule) == pytest.approx(found.harm, abs=1e-6)
    assert found.harm <= 0.02


def test_the_sigmoid_of_least_harm(asked):
    lm, samples = asked
    found = calibrate(lm, samples, "psigmoid", keep=0.5)
    default = divergence(lm, samples[0], get_schedule("psigmoid", keep=0.5))
    assert found.harm <= default + 1e-6


def test_what_cannot_be_calibrated(asked):
    lm, samples = asked
    with pytest.raises(UsageError, match="fastv has no search"):
        calibrate(lm, samples, "fastv")
    with pytest.raises(UsageError, match="nothing to calibrate"):
        calibrate(lm, [], "shortv")


def test_a_preset_from_the_command_line_is_used(samples, tmp_path, capsys):
    video, preset = str(samples / "blue_cross_moves_right.mp4"), tmp_path / "order.json"
    common = ["--method", "uniform", "--keep", "0.25", "--device", "cpu"]
    assert run(["calibrate", "shortv", video, "--question", QUESTION, "-o", str(preset), "--json", *common]) == 0
    record = json.loads(capsys.readouterr().out)
    assert sorted(record["order"]) == [0, 1, 2, 3] == sorted(json.loads(preset.read_text())["order"])
    assert run(["ask", video, QUESTION, "--inner", f"shortv:n=2,file={preset}", "--json", *common]) == 0
    stages = [stage["name"] for stage in json.loads(capsys.readouterr().out)["stages"]]
    assert f"frozen in layers {','.join(map(str, sorted(record['order'][:2])))}" in stages


def test_presets_of_other_schedules_are_refused(tmp_path):
    file = tmp_path / "preset.json"
    write_preset(file, "gsearch", keep={"1": 0.5, "3": 0.2})
    assert get_schedule("gsearch", file=str(file)).plan(6) == {1: 0.5, 3: 0.2}
    assert described(get_schedule("gsearch", file=str(file))) == "gsearch:at=1/3,keep=0.5/0.2"
    with pytest.raises(UsageError, match="no preset of shortv"):
        get_schedule("shortv", file=str(file))
    file.write_text("{")
    with pytest.raises(UsageError, match="cannot read"):
        get_schedule("gsearch", file=str(file))
