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

__all__ = ["Checkpoint", "load_checkpoint"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """A loaded stock model with its tokenizer and its folder of JSON files."""

    name: str
    folder: Path
    model: Any
    tokenizer: Any

    @property
    def model_type(self) -> str:
        """The family name that the checkpoint's config declares."""
        return str(self.model.config.model_type)

    @property
    def video_settings(self) -> dict[str, Any]:
        """Settings of the video processor, looked up where the library looks them up."""
        nested = read_json(self.folder / "processor_config.json").get("video_processor")
        return (
            nested
            or read_json(self.folder / "video_preprocessor_config.json")
            or read_json(self.folder / "preprocessor_config.json")
        )

    @property
    def chat_template(self) -> str | None:
        """The template that handles video, None when only the tokenizer has one."""
        jinja = self.folder / "chat_template.jinja"
        if jinja.is_file():
            return jinja.read_text(encoding="utf-8")
        return read_json(self.folder / "chat_template.json").get("chat_template")


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
        model: Any = AutoModelForImageTextToText.from_pretrained(
            folder,
            dtype=pick_dtype(config.dtype, device),
            attn_implementation=config.attn,
            local_files_only=True,
            trust_remote_code=False,
        )
        return Checkpoint(config.model, folder, model.to(device).eval(), tokenizer)
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
