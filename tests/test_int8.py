# SPDX-License-Identifier: Apache-2.0
"""Vision towers that compute in 8 bits: near the ones in float32, in every family, and refused where they cannot be."""

from __future__ import annotations

import json

import pytest
import torch
from clips import make_clip

import vidcomp
from vidcomp.config import ModelConfig, RunConfig
from vidcomp.errors import ModelError, UsageError
from vidcomp.families import int8
from vidcomp.tower.probe import encoder_layers

FAMILIES = (
    "llava_onevision_tied",
    "llava_next_video",
    "qwen2_5_vl",
    "qwen3_vl",
    "internvl3",
    "smolvlm2",
    "video_llama_3",
)

pytestmark = pytest.mark.skipif("onednn" not in torch.backends.quantized.supported_engines, reason="needs oneDNN")


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    return make_clip(tmp_path_factory.mktemp("few") / "few.mp4", frames=4)


@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_are_near_those_of_float32_and_the_rest_is_the_same(replicas, few, family):
    folder, engine = str(replicas(family)), torch.backends.quantized.engine
    with (
        vidcomp.load(folder, device="cpu", dtype="float32", frames=2) as plain,
        vidcomp.load(folder, device="cpu", quantize="int8-tower", frames=2) as fast,
    ):
        assert torch.backends.quantized.engine == engine
        both = [lm.encode(few).view.features for lm in (plain, fast)]
        assert not torch.equal(*both)
        assert torch.cosine_similarity(*both, dim=-1).mean() > 0.95  # of random weights; single tokens may differ more
        layers = encoder_layers(fast.family.tower)
        assert not [part for layer in layers for part in layer.modules() if type(part) is torch.nn.Linear]
        text = [lm.family.model.get_input_embeddings().weight for lm in (plain, fast)]
        assert torch.equal(*text)


def test_an_answer_with_shared_rows_and_signals(few):
    with vidcomp.load("nano", device="cpu", quantize="int8-tower", frames=4) as lm:
        answer = lm.ask(few, "what happens?", method="vispruner", reuse="auto", max_new_tokens=2)
    assert answer.to_dict()["settings"]["quantize"] == "int8-tower"


@pytest.mark.parametrize("other", [{"dtype": "bfloat16"}, {"device_map": "auto"}])
def test_what_does_not_go_together_is_refused_before_anything_is_loaded(other):
    with pytest.raises(UsageError, match="--quantize int8-tower together with"):
        RunConfig.from_flat(quantize="int8-tower", **other)
    assert ModelConfig(quantize="int8-tower", dtype="float32")


def test_other_devices_and_torch_without_kernels_are_refused(monkeypatch):
    with pytest.raises(ModelError, match="on cuda"):
        int8.quantize_tower([torch.nn.Linear(2, 2)], torch.device("cuda"))
    monkeypatch.delattr(torch.ao.quantization, "quantize_dynamic")
    with pytest.raises(ModelError, match="needs onednn"):
        int8.quantize_tower([torch.nn.Linear(2, 2)], torch.device("cpu"))


def test_the_bench_prints_times_and_the_error(cli, few):
    status, out, _ = cli("bench", "int8", few, "--repeats", "2", "--frames", "2", "--json")
    found = json.loads(out)
    assert status == 0
    assert 0.9 < found["cosine_least"] <= found["cosine_mean"] < 1
    assert cli("bench", "int8", "/nowhere.mp4")[0] == 3
    assert "of the worst token" in cli("bench", "int8", few, "--repeats", "2", "--frames", "2")[1]
