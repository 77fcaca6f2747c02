# SPDX-License-Identifier: Apache-2.0
"""Replicas of every family, and what the stock model would be handed for the same clip."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vidcomp.config import ModelConfig
from vidcomp.families import Family, Layout, load_family

QUESTION = "What happens at the end?"


def load(folder: Path, attn: str = "sdpa") -> Family:
    family = load_family(ModelConfig(model=str(folder), device="cpu", dtype="float32", attn=attn))
    family.model.generation_config.eos_token_id = None  # answers of a fixed length
    return family


def moving_square(frames: int, height: int = 56, width: int = 84, seed: int = 7) -> np.ndarray:
    """uint8 [F, h, w, 3]: a square that moves over a textured background."""
    clip = np.repeat(np.random.RandomState(seed).randint(0, 120, (1, height, width, 3)).astype(np.uint8), frames, 0)
    for index in range(frames):
        left = 2 + index * (width - 24) // frames
        clip[index, 10:34, left : left + 18] = (230, 40, 60)
    return clip


def stock_inputs(family: Family, clip: np.ndarray, layout: Layout) -> dict[str, Tensor]:
    """Ids and tensors as the stock model takes them, in the form of each model type."""
    ids = family.prompt(QUESTION, layout).full_ids(layout.tokens, len(family.separators()), family.visual_id)[None]
    pixels = family.pixels(clip, layout)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if family.model_type in ("llava_onevision", "llava_next_video"):
        return {**inputs, "pixel_values_videos": pixels[None]}
    if family.model_type == "internvl":
        return {**inputs, "pixel_values": pixels}
    if family.model_type == "smolvlm":
        return {**inputs, "pixel_values": pixels[None]}
    inputs |= {"pixel_values_videos": pixels.flatten(0, 1), "video_grid_thw": family.thw(layout.slices, layout)}
    if family.model_type == "video_llama_3":
        return {**inputs, "video_merge_sizes": torch.tensor([family.merge])}
    return {**inputs, "mm_token_type_ids": (ids == family.visual_id).int() * 2, **family.clock(layout)}


def sibling(replica: Path, folder: Path, model_type: str, seed: int = 0) -> Path:
    """A checkpoint of a family that shares its files with another one: qwen2_vl, qwen3_vl_moe."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    if folder.exists():
        return folder
    shutil.copytree(replica, folder, ignore=shutil.ignore_patterns("*.safetensors*"))
    config = json.loads((replica / "config.json").read_text())
    config |= {"model_type": model_type, "architectures": [], "tie_word_embeddings": False}
    if model_type == "qwen2_vl":
        vision = {"embed_dim": 32, "hidden_size": 64, "mlp_ratio": 2}
        config["vision_config"] = {**config["vision_config"], **vision, "model_type": "qwen2_vl"}
    else:
        experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48, "decoder_sparse_step": 1}
        config["text_config"] |= {**experts, "model_type": "qwen3_vl_moe_text"}
        config["vision_config"]["model_type"] = "qwen3_vl_moe"
    (folder / "config.json").write_text(json.dumps(config))
    made = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(folder), dtype=torch.float32)
    generator = torch.Generator().manual_seed(seed)
    for name, weight in made.named_parameters():
        if weight.ndim >= 2:
            weight.data = torch.randn(weight.shape, generator=generator) * (1.5 / weight.shape[-1] ** 0.5)
        elif name.endswith("bias"):
            weight.data = torch.randn(weight.shape, generator=generator) * 0.1
    made.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


SIBLINGS = {"qwen2_vl": "qwen2_5_vl", "qwen3_vl_moe": "qwen3_vl"}
FAMILY_NAMES = (
    "llava_onevision",
    "llava_next_video",
    "qwen2_5_vl",
    "qwen2_5_vl_tied",
    "qwen2_vl",
    "qwen3_vl",
    "qwen3_vl_moe",
    "internvl3",
    "internvl3_5",
    "smolvlm2",
    "smolvlm2_2b",
    "video_llama_3",
)


def checkpoint(replicas, folder: Path, name: str) -> Path:
    """A replica, or a sibling made from one."""
    return sibling(replicas(SIBLINGS[name]), folder / name, name) if name in SIBLINGS else replicas(name)
