"""A stock model with its tokenizer, loaded from a local folder."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from vidcomp.config import ModelConfig
from vidcomp.errors import ModelError, OutOfMemory
from vidcomp.hub import first_line, pick_device, pick_dtype, read_json

__all__ = ["Checkpoint", "chat_template", "load_checkpoint", "video_settings"]

log = logging.getLogger(__name__)


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


def video_settings(folder: Path) -> dict[str, Any]:
    """Settings of the video processor, looked up where the library looks them up."""
    nested = read_json(folder / "processor_config.json").get("video_processor")
    return (
        nested or read_json(folder / "video_preprocessor_config.json") or read_json(folder / "preprocessor_config.json")
    )


def chat_template(folder: Path) -> str | None:
    """The processor's chat template; older repositories keep it in a JSON file of its own."""
    jinja = folder / "chat_template.jinja"
    if jinja.is_file():
        return jinja.read_text(encoding="utf-8")
    return read_json(folder / "chat_template.json").get("chat_template")


def load_checkpoint(config: ModelConfig, folder: Path) -> Checkpoint:
    """Load model and tokenizer from a local folder; remote code never runs.

    Raises:
        ModelError: incomplete or damaged files, or a kernel that is not installed.
        OutOfMemory: the weights do not fit.
    """
    from transformers import AutoModelForImageTextToText, AutoTokenizer

    device = pick_device(config.device)
    _quiet_transformers()
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        load: Any = AutoModelForImageTextToText.from_pretrained
        model, found = load(
            folder,
            output_loading_info=True,
            dtype=pick_dtype(config.dtype, device),
            attn_implementation=config.attn,
            local_files_only=True,
            trust_remote_code=False,
        )
        if found["missing_keys"]:
            missing = sorted(found["missing_keys"])
            raise ModelError(
                f"{config.model} lacks {len(missing)} tensors",
                why=f"{missing[0]} is one of them",
                hint="download it again",
            )
        if "size" not in video_settings(folder):
            raise ModelError(
                f"{config.model} has no video preprocessor settings",
                why="neither video_preprocessor_config.json nor preprocessor_config.json gives a size",
                hint="download it again",
            )
        model = model.to(device).eval()
        return Checkpoint(config.model, model, tokenizer, video_settings(folder), chat_template(folder))
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise OutOfMemory(
            f"not enough memory on {device} for {config.model}", why=first_line(error), hint="--dtype bfloat16"
        ) from error
    except (OSError, ValueError, ImportError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelError(
            f"cannot load the model {config.model}",
            why=first_line(error),
            hint="vidcomp doctor lists what is installed; the embedded model is --model nano",
        ) from error


def _quiet_transformers() -> None:
    if not log.isEnabledFor(logging.DEBUG):
        library: Any = import_module("transformers.utils.logging")
        library.set_verbosity_error()
        library.disable_progress_bar()
