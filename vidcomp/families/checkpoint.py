# SPDX-License-Identifier: Apache-2.0
"""A stock model with its tokenizer, loaded from a local folder."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from vidcomp.config import ModelConfig
from vidcomp.errors import ModelError, OutOfMemory
from vidcomp.families.int8 import INT8_TOWER
from vidcomp.hub import EMBEDDED, check_weights, first_line, pick_device, pick_dtype, read_json
from vidcomp.hub.processor import video_settings

__all__ = ["Checkpoint", "chat_template", "load_checkpoint", "video_settings"]

log = logging.getLogger(__name__)

# Towers and projectors are small, and reductions compare what they put out. The library leaves the head out too.
_FULL_PRECISION = ("lm_head", ".*vision_tower", ".*vision_model", ".*visual", ".*projector", ".*connector")
_PACKED = ("8bit", "4bit")  # ways of --quantize that the library carries out while it loads
_INSTALL = {
    "bitsandbytes": 'pip install "vidcomp-llm[quantize]"',
    "accelerate": 'pip install "vidcomp-llm[quantize]"',
    "flash_attn": "pip install flash-attn --no-build-isolation   (Linux with CUDA), or --attn sdpa",
}


@dataclass(frozen=True)
class Checkpoint:
    """A loaded stock model with its tokenizer, and what its JSON files say about pixels and prompts.

    Attributes:
        name: as the user named it.
        model, tokenizer: stock objects.
        video_settings: settings of the video processor.
        chat_template: the template that handles video, None when only the tokenizer has one.
    """

    name: str
    model: Any
    tokenizer: Any
    video_settings: dict[str, Any]
    chat_template: str | None


def chat_template(folder: Path) -> str | None:
    """The processor's chat template; older repositories keep it in a JSON file of its own."""
    jinja = folder / "chat_template.jinja"
    if jinja.is_file():
        return jinja.read_text(encoding="utf-8")
    return read_json(folder / "chat_template.json").get("chat_template")


def load_checkpoint(config: ModelConfig, folder: Path) -> Checkpoint:
    """Load model and tokenizer from a local folder; remote code never runs.

    Raises:
        ModelError: incomplete or damaged files, or a package, kernel or device that is not there.
        OutOfMemory: the weights do not fit.
    """
    device = pick_device(config.device)
    _check_packages(config)
    check_weights(folder, config.model)
    if "size" not in video_settings(folder):
        raise ModelError(
            f"{config.model} has no video preprocessor settings",
            why="neither video_preprocessor_config.json nor preprocessor_config.json gives a size",
            hint="download it again",
        )
    _quiet_transformers()
    try:
        model, tokenizer = _load(config, folder, device)
        return Checkpoint(config.model, model.eval(), tokenizer, video_settings(folder), chat_template(folder))
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise OutOfMemory(
            f"not enough memory on {device} for {config.model}",
            why=first_line(error),
            hint="--dtype bfloat16, --quantize 4bit, or --device-map auto",
        ) from error
    except (OSError, ValueError, ImportError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelError(
            f"cannot load the model {config.model}",
            why=first_line(error),
            hint="vidcomp doctor lists what is installed; the embedded model is --model nano",
        ) from error


def _load(config: ModelConfig, folder: Path, device: torch.device) -> tuple[Any, Any]:
    """Model and tokenizer, on their devices."""
    from transformers import AutoModelForImageTextToText, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    _require_words(tokenizer, config.model)
    load: Any = AutoModelForImageTextToText.from_pretrained
    placement = _placement(config, device)
    model, found = load(
        folder,
        output_loading_info=True,
        dtype=_dtype(config, folder, device),
        attn_implementation=config.attn,
        local_files_only=True,
        trust_remote_code=False,
        **placement,
    )
    if found["missing_keys"]:
        missing = sorted(found["missing_keys"])
        raise ModelError(
            f"{config.model} lacks {len(missing)} tensors", why=f"{missing[0]} is one of them", hint="download it again"
        )
    return model if placement else model.to(device), tokenizer


def _require_words(tokenizer: Any, name: str) -> None:
    """Refuse a tokenizer of control tokens alone: the library makes one up where the files are missing."""
    if len(tokenizer) - len(tokenizer.added_tokens_decoder) <= 0:
        raise ModelError(
            f"{name} has no tokenizer",
            why="its folder holds neither tokenizer.json nor the vocabulary of one",
            hint="download it again, with all files",
        )


def _placement(config: ModelConfig, device: torch.device) -> dict[str, Any]:
    """Arguments for the library about devices and number formats; empty for a plain model on one device."""
    if config.quantize not in _PACKED:
        return {"device_map": config.device_map} if config.device_map else {}
    from transformers import BitsAndBytesConfig

    wide = torch.bfloat16 if config.dtype == "auto" else pick_dtype(config.dtype, device)
    formats: dict[str, dict[str, Any]] = {
        "8bit": dict(load_in_8bit=True),
        "4bit": dict(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=wide),
    }
    build: Any = BitsAndBytesConfig
    settings = build(**formats[config.quantize], llm_int8_skip_modules=list(_FULL_PRECISION))
    return {"device_map": config.device_map or {"": device}, "quantization_config": settings}


def _dtype(config: ModelConfig, folder: Path, device: torch.device) -> torch.dtype | str:
    """The number format of the weights; flash kernels and quantised weights want a half format beside them."""
    if config.quantize == INT8_TOWER:
        return torch.float32
    stored = read_json(folder / "config.json")
    half = (stored.get("dtype") or stored.get("torch_dtype")) in ("bfloat16", "float16")
    if config.dtype == "auto" and not half and (config.attn.startswith("flash") or config.quantize in _PACKED):
        return torch.bfloat16
    return pick_dtype(config.dtype, device, half and config.model not in EMBEDDED)  # those are made for float32


def _check_packages(config: ModelConfig) -> None:
    """Name an optional package that a setting needs before any weight is read."""
    needs = {
        "--quantize": ("bitsandbytes", "accelerate") if config.quantize in _PACKED else (),
        "--device-map": ("accelerate",) if config.device_map else (),
        "--attn flash_attention_2": ("flash_attn",) if config.attn == "flash_attention_2" else (),
    }
    for option, packages in needs.items():
        missing = [name for name in packages if find_spec(name) is None]
        if missing:
            raise ModelError(
                f"{option} needs {' and '.join(missing)}",
                why="not installed here",
                hint=_INSTALL[missing[0]],
                code="package_missing",
            )


def _quiet_transformers() -> None:
    if not log.isEnabledFor(logging.DEBUG):
        library: Any = import_module("transformers.utils.logging")
        library.set_verbosity_error()
        library.disable_progress_bar()
