# SPDX-License-Identifier: Apache-2.0
"""Every family: slices encoded alone or in chunks, signals in the place of their tokens, a whole run from a file."""

from __future__ import annotations

import sys
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import torch
from families import FAMILY_NAMES, QUESTION, checkpoint, load, moving_square
from test_spans import write_clip

import vidcomp
from vidcomp.config import ModelConfig
from vidcomp.core.published import fitted
from vidcomp.errors import InputError, ModelError
from vidcomp.families import FAMILIES, load_family
from vidcomp.families.smolvlm import in_words
from vidcomp.tower.probe import attention_of, encoder_layers

TIMES = [0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0]


@pytest.fixture(scope="module")
def folder(replicas, tmp_path_factory):
    root = tmp_path_factory.mktemp("siblings")
    return lambda name: checkpoint(replicas, root, name)


@pytest.fixture(scope="module")
def family(folder):
    return cache(lambda name: load(folder(name)))


def watched(adapter, monkeypatch):
    """How many slices each call of the tower gets."""
    seen, features = [], adapter.features
    monkeypatch.setattr(
        adapter, "features", lambda pixels, layout: seen.append(len(pixels)) or features(pixels, layout)
    )
    return seen


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_some_slices_alone_are_what_they_are_in_the_whole(family, name, monkeypatch):
    adapter = family(name)
    signals = adapter.signals  # all that it claims to give
    clip = moving_square(2 * adapter.frames_per_slice + 1)
    layout = adapter.layout(TIMES[: len(clip)], *clip.shape[1:3], 4.0)
    whole = adapter.encode(clip, signals, layout)
    for table in (whole.features, *whole.signals.values()):
        assert table.shape[:2] == (layout.slices, layout.tokens)
    some = np.array([0, layout.slices - 1])
    seen = watched(adapter, monkeypatch)
    monkeypatch.setattr(adapter, "chunk", 1)
    alone = adapter.encode(layout.gather(clip, some), signals, layout)
    assert seen == [1, 1]
    for one, other in zip((whole.features, *whole.deepstack), (alone.features, *alone.deepstack), strict=True):
        torch.testing.assert_close(one[some], other, rtol=0, atol=1e-5)
    assert whole.signals.keys() == signals
    for name, table in whole.signals.items():
        torch.testing.assert_close(table[some], alone.signals[name], rtol=1e-5, atol=1e-5)
        assert table.float().std() > 0


def test_a_chunk_is_bounded_by_its_patches(family, monkeypatch):
    adapter = family("qwen3_vl")
    clip = np.zeros((8, 64, 64, 3), np.uint8)
    layout = adapter.layout(range(8), 64, 64, 8.0)
    monkeypatch.setattr(adapter, "chunk_patches", 2 * layout.patches + 1)
    seen = watched(adapter, monkeypatch)
    adapter.encode(clip, layout=layout)
    assert seen == [2, 2]


def test_salience_of_window_attention_is_put_back_in_place(family):
    """Recomputed from the queries and keys of the tower's layer, with the library's own order of windows."""
    from transformers.vision_utils import get_vision_window_index

    adapter = family("qwen2_5_vl")
    clip = moving_square(4, 28 * 5, 28 * 7)  # windows are 4 x 4 tokens: none of the sides fits
    layout = adapter.layout_of(clip)
    assert layout.grid == (5, 7)
    attention = attention_of(encoder_layers(adapter.tower)[adapter.last_layer])
    seen = []
    handle = attention.register_forward_pre_hook(lambda m, args, kwargs: seen.append((args, kwargs)), with_kwargs=True)
    ours = adapter.encode(clip, frozenset({"salience"}), layout).signals["salience"]
    handle.remove()
    (args, kwargs), vision = seen[0], adapter.model.config.vision_config
    rows = args[0] if args else kwargs["hidden_states"]
    with torch.no_grad():
        query, key, _ = attention.qkv(rows).view(len(rows), 3, attention.num_heads, -1).unbind(1)
        rotate = sys.modules[type(attention).__module__].apply_rotary_pos_emb_vision
        query, key = rotate(query, key, *kwargs["position_embeddings"])
    query, key = (part.view(layout.slices, layout.patches, *part.shape[1:]).transpose(1, 2) for part in (query, key))
    weights = (query @ key.transpose(2, 3) * attention.scaling).softmax(-1).mean((1, 2))  # [T, patches] in window order
    tokens = weights.view(layout.slices, layout.tokens, 4).mean(2).flatten()
    thw = adapter.thw(layout.slices, layout)
    order = get_vision_window_index(
        thw, spatial_merge_size=2, window_size=vision.window_size, patch_size=vision.patch_size
    )
    expected = tokens[torch.as_tensor(order[0]).argsort()].view_as(ours)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-6)
    assert (ours - tokens.view_as(ours)).abs().max() > 1e-4  # the order of windows is another one


@pytest.mark.parametrize("name", ["internvl3", "smolvlm2", "smolvlm2_2b"])
def test_pooled_signals_follow_the_librarys_pixel_shuffle(family, name):
    adapter = family(name)
    side = adapter.patches_per_side
    values = torch.randn(2, side * side, generator=torch.Generator().manual_seed(0))
    base = adapter.model.base_model
    if name == "internvl3":
        shuffled = base.pixel_shuffle(values.view(2, side, side, 1), scale_factor=0.5).flatten(1, 2)
    else:
        shuffled = base.connector.pixel_shuffle(values[:, :, None], adapter.model.config.scale_factor)
    ours = adapter.pool(values, adapter.layout(TIMES[:2], 30, 40))
    torch.testing.assert_close(ours, shuffled.mean(-1), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["llava_onevision", "internvl3", "qwen2_5_vl", "qwen3_vl"])
def test_signals_with_channels_are_pooled_channel_by_channel(family, name):
    adapter = family(name)
    layout = adapter.layout(TIMES[:2], 28 * 5, 28 * 7)
    values = torch.randn(2, layout.patches, 3, generator=torch.Generator().manual_seed(1))
    each = [adapter.pool(values[:, :, channel], layout) for channel in range(3)]
    torch.testing.assert_close(adapter.pool(values, layout), torch.stack(each, -1), rtol=0, atol=1e-6)


@pytest.fixture(scope="module")
def half_still(tmp_path_factory):
    """Six seconds at ten frames per second: nothing moves in the first four."""
    moving = moving_square(20, 64, 96)
    frames = np.concatenate([np.repeat(moving[:1], 40, 0), moving])
    return write_clip(tmp_path_factory.mktemp("clips") / "half_still.mp4", frames)


@pytest.mark.parametrize("name", [name for name in FAMILY_NAMES if not name.endswith(("_tied", "_2b"))])
def test_a_run_from_a_file(folder, half_still, name, monkeypatch):
    with vidcomp.load(str(folder(name)), device="cpu", dtype="float32", frames=8, max_new_tokens=2) as lm:
        seen = watched(lm.family, monkeypatch)
        answer = lm.ask(half_still, QUESTION, keep=0.3, method="holitom", skip_repeats="auto", temperature=0)
        tokens, ledger = answer.ledger.tokens, answer.ledger
        layout = lm.encode(half_still).layout
    slices = 8 // lm.family.frames_per_slice
    assert sum(seen[:1]) * lm.family.frames_per_slice == ledger.frames_encoded == answer.to_dict()["frames"]["encoded"]
    assert ledger.frames_encoded <= 8 - 4 // lm.family.frames_per_slice
    assert tokens.uncompressed == slices * layout.tokens
    assert 0 < tokens.kept < 0.45 * tokens.uncompressed
    assert tokens.after_llm_layer < tokens.kept
    assert tokens.sequence == tokens.kept + tokens.separators + tokens.text + tokens.markers == ledger.layer_rows[0]
    marked = bool(lm.family.markers(layout).opening[0])
    assert (tokens.markers > 0) == marked
    spans = answer.ledger.spans
    assert (spans[0].start, spans[-1].end) == (0, 7)
    assert all(one.end + 1 == other.start for one, other in pairwise(spans))
    assert sum(span.kept for span in spans) == tokens.kept
    assert len(ledger.frame_times) == 8


@pytest.mark.parametrize("segmenter", ["tower", "dinov2"])
def test_other_segmenters_see_pairs_too(folder, half_still, segmenter):
    with vidcomp.load(str(folder("qwen3_vl")), device="cpu", dtype="float32", frames=7, max_new_tokens=1) as lm:
        looking = {"segmenter": segmenter, "skip_repeats": "auto", **EMBEDDED[segmenter]}
        answer = lm.ask(half_still, QUESTION, keep=0.5, temperature=0, **looking)
    assert answer.ledger.frames_encoded < 7
    assert answer.ledger.spans[-1].end == 6
    assert answer.ledger.segmentation.segmenter == segmenter
    assert len(answer.ledger.segmentation.similarity) == (3 if segmenter == "dinov2" else 0)


EMBEDDED = {"tower": {}, "dinov2": {"segmenter_model": "embedded"}}


def test_markers_of_the_frames_that_are_left(family):
    """What each family reads when the second of three slices lost everything, word for word."""
    expected = {
        "internvl3": "Frame1: <img></img>\nFrame3: <img></img>\nWhat",
        "smolvlm2": "three frames from a 0:00:06 [H:MM:SS] video.\n\nFrame from 00:00:<fake_token_around_image>"
        "<global-img><fake_token_around_image>\nFrame from 00:04:<fake_token_around_image><global-img>"
        "<fake_token_around_image>\n\nWhat",
        "video_llama_3": "Time 0.0s:,Time 4.0s:\nWhat",
        "qwen3_vl": "<|vision_start|><1.0 seconds><|vision_start|><|vision_end|><9.0 seconds><|vision_start|>"
        "<|vision_end|><|vision_end|>What",
        "qwen2_5_vl": "<|vision_start|><|vision_end|>What",
    }
    for name, words in expected.items():
        adapter = family(name)
        layout = adapter.layout([2.0 * i for i in range(3 * adapter.frames_per_slice)], 56, 84, 6.0)
        prompt = adapter.prompt(QUESTION, layout)
        survivors = torch.tensor([0, 2 * layout.tokens])
        text = adapter.tokenizer.decode(prompt.arranged(survivors, layout.tokens).text)
        assert words in text, (name, text)
        only_last = adapter.tokenizer.decode(prompt.arranged(survivors[1:], layout.tokens).text)
        assert (
            ",Time" not in only_last and "\n\nFrame3" not in only_last
        )  # nothing is set off from a slice that is gone


def test_an_unknown_family_is_named_with_the_known_ones(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "kosmos"}')
    with pytest.raises(ModelError, match="kosmos") as found:
        load_family(ModelConfig(model=str(tmp_path), device="cpu"))
    assert found.value.status == 4
    assert all(name in str(found.value) for name in FAMILIES)


def test_picture_sizes_stay_within_their_bounds():
    assert fitted(720, 1280, 28, 3136, 12845056) == (728, 1288)
    for height, width in ((720, 1280), (61, 150), (4000, 30), (28, 28)):
        high, wide = fitted(height, width, 28, 3136, 200704)
        assert high % 28 == wide % 28 == 0
        assert high * wide <= 200704


def test_a_picture_of_extreme_shape_is_an_input_error(family):
    with pytest.raises(InputError, match="200 : 1"):
        family("qwen2_5_vl").layout([0.0], 5, 2000)


def test_numbers_in_words():
    """As num2words spells them."""
    assert [in_words(n) for n in (0, 8, 19, 32, 60, 100, 101, 342, 1000, 1024, 1234)] == [
        "zero", "eight", "nineteen", "thirty-two", "sixty", "one hundred", "one hundred and one",
        "three hundred and forty-two", "one thousand", "one thousand and twenty-four",
        "one thousand, two hundred and thirty-four",
    ]  # fmt: skip
