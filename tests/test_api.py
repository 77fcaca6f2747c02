# SPDX-License-Identifier: Apache-2.0
"""The public names, as README and the outside use them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import vidcomp

ROOT = Path(__file__).resolve().parent.parent
USER = """
import torch
import vidcomp

lm = vidcomp.load("nano", device="auto", dtype="auto")
out = lm.ask("movie.mp4", "what happens at the end?", keep=0.1, method="holitom")
text: str = out.text
ledger: vidcomp.StageLedger = out.ledger
for piece in lm.stream("movie.mp4", "describe", keep=0.1):
    text += piece
encoded: vidcomp.EncodedVideo = lm.encode("movie.mp4")
video: vidcomp.CompressedVideo = encoded.compress(keep=0.1)
lm.ask(video, "first?")
method = vidcomp.get_method("holitom", tau=0.8)
view = vidcomp.TokenView(torch.zeros(2, 4, 8), (2, 2), torch.arange(2), salience=torch.zeros(2, 4))
reduction: vidcomp.Reduction = method(view, keep=0.15)
tokens: torch.Tensor = vidcomp.apply_reduction(view, reduction).features
names = [info.name for info in vidcomp.list_methods()]
with vidcomp.attach(lm.family.model, method="holitom", keep=0.1) as run:
    ledgers: list[vidcomp.StageLedger] = run.ledgers
"""


def test_methods_are_listed():
    import vidcomp.methods.holitom as module

    names = [info.name for info in vidcomp.list_methods()]
    assert {"holitom", "none", "random", "uniform"} <= set(names)
    assert isinstance(vidcomp.get_method("holitom", tau=0.8), module.Holitom)
    with pytest.warns(DeprecationWarning, match="list_methods"):
        assert [info.name for info in vidcomp.methods()] == names


def test_earlier_names_warn(nano, clip):
    with pytest.warns(DeprecationWarning, match=r"vidcomp\.attach"):
        assert vidcomp.compress is vidcomp.attach
    with pytest.warns(DeprecationWarning, match=r"lm\.encode"):
        encoded = nano.watch(clip)
    assert isinstance(encoded, vidcomp.EncodedVideo)


def test_an_encoded_video_is_compressed_as_often_as_wanted(nano, clip):
    encoded = nano.encode(clip)
    small, smaller = encoded.compress(keep=0.25), encoded.compress(keep=0.1, method="uniform")
    assert len(smaller.tokens) < len(small.tokens) < encoded.view.total
    assert (
        nano.ask(small, "what happens at the end?").text == nano.ask(clip, "what happens at the end?", keep=0.25).text
    )


def test_every_public_name_exists():
    for name in vidcomp.__all__:
        assert getattr(vidcomp, name) is not None
        assert name in dir(vidcomp)
    with pytest.raises(AttributeError, match="nothing"):
        vidcomp.nothing  # noqa: B018


def test_importing_is_cheap():
    code = "import vidcomp, vidcomp.config, sys; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_user_script_type_checks(tmp_path):
    (tmp_path / "user.py").write_text(USER)
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--cache-dir",
        str(tmp_path / "cache"),
        str(tmp_path / "user.py"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout


def test_a_method_on_bare_tensors():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(4, 9, 16, generator=generator)
    view = vidcomp.TokenView(features, (3, 3), torch.arange(4), salience=torch.rand(4, 9, generator=generator))
    reduction = vidcomp.get_method("holitom")(view, keep=0.25)
    tokens = vidcomp.apply_reduction(view, reduction)
    assert tokens.features.shape == (reduction.kept, 16)
    assert len(tokens) == len(tokens.positions) == len(tokens.members)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (dict(features=torch.zeros(2, 4)), r"\[T, N, D\]"),
        (dict(features=torch.zeros(0, 4, 8)), "not empty"),
        (dict(grid=(3, 2)), "does not hold"),
        (dict(times=torch.zeros(3)), "times"),
        (dict(salience=torch.zeros(2, 3)), "salience"),
    ],
)
def test_a_view_checks_its_shapes(wrong, words):
    good = dict(features=torch.zeros(2, 4, 8), grid=(2, 2), times=torch.arange(2))
    assert vidcomp.TokenView(**good).total == 8
    with pytest.raises(ValueError, match=words):
        vidcomp.TokenView(**{**good, **wrong})


@pytest.mark.parametrize(
    ("anchors", "assign", "weights", "words"),
    [
        ([], [-1, -1, -1], [1.0] * 3, "between 1 and 3"),
        ([0, 0], [0, 1, 1], [1.0] * 3, "repeat"),
        ([2, 1], [0, 1, 1], [1.0] * 3, "not ascending"),
        ([0, 3], [0, 1, 1], [1.0] * 3, "outside the video"),
        ([0, 1], [0, 1, 2], [1.0] * 3, "outside the survivors"),
        ([0, 1], [0, 1, 1], [1.0, 1.0, float("nan")], "not finite"),
        ([0, 1], [0, 1, 1], [1.0] * 2, "weights"),
    ],
)
def test_a_reduction_checks_itself(anchors, assign, weights, words):
    with pytest.raises(ValueError, match=words):
        vidcomp.Reduction(torch.tensor(anchors).long(), torch.tensor(assign), torch.tensor(weights))


def test_features_that_are_not_finite_are_refused():
    view = vidcomp.TokenView(torch.full((1, 2, 3), float("inf")), (1, 2), torch.zeros(1))
    keep = vidcomp.Reduction(torch.tensor([0]), torch.tensor([0, 0]), torch.tensor([0.5, 0.5]))
    with pytest.raises(ValueError, match="not finite"):
        vidcomp.apply_reduction(view, keep)
