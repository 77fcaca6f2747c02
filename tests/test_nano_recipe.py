# SPDX-License-Identifier: Apache-2.0
"""The training recipe: what it trains is what the stock model runs, and every stage starts and stops."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from training.nano.aids import AidWeights, VideoMap, aid_loss  # noqa: E402
from training.nano.export import build_tokenizer, export_checkpoint, load_exported  # noqa: E402
from training.nano.join import render_batch  # noqa: E402
from training.nano.language import Lesson, make_batch  # noqa: E402
from training.nano.model import build_model, full_prompt, tower_features, visual_tokens  # noqa: E402
from training.nano.packing import SPLIT, exact_matches, forward_packed  # noqa: E402
from training.nano.thinning import LEAST, thin  # noqa: E402
from training.nano.train import main  # noqa: E402
from vidcomp.bench.world.questions import KINDS  # noqa: E402
from vidcomp.bench.world.videos import Options  # noqa: E402
from vidcomp.bench.world.vocabulary import EOS, encode  # noqa: E402

LESSON = Lesson(Options(), KINDS, batch=2)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh model in the shipped format."""
    folder = tmp_path_factory.mktemp("nano") / "checkpoint"
    export_checkpoint(build_model(), folder, "# card\n")
    return folder


def test_visual_tokens_equal_the_stock_model(exported: Path) -> None:
    model = load_exported(exported).eval()
    pixels = torch.randn(2, 3, 3, 96, 96)
    stock = model.model.get_video_features(pixels, vision_feature_layer=-1, vision_feature_select_strategy="full")
    model.model.vision_tower.set_attn_implementation("eager")
    ours = full_prompt(model, visual_tokens(model, pixels)).tokens
    torch.testing.assert_close(ours, stock.pooler_output, atol=1e-4, rtol=1e-3)


def test_packed_questions_equal_asking_them_one_by_one(exported: Path) -> None:
    model, tokenizer = load_exported(exported).eval(), build_tokenizer()
    batch = make_batch(range(2), LESSON, 3)
    pixels = render_batch(batch.videos, batch.times, random.Random(0))
    single = []
    with torch.no_grad():
        for i, questions in enumerate(batch.questions):
            for question in questions:
                text = f"<user>{'<video>' * 289}{question.text}<assistant>{question.answer}{EOS}"
                ids = tokenizer(text, return_tensors="pt").input_ids
                logits = model(input_ids=ids, pixel_values_videos=pixels[i : i + 1]).logits[0]
                count = len(encode(question.answer)) + 1
                single.append(logits[-count - 1 : -1])
        model.model.language_model.set_attn_implementation(SPLIT)
        packed = forward_packed(
            model.model.language_model, full_prompt(model, visual_tokens(model, pixels)), batch.packed
        )
    torch.testing.assert_close(packed.logits, torch.cat(single), atol=2e-3, rtol=1e-2)


def test_a_window_is_read_like_the_same_place_of_the_frame() -> None:
    tower = build_model().model.vision_tower.eval()
    pixels = torch.randn(1, 3, 96, 96)
    with torch.no_grad():
        whole = tower_features(tower, pixels)
        window = tower_features(tower, pixels, torch.arange(144)[None])
    torch.testing.assert_close(whole, window)


def test_the_tokenizer_and_the_training_code_agree() -> None:
    tokenizer = build_tokenizer()
    for text in ("What happens at the END?", "the red circle moves left, then the ring appears", "an unknown zebra."):
        assert tokenizer(text).input_ids == encode(text)
    answer = "the red circle moves left, then the blue ring appears"
    assert tokenizer.decode([*encode(answer), 2], skip_special_tokens=True) == answer


@pytest.mark.parametrize("seed", range(12))
def test_thinning_keeps_a_legal_prompt(seed: int) -> None:
    torch.manual_seed(seed)
    model = build_model()
    prompt = full_prompt(model, torch.randn(2, 288, 128))
    thinned = thin(prompt, random.Random(seed))
    count = thinned.tokens.shape[1]
    assert LEAST <= count <= 289
    torch.testing.assert_close(thinned.tokens[:, -1], prompt.tokens[:, -1])
    if thinned.positions is not None:
        assert thinned.positions.shape == (2, count)
        assert (thinned.positions.diff(dim=1) > 0).all() and (thinned.positions >= 1).all()


def test_auxiliary_losses_reach_the_decoder() -> None:
    model, batch, weights = build_model(), make_batch(range(2), LESSON, 8), AidWeights()
    decoder, taps = model.model.language_model, weights.taps
    decoder.set_attn_implementation(SPLIT)
    prompt = full_prompt(model, torch.randn(2, 288, 128))
    output = forward_packed(decoder, prompt, batch.packed, taps, keep_hidden=True)
    assert len(exact_matches(output, batch.packed, batch.questions)[0]) == len(batch.questions[0])
    maps = [VideoMap(video, batch.times) for video in batch.videos]
    loss = aid_loss(decoder, output, taps, weights, maps, batch.questions, batch.packed)
    loss.backward()
    assert loss.item() > 0 and decoder.layers[0].self_attn.q_proj.weight.grad.abs().sum() > 0


def test_every_stage_runs_in_smoke_mode(tmp_path: Path) -> None:
    main(["--state", str(tmp_path), "--smoke", "--stage", "all"])
    stages = {json.loads(line)["stage"] for line in (tmp_path / "log.jsonl").read_text().splitlines()}
    assert stages == {"tower", "lm", "join", "joint", "salience", "robust", "encoder", "export"}
    assert (tmp_path / "checkpoint" / "model.safetensors").exists()
    assert (tmp_path / "frame_encoder" / "model.safetensors").exists()
