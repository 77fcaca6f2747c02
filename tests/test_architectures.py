# SPDX-License-Identifier: Apache-2.0
"""Full-size architectures: the true shapes, without their memory."""

from __future__ import annotations

import pytest
import torch

from vidcomp.config import ModelConfig
from vidcomp.errors import UsageError
from vidcomp.families import ARCHITECTURES, FAMILIES, architectures, random_family

FRAMES = [float(second) for second in range(8)]
# tokens of eight frames of 640 x 360, from the tables of the families
TOKENS = {
    "llava-onevision-0.5b": 8 * 196,
    "llava-onevision-7b": 8 * 196,
    "llava-next-video-7b": 8 * 144,
    "qwen2.5-vl-3b": 4 * 13 * 23,
    "qwen2.5-vl-7b": 4 * 13 * 23,
    "qwen3-vl-4b": 4 * 11 * 20,
    "qwen3-vl-8b": 4 * 11 * 20,
    "internvl3-1b": 8 * 256,
    "internvl3-8b": 8 * 256,
    "internvl3.5-8b": 8 * 256,
    "smolvlm2-500m": 8 * 64,
    "smolvlm2-2.2b": 8 * 81,
    "videollama3-2b": 8 * 13 * 23,
    "videollama3-7b": 8 * 13 * 23,
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_parameters_and_tokens_are_those_of_the_hubs_checkpoint(name, monkeypatch):
    monkeypatch.setattr(architectures, "pick_device", lambda _: torch.device("meta"))
    family = random_family(name, ModelConfig(dtype="bfloat16"))
    billions = sum(weight.numel() for weight in family.model.parameters()) / 1e9
    assert billions == pytest.approx(ARCHITECTURES[name].billions, abs=0.001)
    layout = family.layout(FRAMES, 360, 640)
    prompt = family.prompt("what happens?", layout)
    assert layout.slices * layout.tokens == TOKENS[name]
    ids = prompt.full_ids(layout.tokens, len(family.separators()), family.visual_id)
    assert int((ids == family.visual_id).sum()) == TOKENS[name] + len(family.separators())


def test_every_family_has_one_but_those_that_share_their_sizes():
    assert set(FAMILIES) - {made.model_type for made in ARCHITECTURES.values()} == {"qwen2_vl", "qwen3_vl_moe"}


def test_an_unknown_name_is_wrong_usage():
    with pytest.raises(UsageError, match="llava-onevision-7b"):
        random_family("gpt-7b", ModelConfig())


def test_building_one_leaves_torchs_generator_alone(monkeypatch):
    monkeypatch.setattr(architectures, "pick_device", lambda _: torch.device("meta"))
    torch.manual_seed(4)
    expected = torch.rand(2)
    torch.manual_seed(4)
    random_family("smolvlm2-500m", ModelConfig(dtype="bfloat16"))
    assert torch.equal(torch.rand(2), expected)
