# SPDX-License-Identifier: Apache-2.0
"""Frames that show the same picture again are not encoded, and their tokens are absorbed with correct counts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vidcomp.config import SpanConfig
from vidcomp.core.tokens import Reduction, Span, TokenView, apply_reduction, compose, identity
from vidcomp.errors import ModelError
from vidcomp.spans import find_duplicates, frame_encoder
from vidcomp.spans.encoders import Luma


def still_then_change(side=120):
    """8 frames: 0-3 equal, a small square appears in 4-6, a cut at 7."""
    rng = np.random.default_rng(0)
    frames = np.repeat(rng.integers(60, 180, (1, side, side, 3), dtype=np.uint8), 8, 0)
    frames = frames.repeat(2, 1).repeat(2, 2)
    frames[4:7, 30:60, 40:70] = (250, 40, 40)
    frames[7] = 255 - frames[0]
    noise = rng.integers(-4, 5, frames.shape)
    return np.clip(frames.astype(int) + noise, 0, 255).astype(np.uint8)


def encoder_for(kind, **settings):
    return frame_encoder(SpanConfig(segmenter=kind, **settings), device="cpu", offline=True, embedded=True)


@pytest.mark.parametrize("kind", ["luma", "dinov2"])
def test_equal_frames_are_skipped_and_a_small_change_is_seen(kind):
    encoder = encoder_for(kind)
    frames = still_then_change()
    plan = find_duplicates(encoder(frames), encoder)
    assert plan.encode.tolist() == [0, 4, 7]
    assert plan.source.tolist() == [0, 0, 0, 0, 1, 1, 1, 2]
    assert [tuple(span) for span in plan.spans] == [(0, 3), (4, 6), (7, 7)]


def test_a_slow_drift_adds_up():
    frames = np.stack([np.full((64, 64, 3), 60 + 3 * i, np.uint8) for i in range(20)])
    plan = find_duplicates(Luma()(frames), Luma())
    assert 1 < len(plan.encode) < 20


def test_tower_compares_nothing_beforehand():
    assert encoder_for("tower") is None


def test_a_missing_or_wrong_checkpoint_is_a_model_error(tmp_path):
    with pytest.raises(ModelError, match="not available"):
        encoder_for("clip")
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(ModelError, match="is a vit checkpoint"):
        encoder_for("dinov2", segmenter_model=str(tmp_path))


def test_clip_vision_checkpoints_load(tmp_path):
    from transformers import CLIPVisionConfig, CLIPVisionModel

    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, image_size=64, patch_size=16,
    )  # fmt: skip
    CLIPVisionModel(config).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(
        '{"crop_size": 64, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.3, 0.3, 0.3], "resample": 3}'
    )
    encoder = encoder_for("clip", segmenter_model=str(tmp_path))
    regions = encoder(still_then_change())
    assert regions.shape == (8, 16, 32)
    assert encoder.similarity(regions[0], regions[0]) == pytest.approx(1, abs=1e-5)


@given(
    st.lists(st.booleans(), min_size=1, max_size=9),
    st.integers(1, 5),
    st.floats(0.05, 1),
    st.integers(0, 1000),
)
def test_composing_keeps_features_and_counts_every_frame(new, tokens, keep, seed):
    """A decision about the encoded frames, composed, gives the features that equal copies of the frames would give."""
    new[0] = True
    encode = torch.tensor([i for i, fresh in enumerate(new) if fresh])
    source = torch.tensor(new).long().cumsum(0) - 1
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(len(encode), tokens, 3, generator=generator)
    total = len(encode) * tokens
    anchors = torch.randperm(total, generator=generator)[: max(1, int(total * keep))].sort().values
    assign = torch.randint(0, len(anchors), (total,), generator=generator)
    assign[anchors] = torch.arange(len(anchors))
    weights = torch.rand(total, generator=generator)
    inner = Reduction(anchors, assign, weights, (Span(0, len(encode) - 1),))
    whole = compose(encode, source, inner, tokens)
    few = TokenView(features, (1, tokens), torch.arange(len(encode)))
    all_ = TokenView(features[source], (1, tokens), torch.arange(len(new)))
    one, other = apply_reduction(few, inner), apply_reduction(all_, whole)
    torch.testing.assert_close(one.features, other.features, rtol=1e-4, atol=1e-5)
    assert int(other.members.sum()) == len(new) * tokens
    assert [tuple(span) for span in whole.spans] == [(0, len(new) - 1)]


@pytest.mark.parametrize("segmenter", ["luma", "dinov2"])
def test_skipped_frames_cost_no_vision_pass_and_are_in_the_ledger(nano, tmp_path, segmenter, monkeypatch):
    frames = np.repeat(still_then_change(), 5, 0)
    clip = write_clip(tmp_path / "still.mp4", frames)
    seen = []
    encode = nano.family.encode
    monkeypatch.setattr(nano.family, "encode", lambda pixels, *rest: seen.append(len(pixels)) or encode(pixels, *rest))
    answer = nano.ask(clip, "what happens at the end?", keep=0.25, segmenter=segmenter, max_new_tokens=2)
    stage = answer.ledger.find("segment")
    assert (stage.into, stage.out) == (8, seen[0])
    assert seen[0] < 8
    assert answer.to_dict()["frames"]["encoded"] == seen[0]
    assert answer.ledger.tokens.uncompressed == 8 * 36
    assert answer.ledger.tokens.kept <= 0.25 * 8 * 36 + 8
    assert answer.ledger.spans[-1].end == 7
    whole = nano.compress(clip, keep=1.0, segmenter=segmenter)
    assert len(nano.compress(clip, keep=0.25, method="uniform", segmenter=segmenter).tokens) == 72  # of all 8 frames
    assert int(whole.tokens.members.sum()) == 8 * 36
    assert len(whole.tokens) == seen[0] * 36


def write_clip(path, frames):
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=10)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt, stream.options = "yuv420p", {"crf": "18"}
        for frame in frames:
            output.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        output.mux(stream.encode())
    return path


def test_identity_keeps_every_token():
    view = TokenView(torch.randn(3, 4, 5), (2, 2), torch.arange(3))
    assert torch.equal(apply_reduction(view, identity(3, 4)).features, view.features.flatten(0, 1))
