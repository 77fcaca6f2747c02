# SPDX-License-Identifier: Apache-2.0
"""Frames that show the same picture again are not encoded, and their tokens are absorbed with correct counts."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import vidcomp
from vidcomp.bench.spans import bench_spans
from vidcomp.core.tokens import Reduction, Span, TokenView, apply_reduction, compose, identity
from vidcomp.errors import ModelError, UsageError
from vidcomp.spans import FramePlan, find_duplicates, find_segments, frame_encoder, with_copies
from vidcomp.spans.boundaries import cut_steps
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


def encoder_for(kind, checkpoint=None):
    return frame_encoder(kind, checkpoint, device="cpu", offline=True, embedded=True)


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


def test_a_missing_or_wrong_checkpoint_is_a_model_error(tmp_path):
    with pytest.raises(ModelError, match="not available"):
        encoder_for("clip")
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(ModelError, match="is a vit checkpoint"):
        encoder_for("dinov2", str(tmp_path))


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
    encoder = encoder_for("clip", str(tmp_path))
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


@given(
    st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=12),
)
def test_repeats_get_the_rows_of_what_they_repeat(frames):
    """Whatever merged in the tower: (enters, leaves) of each frame."""
    enters = [True, *(frame[0] for frame in frames[1:])]
    leaves = [True, *(frame[1] for frame in frames[1:])]
    encode = torch.tensor([i for i, fresh in enumerate(enters) if fresh])
    repeats = FramePlan(encode, torch.tensor(enters).long().cumsum(0) - 1)
    left = [i for i in encode.tolist() if leaves[i]]
    plan, row = with_copies(FramePlan(torch.tensor(left), torch.zeros(len(frames))), repeats)
    assert plan.encode.tolist() == [i for i in range(len(frames)) if int(encode[repeats.source[i]]) in left]
    assert [left[i] for i in row.tolist()] == encode[repeats.source[plan.encode]].tolist()
    assert plan.source[plan.encode].tolist() == list(range(len(plan.encode)))
    assert (plan.source.diff() >= 0).all() and plan.source[0] == 0


@pytest.mark.parametrize("segmenter", ["tower", "luma", "dinov2"])
def test_skipped_frames_cost_no_vision_pass_and_are_in_the_ledger(nano, tmp_path, segmenter, monkeypatch):
    frames = np.repeat(still_then_change(), 5, 0)
    clip = write_clip(tmp_path / "still.mp4", frames)
    seen = []
    encode = nano.family.encode
    monkeypatch.setattr(nano.family, "encode", lambda pixels, *rest: seen.append(len(pixels)) or encode(pixels, *rest))
    skipping = {"segmenter": segmenter, "skip_repeats": "auto"}
    answer = nano.ask(clip, "what happens at the end?", keep=0.25, max_new_tokens=2, **skipping)
    stage = answer.ledger.find("segment")
    assert (stage.into, stage.out) == (8, seen[0])
    assert seen[0] < 8
    assert answer.to_dict()["frames"]["encoded"] == seen[0]
    assert answer.ledger.tokens.uncompressed == answer.ledger.find("compress").into == 8 * 36
    assert answer.ledger.spans[-1].end == 7
    whole = nano.compress(clip, keep=1.0, **skipping)  # a frame that was not encoded has rows like any other
    assert len(whole.tokens) == 8 * 36
    assert len(nano.compress(clip, keep=0.25, method="uniform", **skipping).tokens) == 72
    assert whole.encoded.entered.numel() == seen[0]


@pytest.mark.parametrize("method", ["holitom", "fastvid", "prunevid", "flashvid", "kitoke", "visionzip", "longvu"])
def test_a_frame_that_stands_for_several_counts_as_often(nano, method):
    """Of frames that are equal only the first is encoded, and everything is decided as if all had been."""
    picture = still_then_change()[[0, 4, 7]]
    frames = vidcomp.FrameSequence(picture[[0, 0, 0, 0, 1, 1, 1, 2]], fps=1)
    settings = {"method": method, "keep": 0.2, "segmenter": "tower", "question": "what happens?"}
    every, some = (nano.compress(frames, skip_repeats=limit, **settings) for limit in ("off", "1"))
    assert (every.ledger.frames_encoded, some.ledger.frames_encoded) == (8, 3)
    assert some.reduction.spans == every.reduction.spans
    assert torch.equal(some.reduction.anchors, every.reduction.anchors)
    torch.testing.assert_close(some.tokens.features, every.tokens.features, rtol=1e-4, atol=1e-4)


def test_earlier_spellings_work_and_say_so(nano, tmp_path):
    clip = write_clip(tmp_path / "still.mp4", np.repeat(still_then_change(), 2, 0))
    with pytest.warns(DeprecationWarning, match="--same-frame 0.5 is now --skip-repeats 0.5"):
        old = nano.encode(clip, segmenter="luma", same_frame=0.5)
    assert old.ledger.frames_encoded == nano.encode(clip, segmenter="luma", skip_repeats=0.5).ledger.frames_encoded < 8
    with pytest.warns(DeprecationWarning, match="--segmenter luma now decides the spans"):
        assert nano.encode(clip, segmenter="luma").ledger.frames_encoded == 8
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        nano.encode(clip, segmenter="luma", skip_repeats="off")
    for wrong, says in (({"skip_repeats": "some"}, "off, auto"), ({"skip_repeats": 1.5}, "-1 to 1"),
                        ({"skip_repeats": "auto", "same_frame": 0.5}, "two names")):  # fmt: skip
        with pytest.raises(UsageError, match=says):
            nano.encode(clip, **wrong)


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


def alternating(length, frames):
    """Still pictures of ``length`` frames each, with the noise of a camera, and where they begin."""
    rng = np.random.default_rng(length)
    count = -(-frames // length)
    pictures = rng.integers(0, 256, (count, 6, 8, 3), dtype=np.uint8).repeat(20, 1).repeat(20, 2)
    shown = pictures.repeat(length, 0)[:frames].astype(int) + rng.integers(-4, 5, (frames, 120, 160, 3))
    return np.clip(shown, 0, 255).astype(np.uint8), list(range(0, frames, length))


@pytest.mark.parametrize("rule", ["gain", "fall"])
@pytest.mark.parametrize("kind", ["luma", "dinov2"])
def test_spans_end_at_cuts_and_nowhere_in_still_parts(kind, rule):
    encoder = encoder_for(kind)
    for length in (2, 5, 11):
        frames, starts = alternating(length, 22)
        found = find_segments(kind, encoder(frames), encoder, rule)
        assert [span.start for span in found.spans] == starts
        assert found.similarity.argsort()[: len(starts) - 1].sort().values.tolist() == [at - 1 for at in starts[1:]]
    alone = find_segments(kind, encoder(frames[:1]), encoder, rule)
    assert (alone.spans, len(alone.similarity)) == ((Span(0, 0),), 0)


@pytest.mark.parametrize("joint", ["cut", "dissolve", "montage"])
def test_known_cuts_are_found_within_one_sampled_frame(nano, joint):
    """In joined clips of people who talk, slides, a shaking camera, the little world and long still parts."""
    scores = bench_spans(nano, joint, ("tower", "luma", "dinov2"), clips=2, frames=24, seed=7)
    assert [(score.segmenter, score.rule) for score in scores][::2] == [
        ("tower", ""), ("luma", "fall"), ("dinov2", "fall"),
    ]  # fmt: skip
    for score in scores[1:]:
        assert score.recall == 1
        assert score.whole == score.still
        assert score.precision >= (0.99 if score.segmenter == "dinov2" and score.rule == "fall" else 0.6)


def test_a_dissolve_is_cut_where_it_changes_most_and_steady_motion_is_not():
    steady = torch.full((20,), 0.75)
    assert cut_steps(steady, 0.6).tolist() == []
    assert cut_steps(torch.where(torch.arange(20) == 9, 0.5, steady), 0.6).tolist() == [9]
    calm = torch.full((20,), 0.97)
    calm[8:11] = torch.tensor([0.9, 0.75, 0.85])
    assert cut_steps(calm, 0.6).tolist() == [9]


@pytest.mark.parametrize("method", ["holitom", "fastvid", "prunevid", "flashvid", "kitoke", "aot", "cluster"])
def test_a_run_works_in_the_spans_of_its_segmenter(nano, tmp_path, method):
    """From the file to the ledger: nothing merges across a span that DINOv2 found, and the record says whose it is."""
    frames, _ = alternating(11, 22)
    clip = write_clip(tmp_path / "cut.mp4", frames.repeat(4, 0))
    tower = nano.compress(clip, method=method, frames=12)
    ready = tower.encoded.compress(method=method, segmenter="dinov2", skip_repeats="off")
    assert {(0, 5), (6, 11)} == {tuple(span) for span in ready.encoded.segments.spans}
    assert {0, 6} <= {span.start for span in ready.reduction.spans}
    owned = ready.reduction.assign >= 0
    anchor = ready.reduction.anchors[ready.reduction.assign[owned]]
    assert torch.equal(anchor // 36 < 6, owned.nonzero()[:, 0] // 36 < 6)
    record = ready.ledger.segmentation.to_dict()
    assert (record["segmenter"], len(record["similarity"])) == ("dinov2", 11)
    assert record["rule"] == ("gain" if method in ("holitom", "prunevid") else "fall")
    assert tower.ledger.segmentation.to_dict() == {"segmenter": "tower"}
    assert torch.equal(tower.encoded.view.features, ready.encoded.view.features)
    assert ready.ledger.find("segment").into == ready.ledger.find("segment").out == 12
    again = ready.encoded.compress(method=method, segmenter="tower")
    assert torch.equal(again.reduction.anchors, tower.reduction.anchors)


def test_who_cannot_work_in_spans_says_so(nano, tmp_path):
    clip = write_clip(tmp_path / "cut.mp4", alternating(8, 16)[0])
    told = nano.compress(clip, method="uniform", segmenter="dinov2", skip_repeats="off").ledger
    assert "uniform does not work in spans: --segmenter dinov2 changes nothing" in told.notes
    assert nano.compress(clip, method="uniform").ledger.segmentation.to_dict() == {"segmenter": None}
    longvu = {"method": "longvu", "question": "what happens?", "skip_repeats": "off"}
    assert not any("changes nothing" in note for note in nano.compress(clip, segmenter="dinov2", **longvu).ledger.notes)
    with pytest.raises(UsageError, match="--segmenter luma together with --encoder earlytom"):
        nano.encode(clip, segmenter="luma", skip_repeats="off", encoder="earlytom")
    with pytest.raises(UsageError, match="segmenter 'dinov2' in the drop-in"):
        vidcomp.attach(nano.family.model, segmenter="dinov2")


def test_frames_are_encoded_while_they_are_read_whoever_finds_the_spans(nano, tmp_path, monkeypatch):
    clip = write_clip(tmp_path / "cut.mp4", alternating(8, 16)[0])
    late = []
    monkeypatch.setattr("vidcomp.engine.run.encoded_with", lambda *rest: late.append(rest))
    streamed = nano.encode(clip, segmenter="dinov2", skip_repeats="off")
    assert not late and streamed.segments is not None
    assert torch.equal(streamed.view.features, nano.encode(clip).view.features)
