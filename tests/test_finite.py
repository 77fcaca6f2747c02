# SPDX-License-Identifier: Apache-2.0
"""Numbers that are not finite end a run with one error, whatever the method, and never with an empty answer."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from clips import make_clip
from test_methods_properties import make_view
from typer.testing import CliRunner

import vidcomp
from vidcomp.cli.app import app
from vidcomp.config import OuterConfig
from vidcomp.engine.finite import check_finite
from vidcomp.engine.outer import reduced
from vidcomp.errors import ModelError
from vidcomp.methods import get_method, method_names
from vidcomp.spans import every_frame

QUESTION = "what happens at the end?"
SIGNALS = (
    "features", "salience", "cls_attention", "cls_by_layer", "keys", "encoder_features", "frame_features", "query",
)  # fmt: skip
PLANTED = [float("nan"), float("inf"), -float("inf")]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return make_clip(tmp_path_factory.mktemp("clips") / "clip.mp4", frames=40)


def planted(tensor: torch.Tensor, number: float) -> torch.Tensor:
    """One entry in the middle is that number."""
    spoilt = tensor.detach().clone()
    spoilt.view(-1)[spoilt.numel() // 2] = number
    return spoilt


@pytest.mark.parametrize("number", PLANTED)
@pytest.mark.parametrize("name", method_names())
def test_every_method_under_every_budget(name, number):
    view, plan = make_view("scenes", (4, 9, 8), torch.float32, 0), every_frame(4)
    spoilt = replace(view, features=planted(view.features, number))
    for config in (OuterConfig(keep=0.3), OuterConfig(keep=1.0), OuterConfig(keep=0.3, keep_tokens=5)):
        assert reduced(view, plan, get_method(name), config)[0].kept
        with pytest.raises(ModelError, match=r"visual tokens.* are not finite") as error:
            reduced(spoilt, plan, get_method(name), config)
        assert "--dtype bfloat16" in error.value.hint and error.value.code == "not_finite"


@pytest.mark.parametrize("number", PLANTED)
@pytest.mark.parametrize("signal", SIGNALS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_every_signal_is_looked_at(signal, number, dtype):
    view = make_view("scenes", (4, 9, 8), dtype, 0)
    check_finite(view)
    with pytest.raises(ModelError, match="not finite") as error:
        check_finite(replace(view, **{signal: planted(getattr(view, signal), number)}))
    assert ("65504" in error.value.why) == (getattr(view, signal).dtype == torch.float16)


def test_deepstack_is_looked_at():
    view = make_view("scenes", (4, 9, 8), torch.float32, 0)
    levels = (view.features, planted(view.features, float("nan")))
    with pytest.raises(ModelError, match="DeepStack level 1"):
        check_finite(replace(view, deepstack=levels))


def test_the_first_stage_that_overflowed_is_named():
    view = make_view("scenes", (4, 9, 8), torch.float16, 0)
    both = replace(view, keys=planted(view.keys, float("inf")), features=planted(view.features, float("nan")))
    with pytest.raises(ModelError, match="keys of the vision tower"):
        check_finite(both)


@pytest.fixture
def nano_alone():
    """A model of one's own to damage."""
    with vidcomp.load("nano", device="cpu") as lm:
        yield lm


def spoil(module: torch.nn.Module, number: float = float("nan")) -> None:
    with torch.no_grad():
        parameter = next(module.parameters())
        parameter.copy_(torch.full_like(parameter, number))


@pytest.mark.parametrize("keep", [1.0, 0.2])
@pytest.mark.parametrize("method", ["holitom", "mmtok", "uniform"])
def test_a_broken_tower_is_an_error(nano_alone, clip, method, keep):
    spoil(nano_alone.family.tower)
    with pytest.raises(ModelError, match="not finite"):
        nano_alone.ask(clip, QUESTION, method=method, keep=keep)
    with pytest.raises(ModelError, match="not finite"):
        "".join(nano_alone.stream(clip, QUESTION, method=method, keep=keep))


@pytest.mark.parametrize("temperature", [0, 1.0])
@pytest.mark.parametrize("keep", [1.0, 0.2])
def test_broken_logits_are_an_error(nano_alone, clip, keep, temperature):
    """Also while sampling, where the library would end in an error of its own, and for a video that is asked again."""
    encoded = nano_alone.compress(clip, keep=keep, method="uniform")
    spoil(nano_alone.family.model.get_output_embeddings())
    for video in (clip, encoded):
        settings = {"keep": keep, "method": "uniform"} if video is clip else {}
        said: list[str] = []
        with pytest.raises(ModelError, match="logits of the language model are not finite"):
            nano_alone.ask(video, QUESTION, temperature=temperature, on_text=said.append, max_new_tokens=30, **settings)
        assert len(said) < 3  # it ends at the first token, not after thirty


def test_logits_that_break_later_are_an_error(nano_alone, clip):
    calls = []

    def later(module, args, output):
        calls.append(1)
        return output * float("nan") if len(calls) > 2 else output

    handle = nano_alone.family.model.get_output_embeddings().register_forward_hook(later)
    with pytest.raises(ModelError, match="logits"):
        nano_alone.ask(clip, QUESTION, max_new_tokens=5)
    handle.remove()


def test_one_token_that_may_not_be_chosen_is_fine(nano, clip):
    def forbid(module, args, output):
        return output.index_fill(-1, torch.tensor([0]), -float("inf"))

    handle = nano.family.model.get_output_embeddings().register_forward_hook(forbid)
    try:
        assert nano.ask(clip, QUESTION, keep=1.0).text
    finally:
        handle.remove()


def test_the_command_line_says_one_error(clip, monkeypatch):
    from vidcomp.families import load_family

    def broken(config):
        family = load_family(config)
        spoil(family.tower)
        return family

    monkeypatch.setattr("vidcomp.engine.run.load_family", broken)
    for keep in ("1", "0.1"):
        found = CliRunner().invoke(app, ["ask", str(clip), QUESTION, "--keep", keep])
        assert isinstance(found.exception, ModelError) and found.exception.status == 4 and not found.stdout.strip()


@pytest.mark.parametrize("keep", [1.0, 0.3])
def test_the_drop_in_looks_too(replicas, keep):
    from families import load, moving_square, stock_inputs

    family = load(replicas("llava_onevision"))
    clip = moving_square(3)
    layout = family.layout([0.0, 1.0, 2.0], *clip.shape[1:3], 3.0)
    inputs = stock_inputs(family, clip, layout)
    spoil(family.tower)
    with torch.no_grad(), vidcomp.attach(family.model, keep=keep, method="uniform"):
        with pytest.raises(ModelError, match="not finite"):
            family.model.generate(**inputs, max_new_tokens=2)
