# SPDX-License-Identifier: Apache-2.0
"""Loading by name, damaged checkpoints, facts of a family."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from vidcomp.config import ModelConfig
from vidcomp.core.pixels import normalize, resize, to_channels_first
from vidcomp.errors import ModelError, OutOfMemory
from vidcomp.families import FAMILIES, load_family
from vidcomp.hub import EMBEDDED, checkpoint_folder, pick_device, pick_dtype

DATA = Path(__file__).parent / "data"
sys.path.insert(0, str(DATA))
from make_library_goldens import made_up_clip  # noqa: E402


@pytest.fixture(scope="module")
def family(replicas):
    return load_family(ModelConfig(model=str(replicas("llava_onevision")), device="cpu"))


def test_a_template_without_a_video_is_a_damaged_checkpoint(family, monkeypatch):
    monkeypatch.setattr(type(family), "render", lambda self, question, history: question)
    with pytest.raises(ModelError, match="exactly one video"):
        family.prompt("what is it?", family.layout([0.0], 96, 144))


def test_facts_of_a_replica(family):
    assert family.grid == (14, 14)
    assert family.default_frames == 32
    assert family.shape.layers == 6
    assert family.separators().shape == (1, 64)


def test_the_embedded_model_loads_like_any_other(nano):
    assert type(nano.family) is FAMILIES["llava_onevision"]
    assert nano.family.default_frames == 8
    size = sum(file.stat().st_size for file in EMBEDDED["nano"].iterdir())
    assert size <= 16 * 2**20


def test_names():
    assert checkpoint_folder("nano") == EMBEDDED["nano"]
    for name, words in [("nono", "no model named"), ("./nowhere/here", "no model named"), ("a/b/c", "no model named")]:
        with pytest.raises(ModelError, match=words):
            checkpoint_folder(name)
    with pytest.raises(ModelError, match="not available"):
        checkpoint_folder("nobody/nothing", offline=True)


def test_a_damaged_checkpoint_is_a_model_error(replicas, tmp_path):
    for file in replicas("llava_onevision_tied").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = next(tmp_path.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError, match="cannot load"):
        load_family(ModelConfig(model=str(tmp_path), device="cpu"))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"cannot read config\.json"):
        load_family(ModelConfig(model=str(tmp_path), device="cpu"))


def test_a_checkpoint_without_some_tensors_does_not_answer(tmp_path):
    from safetensors.torch import load_file, save_file

    for file in EMBEDDED["nano"].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    dropped = next(name for name in weights if "down_proj" in name)
    save_file({k: v for k, v in weights.items() if k != dropped}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match="lacks 1 tensors"):
        load_family(ModelConfig(model=str(tmp_path), device="cpu"))
    (tmp_path / "model.safetensors").write_bytes((EMBEDDED["nano"] / "model.safetensors").read_bytes())
    for name in ("preprocessor_config.json", "video_preprocessor_config.json"):
        (tmp_path / name).unlink()
    with pytest.raises(ModelError, match="no video preprocessor settings"):
        load_family(ModelConfig(model=str(tmp_path), device="cpu"))


def test_devices_and_dtypes():
    assert pick_dtype("auto", torch.device("cpu")) == torch.float32
    assert pick_dtype("auto", torch.device("cuda")) == "auto"
    assert pick_dtype("bfloat16", torch.device("cpu")) == torch.bfloat16
    if not torch.cuda.is_available():
        with pytest.raises(ModelError, match="--device cuda"):
            pick_device("cuda")


def test_resizing():
    clip = to_channels_first(made_up_clip(2, 30, 40))
    assert clip.shape == (2, 3, 30, 40)
    assert resize(clip, (30, 40), "bicubic") is clip
    for mode in ("nearest-exact", "bilinear", "bicubic", "lanczos"):
        assert resize(clip, (17, 19), mode).dtype == torch.uint8
    flat = normalize(torch.full((1, 3, 2, 2), 255, dtype=torch.uint8), [0.5] * 3, [0.5] * 3)
    assert torch.equal(flat, torch.ones(1, 3, 2, 2))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_the_same_tokens(replicas):
    frames = made_up_clip(4, 96, 144)
    cpu = load_family(ModelConfig(model=str(replicas("llava_onevision")), device="cpu", dtype="float32"))
    gpu = load_family(ModelConfig(model=str(replicas("llava_onevision")), device="cuda", dtype="float32"))
    one, other = (family.encode(frames, frozenset({"salience"})) for family in (cpu, gpu))
    torch.testing.assert_close(one.features, other.features.cpu(), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(one.signals["salience"], other.signals["salience"].cpu(), rtol=1e-3, atol=1e-5)


def test_errors_travel_between_processes():
    import pickle

    error = OutOfMemory("what", why="why", hint="hint")
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), copy.to_dict(), copy.status) == (OutOfMemory, error.to_dict(), 6)
    assert np.array_equal(made_up_clip(1, 2, 2), made_up_clip(1, 2, 2))


def test_the_page_about_models_is_what_the_adapters_say(cli_page):
    page = (Path(__file__).parent.parent / "docs" / "models.md").read_text(encoding="utf-8")
    assert page == cli_page, "run: vidcomp models --markdown > docs/models.md"
    assert all(f"`{name}`" in page for name in FAMILIES)


@pytest.fixture
def cli_page(capsys):
    from vidcomp.cli import app

    assert app.run(["models", "--markdown"]) == 0
    return capsys.readouterr().out


def test_families_as_json(capsys):
    import json

    from vidcomp.cli import app

    assert app.run(["models", "--json"]) == 0
    assert [info["model_type"] for info in json.loads(capsys.readouterr().out)] == list(FAMILIES)
