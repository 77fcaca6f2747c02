# SPDX-License-Identifier: Apache-2.0
"""What only a CUDA device can show. Skipped without one."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from clips import make_clip
from families import load, moving_square, stock_inputs

import vidcomp
from vidcomp.engine.decoder import Attachment, CompressedCache, RowPlan
from vidcomp.schedules.holitom import HolitomInner

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
QUESTIONS = ("what happens at the end?", "first?")
has_flash = importlib.util.find_spec("flash_attn") is not None


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return make_clip(tmp_path_factory.mktemp("clips") / "clip.mp4", frames=40)


@pytest.mark.parametrize("name", ["llava_onevision_tied", "qwen2_5_vl_tied", "qwen3_vl_tied", "internvl3", "smolvlm2"])
def test_a_gpu_reads_the_sequence_that_a_cpu_reads(replicas, clip, name):
    kept = {}
    for device in ("cpu", "cuda"):
        with vidcomp.load(str(replicas(name)), device=device, dtype="float32", frames=4) as lm:
            encoded = lm.compress(clip, keep=0.5, method="uniform")
            kept[device] = (encoded.tokens.positions.cpu(), encoded.tokens.features.cpu())
            answer = lm.ask(encoded, QUESTIONS[0], max_new_tokens=3)
            assert answer.ledger.tokens.kept == len(encoded.tokens)
    assert torch.equal(kept["cpu"][0], kept["cuda"][0])
    torch.testing.assert_close(kept["cpu"][1], kept["cuda"][1], rtol=1e-3, atol=1e-3)


def test_nano_answers_alike_and_later_questions_too(clip):
    answers = {}
    for device in ("cpu", "cuda"):
        with vidcomp.load("nano", device=device, dtype="float32") as lm:
            encoded = lm.compress(clip, keep=0.25)
            answers[device] = [lm.ask(encoded, question).text for question in QUESTIONS]
    assert answers["cpu"] == answers["cuda"]


@pytest.mark.parametrize("name", ["llava_onevision_tied", "qwen3_vl_tied"])
def test_the_drop_in_leaves_a_gpu_model_as_it_was(replicas, name):
    family = load(replicas(name))
    family.model.cuda()
    clip = moving_square(4)
    layout = family.layout([0.0, 1.0, 2.0, 3.0], *clip.shape[1:3], 4.0)
    inputs = {key: value.cuda() for key, value in stock_inputs(family, clip, layout).items()}
    settings = dict(do_sample=False, max_new_tokens=4, output_logits=True, return_dict_in_generate=True)
    before = family.model.generate(**inputs, **settings).logits
    with vidcomp.attach(family.model, keep=0.5, inner="holitom:k=2") as run:
        family.model.generate(**inputs, **settings)
    assert run.ledgers[0].tokens.layer == 2
    assert all(
        torch.equal(a, b) for a, b in zip(before, family.model.generate(**inputs, **settings).logits, strict=True)
    )


def test_decode_steps_do_not_wait_for_the_device(replicas):
    family = load(replicas("llava_onevision_tied"))
    model = family.model.cuda()
    text, width = model.config.get_text_config(), family.shape.width
    rows = torch.randn(1, 60, width, device="cuda")
    flags = torch.zeros(60, dtype=torch.bool).index_fill_(0, torch.arange(5, 50), True)
    with Attachment(model), torch.no_grad():
        cache = CompressedCache(text, RowPlan(flags, text.num_hidden_layers, HolitomInner(k=2)))
        model.get_decoder()(inputs_embeds=rows, past_key_values=cache, use_cache=True)
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            places = torch.full((1, 1), 60, device="cuda")
            model.get_decoder()(inputs_embeds=rows[:, :1], position_ids=places, past_key_values=cache, use_cache=True)
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_sampling_on_a_gpu_repeats_and_leaves_its_generator_alone(clip):
    with vidcomp.load("nano", device="cuda") as lm:
        torch.cuda.manual_seed(1)
        expected = torch.rand(3, device="cuda")
        torch.cuda.manual_seed(1)
        first = lm.ask(clip, QUESTIONS[0], temperature=3.0, seed=2).text
        assert torch.equal(torch.rand(3, device="cuda"), expected)
        assert lm.ask(clip, QUESTIONS[0], temperature=3.0, seed=2).text == first


@pytest.mark.skipif(not has_flash, reason="needs flash-attn")
@pytest.mark.parametrize("positions", ["keep", "compact"])
def test_flash_attention_agrees_with_sdpa(replicas, clip, positions):
    logits = {}
    for attn in ("sdpa", "flash_attention_2"):
        with vidcomp.load(str(replicas("llava_onevision_tied")), device="cuda", dtype="bfloat16", attn=attn) as lm:
            encoded = lm.compress(clip, keep=0.5, method="uniform", inner="none", positions=positions, frames=4)
            prefill = lm.prepare(encoded, QUESTIONS[0])
            with torch.no_grad():
                out = lm.family.model.get_decoder()(
                    inputs_embeds=prefill.rows[None].to(torch.bfloat16), position_ids=prefill.positions,
                    past_key_values=prefill.cache, use_cache=True,
                )  # fmt: skip
            logits[attn] = out.last_hidden_state[0, -1].float()
    assert torch.nn.functional.cosine_similarity(logits["sdpa"], logits["flash_attention_2"], dim=0) > 0.95
