# SPDX-License-Identifier: Apache-2.0
"""Checkpoints by hub id: cache, revisions, offline, number formats, devices, optional packages."""

from __future__ import annotations

import importlib.util
import json
import shutil

import huggingface_hub
import pytest
import torch
from clips import make_clip
from huggingface_hub import errors

import vidcomp
from vidcomp.config import ModelConfig, RunConfig
from vidcomp.errors import ModelError, UsageError
from vidcomp.families import load_family
from vidcomp.families.checkpoint import _dtype, _placement
from vidcomp.hub import checkpoint_config, checkpoint_folder

NAME, COMMIT, OLD = "someone/tiny-ov", "a" * 40, "b" * 40
has = {name: importlib.util.find_spec(name) is not None for name in ("bitsandbytes", "accelerate", "flash_attn")}


@pytest.fixture
def cache(replicas, tmp_path, monkeypatch):
    """A hub cache on disk that holds a replica as ``someone/tiny-ov``, main and a tag."""
    root = tmp_path / "models--someone--tiny-ov"
    for commit in (COMMIT, OLD):
        (root / "snapshots" / commit).mkdir(parents=True)
        for file in replicas("llava_onevision_tied").iterdir():
            (root / "snapshots" / commit / file.name).write_bytes(file.read_bytes())
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(COMMIT)
    (root / "refs" / "v1").write_text(OLD)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    return root


def test_a_cached_model_loads_by_hub_id_without_network(cache):
    with vidcomp.load(NAME, device="cpu", offline=True) as lm:
        assert lm.family.checkpoint.name == NAME
        assert lm.family.model_type == "llava_onevision"


def test_a_revision_is_what_is_loaded(cache):
    assert checkpoint_folder(NAME, offline=True).name == COMMIT
    assert checkpoint_folder(NAME, offline=True, revision="v1").name == OLD
    assert checkpoint_folder(NAME, offline=True, revision=OLD).name == OLD
    with pytest.raises(ModelError, match="not in the cache at revision v2, and offline") as caught:
        checkpoint_folder(NAME, offline=True, revision="v2")
    assert "hf download someone/tiny-ov --revision v2" in caught.value.hint


def test_the_hubs_own_offline_switch_counts(cache, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="and offline"):
        checkpoint_config("someone/else")


def test_a_half_downloaded_model_is_named_before_anything_is_read(cache):
    (cache / "snapshots" / COMMIT / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="1 of 1 weight files are missing") as caught:
        load_family(ModelConfig(model=NAME, device="cpu", offline=True))
    assert caught.value.hint.startswith("hf download someone/tiny-ov")


def test_missing_shards_are_counted(replicas, tmp_path):
    for file in replicas("llava_onevision").iterdir():  # the 7B's layout: shards and an index
        (tmp_path / file.name).write_bytes(file.read_bytes())
    shards = sorted(tmp_path.glob("*.safetensors"))
    assert len(shards) > 1
    shards[-1].unlink()
    with pytest.raises(ModelError, match=f"1 of {len(shards)} weight files are missing, {shards[-1].name}"):
        load_family(ModelConfig(model=str(tmp_path), device="cpu"))


def test_an_unsupported_family_is_refused_before_its_weights_are_downloaded(cache, monkeypatch):
    config = cache / "snapshots" / COMMIT / "config.json"
    config.write_text(json.dumps({"model_type": "bert"}))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", None)  # a download would fail
    with pytest.raises(ModelError, match="family 'bert'"):
        load_family(ModelConfig(model=NAME, device="cpu", offline=True))


def answer_of_the_hub(kind):
    import httpx2

    request = httpx2.Request("GET", "https://hub")
    return kind("no", response=httpx2.Response(404, request=request))


@pytest.mark.parametrize(
    ("kind", "code", "words"),
    [
        (errors.RepositoryNotFoundError, "unknown_model", "no model named 'a/b' on the hub"),
        (errors.GatedRepoError, "gated", "is gated"),
        (errors.RevisionNotFoundError, "unknown_model", "no revision 'x'"),
        (errors.LocalEntryNotFoundError, "weights_missing", "hub cannot be reached"),
        (OSError, "weights_missing", "No space left on device"),
    ],
)
def test_each_answer_of_the_hub_has_its_own_message(monkeypatch, kind, code, words):
    def refuse(*_, **__):
        if issubclass(kind, errors.HfHubHTTPError):
            raise answer_of_the_hub(kind)
        raise kind("No space left on device")

    monkeypatch.setattr("vidcomp.hub.folders._require_answer", lambda *_: None)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    with pytest.raises(ModelError, match=words) as caught:
        checkpoint_config("a/b", revision="x")
    assert caught.value.code == code
    assert caught.value.hint


# -- formats, devices, packages


@pytest.mark.parametrize(
    ("setting", "package"),
    [
        ({"quantize": "4bit"}, "bitsandbytes"),
        ({"device_map": "auto"}, "accelerate"),
        ({"attn": "flash_attention_2"}, "flash_attn"),
    ],
)
def test_a_missing_package_is_named_with_the_command_that_installs_it(replicas, setting, package):
    if has[package]:
        pytest.skip(f"{package} is installed here")
    with pytest.raises(ModelError, match=f"needs {package}") as caught:
        load_family(ModelConfig(model=str(replicas("llava_onevision_tied")), **setting))
    assert "pip install" in caught.value.hint


def test_what_the_library_is_told_about_quantised_weights():
    four = _placement(ModelConfig(quantize="4bit"), torch.device("cpu"))["quantization_config"]
    eight = _placement(ModelConfig(quantize="8bit", dtype="float16"), torch.device("cpu"))["quantization_config"]
    assert (four.load_in_4bit, four.bnb_4bit_quant_type, four.bnb_4bit_compute_dtype) == (True, "nf4", torch.bfloat16)
    assert (eight.load_in_8bit, eight.load_in_4bit) == (True, False)
    assert _placement(ModelConfig(device_map="auto"), torch.device("cpu")) == {"device_map": "auto"}
    assert _placement(ModelConfig(), torch.device("cpu")) == {}


def test_flash_kernels_get_a_half_format(tmp_path):
    config = ModelConfig(attn="flash_attention_2")
    (tmp_path / "config.json").write_text('{"torch_dtype": "float32"}')
    assert _dtype(config, tmp_path, torch.device("cuda")) == torch.bfloat16
    (tmp_path / "config.json").write_text('{"dtype": "float16"}')
    assert _dtype(config, tmp_path, torch.device("cuda")) == "auto"


FORMATS = {  # stored, asked, computed by the processor: taken
    "native": ("bfloat16", "auto", True, torch.bfloat16),
    "native, stored as float16": ("float16", "auto", True, torch.bfloat16),
    "imitated": ("bfloat16", "auto", False, torch.float32),
    "stored wide": ("float32", "auto", True, torch.float32),
    "asked for": ("bfloat16", "float32", True, torch.float32),
}


@pytest.mark.parametrize("kind", FORMATS)
def test_auto_takes_the_format_that_the_processor_computes(tmp_path, monkeypatch, kind):
    stored, asked, native, taken = FORMATS[kind]
    monkeypatch.setattr("vidcomp.hub.folders.computes_bfloat16", lambda: native)
    (tmp_path / "config.json").write_text(f'{{"dtype": "{stored}"}}')
    assert _dtype(ModelConfig(model="some", dtype=asked), tmp_path, torch.device("cpu")) == taken
    assert _dtype(ModelConfig(dtype=asked), tmp_path, torch.device("cpu")) == torch.float32  # nano
    assert _dtype(ModelConfig(model="some"), tmp_path, torch.device("cuda")) == "auto"


def test_a_format_that_nobody_asked_for_is_told_once(cli, clip, replicas, tmp_path, monkeypatch):
    monkeypatch.setattr("vidcomp.hub.folders.computes_bfloat16", lambda: True)
    folder = shutil.copytree(replicas("llava_onevision_tied"), tmp_path / "half")
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, "dtype": "bfloat16"}))
    line = ["ask", clip, "what?", "--model", folder, "--frames", "2", "--max-new-tokens", "2"]
    status, _, err = cli(*line)
    assert (status, err.count("bfloat16")) == (0, 1)
    status, _, err = cli(*line, "--dtype", "float32")
    assert (status, err.count("bfloat16")) == (0, 0)


TOLD = {
    "new torch": ({"get_capabilities": lambda: {"amx_bf16": True, "avx2": True, "avx512_f": False}}, True),
    "new torch, AVX-512 alone": ({"get_capabilities": lambda: {"avx512_f": True, "avx512_vnni": True}}, False),
    "old torch": ({"get_capabilities": None, "_is_avx512_bf16_supported": lambda: True}, True),
    "old torch, AVX2": ({"get_capabilities": None, "_is_avx2_supported": lambda: True}, False),
}


@pytest.mark.parametrize("kind", TOLD)
def test_what_the_processor_computes_is_asked_of_torch(monkeypatch, kind):
    from vidcomp.hub import cpu

    told, native = TOLD[kind]
    for name in (f"_is_{kind}_supported" for kind in ("amx_tile", "avx512_bf16", "vnni", "avx512", "avx2")):
        monkeypatch.setattr(torch.cpu, name, lambda: False, raising=False)
    for name, answer in told.items():
        monkeypatch.setattr(torch.cpu, name, answer, raising=False)
    cpu.computed_formats.cache_clear()
    try:
        assert cpu.computes_bfloat16() == native
        assert set(cpu.computed_formats()) <= set(cpu._KNOWN) and cpu.computed_formats()
    finally:
        cpu.computed_formats.cache_clear()


def test_a_device_and_a_map_exclude_each_other():
    with pytest.raises(UsageError, match="--device-map together with --device"):
        RunConfig.from_flat(device="cuda", device_map="auto")


@pytest.mark.skipif(not (has["bitsandbytes"] and has["accelerate"]), reason="needs bitsandbytes and accelerate")
@pytest.mark.parametrize(("quantize", "kind"), [("4bit", "Linear4bit"), ("8bit", "Linear8bitLt")])
def test_quantised_weights_answer(replicas, tmp_path, quantize, kind):
    clip = make_clip(tmp_path / "clip.mp4", frames=10)
    with vidcomp.load(str(replicas("llava_onevision_tied")), device="auto", quantize=quantize, frames=2) as lm:
        model = lm.family.model
        inside = {type(module).__name__ for module in model.get_decoder().modules()}
        assert kind in inside
        assert kind not in {type(module).__name__ for module in model.get_encoder(modality="video").modules()}
        assert lm.ask(clip, "what?", keep=0.5, max_new_tokens=3).ledger.tokens.layer is not None


@pytest.mark.skipif(not has["accelerate"], reason="needs accelerate")
def test_a_device_map_answers(replicas, tmp_path):
    clip = make_clip(tmp_path / "clip.mp4", frames=10)
    with vidcomp.load(str(replicas("llava_onevision_tied")), device_map="auto", dtype="float32", frames=2) as lm:
        assert lm.ask(clip, "what?", keep=0.5, max_new_tokens=3).ledger.new_tokens == 3
