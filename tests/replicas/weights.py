# SPDX-License-Identifier: Apache-2.0
"""Weights of the replicas, and the files that hold them."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from replicas.tokenizers import dump


def fill(model: torch.nn.Module, seed: int, tied: bool) -> None:
    """Noise that depends only on (seed, parameter name), scaled so that attention and logits are not flat."""
    done = set()
    for name, p in model.named_parameters():
        if p.data_ptr() in done:
            continue
        done.add(p.data_ptr())
        key = int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:4], "little")
        noise = np.random.RandomState(key).standard_normal(tuple(p.shape)).astype(np.float32)  # frozen stream
        leaf = name.rsplit(".", 2)
        if "norm" in name.lower() and p.ndim == 1 and name.endswith("weight"):
            value = (2.0 if ("q_norm" in name or "k_norm" in name) else 1.0) + 0.1 * noise
        elif "lambda_" in name:
            value = 0.5 + 0.1 * noise
        elif name.endswith("bias"):
            value = 0.05 * noise
        elif any(s in name for s in ("embed_tokens", "lm_head", "cls_token", "class_embedding", "image_newline")):
            value = (0.25 if tied else 0.5) * noise  # a tied head with large rows would only repeat its input
        elif "position_embedding" in name or "pos_embed" in name:
            value = 0.3 * noise
        else:
            fan_in = math.prod(p.shape[1:]) if p.ndim > 1 else p.shape[0]
            gain = 2.2 if any(s in leaf[-2] for s in ("q_proj", "k_proj", "qkv")) else 1.0
            value = gain / math.sqrt(fan_in) * noise
        with torch.no_grad():
            p.copy_(torch.from_numpy(np.ascontiguousarray(value)).to(p.dtype))


def rename_tensors(out: Path, old: str, new: str) -> None:
    """Give the saved tensors the prefix the hub checkpoints use."""
    from safetensors.torch import load_file, save_file

    for file in sorted(out.glob("*.safetensors")):
        save_file({k.replace(old, new, 1) if k.startswith(old) else k: v for k, v in load_file(file).items()},
                  file, metadata={"format": "pt"})
    index = out / "model.safetensors.index.json"
    if index.exists():
        data = json.loads(index.read_text())
        data["weight_map"] = {k.replace(old, new, 1) if k.startswith(old) else k: v
                              for k, v in data["weight_map"].items()}
        dump(index, data)


def write_model(out: Path, config: dict[str, Any], generation: dict[str, Any], dtype: torch.dtype, seed: int,
                shard: str | None, tied: bool) -> int:
    """Build the model that the configuration describes, fill it and write it as the hub has it: its parameters."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    dump(out / "config.json", config)
    cfg = AutoConfig.from_pretrained(out)
    cfg.tie_word_embeddings = cfg.text_config.tie_word_embeddings = tied  # what the checkpoint holds
    model = AutoModelForImageTextToText.from_config(cfg, dtype=torch.float32)
    fill(model, seed, tied)
    model.to(dtype)
    model.save_pretrained(out, **({"max_shard_size": shard} if shard else {}))
    if config["model_type"] in ("llava_onevision", "llava_next_video"):
        rename_tensors(out, "vision_tower.", "vision_tower.vision_model.")
    # save_pretrained rewrites both files in today's format; the hub repositories carry the older one
    dump(out / "config.json", config)
    dump(out / "generation_config.json", generation)
    return sum(p.numel() for p in model.parameters())
