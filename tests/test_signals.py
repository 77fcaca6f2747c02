# SPDX-License-Identifier: Apache-2.0
"""Signals of the vision tower and of the pipeline, against the stock model's own outputs and slow formulas."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from clips import make_clip
from torch import Tensor

from vidcomp.core.tokens import Reduction, TokenView, identity
from vidcomp.errors import UsageError
from vidcomp.methods import get_method
from vidcomp.methods.base import Method, for_family, reads
from vidcomp.tower.probe import TOWER_SIGNALS, Heads, encoder_layers


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return make_clip(tmp_path_factory.mktemp("clips") / "clip.mp4", frames=12)


@pytest.fixture(scope="module")
def watched(nano, clip):
    return nano.encode(clip, method="random", frames=3, signals=TOWER_SIGNALS)


@pytest.fixture(scope="module")
def stock(nano, watched):
    """What each layer of the tower reads, [t, patches, C], taken by hooks on the library's own layers."""
    family = nano.family
    tower = family.model.get_encoder(modality="video")
    inputs: list[Tensor] = []
    hooks = [layer.register_forward_pre_hook(lambda _, args: inputs.append(args[0])) for layer in layers_of(family)]
    with torch.no_grad():
        tower(pixel_values=family.pixels(watched.frames.pixels))
    for hook in hooks:
        hook.remove()
    return inputs


def layers_of(family: Any) -> Any:
    return encoder_layers(family.tower)


def pooled(family: Any, table: Tensor) -> Tensor:
    """[t, patches, C] to [t, N, C], as the features are pooled."""
    side = family.patches_per_side
    planes = table.transpose(1, 2).reshape(len(table), -1, side, side)
    return F.interpolate(planes, size=family.grid, mode="bilinear").flatten(2).transpose(1, 2)


def projections(family: Any, inputs: Tensor, index: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values [t, H, P, d] of one layer, from its own weights."""
    layer = layers_of(family)[index]
    rows, heads = layer.layer_norm1(inputs), layer.self_attn.num_heads
    made = (getattr(layer.self_attn, f"{name}_proj")(rows) for name in "qkv")
    return tuple(table.unflatten(-1, (heads, -1)).transpose(1, 2) for table in made)


@torch.no_grad()
def test_signals_of_a_tower_without_class_token(nano, watched, stock):
    family, view = nano.family, watched.view
    query, key, value = projections(family, stock[family.last_layer], family.last_layer)
    attention = (query @ key.transpose(2, 3) * query.shape[-1] ** -0.5).softmax(-1)
    received = attention.mean((1, 2))
    mean_query = query.mean(2, keepdim=True) @ key.transpose(2, 3) * query.shape[-1] ** -0.5
    expected = {
        "salience": received[..., None],
        "cls_attention": received[..., None],
        "summary_attention": mean_query.softmax(-1).mean(1).transpose(1, 2),
        "keys": key.mean(1),
        "value_norm": value.mean(1).abs().sum(-1, keepdim=True),
        "encoder_features": layers_of(family)[family.last_layer](stock[family.last_layer], attention_mask=None),
    }
    for name, table in expected.items():
        found = getattr(view, name)
        found = found[..., None] if found.dim() == 2 else found
        torch.testing.assert_close(found, pooled(family, table), rtol=1e-4, atol=1e-5, msg=name)
    assert view.cls_by_layer.shape == (*view.features.shape[:2], family.last_layer + 1)
    torch.testing.assert_close(view.cls_by_layer[..., -1], view.cls_attention, rtol=1e-5, atol=1e-7)
    query, key, _ = projections(family, stock[0], 0)
    first = (query @ key.transpose(2, 3) * query.shape[-1] ** -0.5).softmax(-1).mean((1, 2))
    torch.testing.assert_close(view.cls_by_layer[..., :1], pooled(family, first[..., None]), rtol=1e-4, atol=1e-6)
    assert view.query is None and view.frame_features is None and view.value_similarity is None


def test_signals_of_a_tower_with_class_token():
    draw = torch.Generator().manual_seed(0)
    query, key, value = torch.randn(3, 2, 4, 7, 5, generator=draw)  # the first of 7 rows is the class token
    heads = Heads(query, key, value, 0.4, leading=1)
    for frame in range(2):
        weights = [(query[frame, h, 0] @ key[frame, h].T * 0.4).softmax(-1) for h in range(4)]
        alike = [(value[frame, h, 0] @ value[frame, h].T).softmax(-1) for h in range(4)]
        torch.testing.assert_close(heads.class_attention()[frame], sum(weights)[1:] / 4)
        torch.testing.assert_close(heads.summary_attention()[frame], sum(weights)[1:] / 4)
        torch.testing.assert_close(heads.value_similarity()[frame], sum(alike)[1:] / 4)
    torch.testing.assert_close(heads.value_norm(), value[:, :, 1:].mean(1).abs().sum(-1))


@pytest.mark.parametrize("trust", [1.2, 99.0])
def test_attention_from_patches_that_receive_much_themselves(monkeypatch, trust):
    monkeypatch.setattr("vidcomp.tower.probe._TRUST", trust)
    draw = torch.Generator().manual_seed(1)
    query, key, value = 2 * torch.randn(3, 2, 4, 9, 5, generator=draw)
    found = Heads(query, key, value, 0.4).trusted_attention()
    for frame in range(2):
        mean = (query[frame] @ key[frame].transpose(1, 2) * 0.4).softmax(-1).mean(0)
        received = mean.mean(0)
        trusted = [i for i in range(9) if received[i] > trust * received.mean()] or list(range(9))
        assert (len(trusted) < 9) == (trust < 2)
        torch.testing.assert_close(found[frame], mean[trusted].mean(0))


@dataclass(frozen=True)
class Reader(Method):
    """Notes what it is shown."""

    name: ClassVar[str] = "reader"
    summary: ClassVar[str] = "for the tests"
    source: ClassVar[str] = "nowhere"
    needs: ClassVar[frozenset[str]] = frozenset({"query", "frame_features"})
    wants: ClassVar[frozenset[str]] = frozenset({"keys", "value_similarity"})
    shown: ClassVar[list[TokenView]] = []

    def __call__(self, view: TokenView, keep: float) -> Reduction:
        self.shown.append(view)
        return identity(*view.features.shape[:2])


def test_the_question_and_the_frame_features_arrive(nano, clip):
    Reader.shown.clear()
    nano.ask(clip, "what happens?", method=Reader(), frames=3, keep=0.5, max_new_tokens=1)
    view = Reader.shown.pop()
    ids = nano.family.tokenizer("what happens?", add_special_tokens=False, return_tensors="pt").input_ids[0]
    assert torch.equal(view.query, nano.family.embed(ids))
    torch.testing.assert_close(view.frame_features, view.features.mean(1))
    assert set(view.signals) == {"query", "frame_features", "keys"}  # what the tower cannot give is only wanted
    encoded = nano.compress(clip, question="what happens?", method=Reader(), frames=3, keep=0.5, segmenter="luma",
                            skip_repeats="off")  # fmt: skip
    view = Reader.shown.pop()
    torch.testing.assert_close(view.frame_features, view.features.mean(1))  # brightness describes no frame
    assert encoded.question == "what happens?"
    with pytest.raises(UsageError, match="chooses tokens for a question"):
        nano.compress(clip, method=Reader(), frames=3, keep=0.5)


@dataclass(frozen=True)
class ByFamily(Reader):
    """Notes the parameters that it runs with."""

    cut: float | None = None
    least: int | None = None

    needs: ClassVar[frozenset[str]] = frozenset()
    by_family: ClassVar[dict[str, dict[str, float]]] = {
        "llava_onevision": {"cut": 0.5, "least": 4},
        "other": {"cut": 0},
    }
    ran: ClassVar[list[tuple[float | None, int | None]]] = []

    def __call__(self, view: TokenView, keep: float) -> Reduction:
        self.ran.append((self.cut, self.least))
        return identity(*view.features.shape[:2])


def test_defaults_follow_the_family_and_what_is_given_stays(nano, clip):
    assert nano.family.model_type == "llava_onevision"
    nano.ask(clip, "what happens?", method=ByFamily(least=7), frames=3, keep=0.5, max_new_tokens=1)
    assert ByFamily.ran.pop() == (0.5, 7)
    qwen = for_family(get_method("flashvid"), "qwen2_5_vl")
    assert (qwen.segments, qwen.event) == (4, False)
    assert for_family(get_method("flashvid", segments=8, event=True), "qwen2_5_vl").segments == 8
    assert for_family(get_method("fastvid"), "qwen2_5_vl").tau == 0.84
    assert for_family(get_method("fastvid"), "llava_onevision") == get_method("fastvid")


def test_another_question_is_noted(nano, clip, caplog):
    encoded = nano.compress(clip, question="what happens?", method=Reader(), frames=3, keep=0.5)
    nano.ask(encoded, "what happens?", max_new_tokens=1)
    assert not caplog.records
    nano.ask(encoded, "how many objects are there?", max_new_tokens=1)
    assert "another question" in caplog.text


def test_signals_that_a_family_lacks():
    class Old:  # a method with the attributes of the first release only
        needs = frozenset({"salience"})

    assert reads(Old(), TOWER_SIGNALS) == {"salience"}
    assert reads(Reader(), TOWER_SIGNALS) == {"query", "frame_features", "keys"}


def test_shapes_that_do_not_fit():
    good = dict(features=torch.zeros(2, 4, 8), grid=(2, 2), times=torch.arange(2))
    for wrong in ({"query": torch.zeros(3, 7)}, {"keys": torch.zeros(2, 3, 5)}, {"frame_features": torch.zeros(3, 5)}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            TokenView(**good, **wrong)
