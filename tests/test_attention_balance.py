# SPDX-License-Identifier: Apache-2.0
"""What the answer looks at: against eager attention maps, and through the command line."""

from __future__ import annotations

import json
import math

import pytest
import torch
from test_inllm import STEPS, VISUAL, run, sequence, with_answer
from tiny import tiny_model

from vidcomp.cli.app import run as command
from vidcomp.engine.decoder import AttentionBalance, CompressedCache
from vidcomp.engine.decoder.modality_attention import LayerBalance, attention_balance
from vidcomp.schedules import get_schedule


def balanced(monkeypatch, schedule=None, attn="sdpa"):
    """Run the tiny model with a balance; :func:`run` builds the cache."""
    balance = AttentionBalance()
    build = CompressedCache.__init__
    monkeypatch.setattr(
        CompressedCache, "__init__", lambda self, config, plan, own=None: build(self, config, plan, own or balance)
    )
    model = tiny_model(attn)
    rows, flags = sequence(model)
    out, cache = run(model, rows, flags, schedule)
    return model, rows, flags, out, cache, balance


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
def test_masses_are_those_of_the_eager_maps(monkeypatch, attn):
    _, rows, flags, out, cache, balance = balanced(monkeypatch, None, attn)
    model = tiny_model("eager")
    full, _ = with_answer(model, rows, torch.arange(len(rows))[None], out.sequences[0])
    with torch.no_grad():
        maps = model.get_decoder()(inputs_embeds=full[None], output_attentions=True).attentions
    for layer, found in enumerate(balance.layers()):
        looked = maps[layer][0].mean(0)[len(rows) - 1 :]  # the rows from which the answer was written
        assert len(looked) == STEPS == len(balance.noted[layer])
        assert found.visual_mass == pytest.approx(float(looked[:, : len(flags)][:, flags].sum(1).mean()), abs=1e-5)
        assert found.text_mass + found.visual_mass == pytest.approx(1, abs=1e-5)
        assert (found.visual_keys, found.text_keys) == (VISUAL, len(rows) - VISUAL + (STEPS - 1) / 2)
    assert not cache.forward.inputs  # nothing is held longer than a layer


def test_a_reduced_layer_counts_the_keys_it_has(monkeypatch):
    *_, balance = balanced(monkeypatch, get_schedule("fastv", k=2, keep=0.25))
    assert [layer.visual_keys for layer in balance.layers()] == [VISUAL] * 2 + [VISUAL / 4] * 4


def test_a_schedule_decides_the_same_while_it_is_watched(monkeypatch):
    schedule = get_schedule("catp", k=3)
    plain = run(tiny_model(), *sequence(tiny_model()), schedule)[1].measured.survivors
    watched = balanced(monkeypatch, schedule)[4].measured.survivors
    assert all(torch.equal(plain[layer], watched[layer]) for layer in plain)


def test_the_ratios_by_hand():
    attention = torch.tensor([[0.1, 0.2, 0.3, 0.4]])
    found = attention_balance(attention, torch.tensor([[False, True, True, False]]))
    assert found.mdi == pytest.approx((0.5 / 2) / (0.5 / 2))
    skewed = LayerBalance(0.8, 0.2, 10, 90)
    assert skewed.mdi == pytest.approx((0.8 / 10) / (0.2 / 90))
    assert skewed.aei_text == pytest.approx(0.8 / 0.1)
    assert skewed.aei_visual == pytest.approx(0.2 / 0.9)
    assert LayerBalance(1.0, 0.0, 10, 0).mdi is None
    assert LayerBalance(1.0, 0.0, 10, 0).aei_visual is None


def test_early_middle_and_late_layers():
    balance = AttentionBalance({layer: [LayerBalance(1 - layer / 10, layer / 10, 5, 5)] for layer in range(6)})
    assert {name: round(group.visual_mass, 6) for name, group in balance.groups().items()} == {
        "early": 0.05, "middle": 0.25, "late": 0.45,
    }  # fmt: skip


def test_the_report_compares_with_the_uncompressed_model(samples, capsys):
    video = str(samples / "blue_cross_moves_right.mp4")
    assert (
        command(["report", video, "what happens?", "--keep", "0.25", "--attention", "--json", "--device", "cpu"]) == 0
    )
    record = json.loads(capsys.readouterr().out)["report"]
    layers, plain = record["attention"]["compressed"]["layers"], record["attention"]["plain"]["layers"]
    assert len(layers) == len(plain) == 4
    assert [layer["visual_keys"] for layer in plain] == [8 * 36 + 1] * 4
    assert [layer["visual_keys"] for layer in layers] == [rows - record["layer_rows"][0] + layers[0]["visual_keys"]
                                                          for rows in record["layer_rows"]]  # fmt: skip
    assert all(math.isclose(layer["text_mass"] + layer["visual_mass"], 1, abs_tol=1e-3) for layer in layers)
    assert set(record["attention"]["compressed"]["groups"]) == {"early", "late"}
