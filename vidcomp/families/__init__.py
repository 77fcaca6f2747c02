# SPDX-License-Identifier: Apache-2.0
"""Model families: one adapter per file, found by the ``model_type`` of the checkpoint."""

from __future__ import annotations

from typing import Any

from vidcomp.config import ModelConfig
from vidcomp.core.architectures import ARCHITECTURES, ModelShape
from vidcomp.errors import ModelError
from vidcomp.families.architectures import find_architecture, random_checkpoint
from vidcomp.families.base import Encoded, Family
from vidcomp.families.checkpoint import Checkpoint, load_checkpoint
from vidcomp.families.int8 import INT8_TOWER, quantize_tower
from vidcomp.families.internvl import InternVL
from vidcomp.families.layout import Layout
from vidcomp.families.llava_next_video import LlavaNextVideo
from vidcomp.families.llava_onevision import LlavaOnevision
from vidcomp.families.prompt import Prompt
from vidcomp.families.qwen2_5_vl import Qwen2VL, Qwen25VL
from vidcomp.families.qwen3_vl import Qwen3VL, Qwen3VLMoe
from vidcomp.families.smolvlm import SmolVLM
from vidcomp.families.video_llama_3 import VideoLlama3
from vidcomp.hub import checkpoint_config, checkpoint_folder, unsupported_family
from vidcomp.tower.probe import encoder_layers

__all__ = [
    "ARCHITECTURES",
    "FAMILIES",
    "Checkpoint",
    "Encoded",
    "Family",
    "Layout",
    "ModelShape",
    "Prompt",
    "adapter_of",
    "family_class",
    "load_family",
    "random_family",
]

FAMILIES: dict[str, type[Family]] = {
    kind.model_type: kind
    for kind in (
        LlavaOnevision,
        Qwen25VL,
        Qwen2VL,
        Qwen3VL,
        Qwen3VLMoe,
        InternVL,
        SmolVLM,
        LlavaNextVideo,
        VideoLlama3,
    )
}


def load_family(config: ModelConfig) -> Family:
    """Load the checkpoint and wrap it in its family's adapter; the family is checked before weights are downloaded.

    Raises:
        ModelError: the model cannot be loaded, or its family is not supported.
    """
    described = checkpoint_config(config.model, offline=config.offline, revision=config.revision)
    kind = family_class(str(described.get("model_type")), config.model)
    folder = checkpoint_folder(config.model, offline=config.offline, revision=config.revision)
    return _with_format(kind(load_checkpoint(config, folder)), config)


def adapter_of(model: Any) -> Family:
    """The adapter of a stock model that is loaded already, without tokenizer and processor settings.

    Raises:
        ModelError: its family is not supported.
    """
    config = getattr(model, "config", None)
    if config is None:
        raise ModelError(f"{type(model).__name__} is not a model of transformers", why="it has no config",
                         hint="hand over the model itself (the .module of a DataParallel)")  # fmt: skip
    kind = str(getattr(config, "model_type", None))
    return family_class(kind, getattr(model, "name_or_path", "") or type(model).__name__).of_model(model)


def random_family(name: str, config: ModelConfig, seed: int = 0, tower_layers: int = 0) -> Family:
    """A full-size architecture with random weights, for timing; arguments as :func:`random_checkpoint`.

    Raises:
        UsageError: unknown name. OutOfMemory: it does not fit.
    """
    kind = family_class(find_architecture(name).model_type, name)
    return _with_format(kind(random_checkpoint(name, kind, config, seed, tower_layers)), config)


def _with_format(family: Family, config: ModelConfig) -> Family:
    """The same model, with its tower in the number format that was asked for."""
    if config.quantize == INT8_TOWER:
        quantize_tower(encoder_layers(family.tower), family.device)
    return family


def family_class(model_type: str, name: str) -> type[Family]:
    """The adapter class for a ``model_type``; ``name`` is for the error message."""
    kind = FAMILIES.get(model_type)
    if kind is None:
        raise unsupported_family(model_type, name)
    return kind
