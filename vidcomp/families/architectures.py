# SPDX-License-Identifier: Apache-2.0
"""Full-size architectures with random weights, for timing: true shapes, no download, no sense in the answers.

Sizes are those of :mod:`vidcomp.core.architectures`. Tokenizer and chat template are those of the embedded model, so
that text has other lengths than in the real models; visual tokens have the true numbers.
"""

from __future__ import annotations

from typing import Any

import torch

from vidcomp.config import ModelConfig
from vidcomp.core.architectures import ARCHITECTURES, Architecture
from vidcomp.errors import OutOfMemory, UsageError
from vidcomp.families.checkpoint import Checkpoint, chat_template
from vidcomp.families.int8 import INT8_TOWER
from vidcomp.hub import EMBEDDED, first_line, pick_device, pick_dtype

__all__ = ["find_architecture", "random_checkpoint", "random_model"]

_MARKS = ["<|vision_start|>", "<|vision_end|>", "<img>", "</img>", "<fake_token_around_image>", "<global-img>"]


def random_checkpoint(name: str, kind: Any, config: ModelConfig, seed: int = 0, tower_layers: int = 0) -> Checkpoint:
    """A model of full size with random weights.

    Args:
        name: a key of ``ARCHITECTURES``.
        kind: the family's adapter class, which knows the names of its tokens.
        config: device, dtype and attention kernel; ``auto`` dtype is bfloat16 on an accelerator.
        seed: of the weights.
        tower_layers: layers of the vision tower, with one of the language model behind them; all of both when 0.

    Raises:
        OutOfMemory: it does not fit.
    """
    from transformers import AutoTokenizer

    device = pick_device(config.device)
    dtype = pick_dtype(config.dtype, device)
    dtype = torch.float32 if config.quantize == INT8_TOWER else torch.bfloat16 if isinstance(dtype, str) else dtype
    nano = EMBEDDED["nano"]
    tokenizer = AutoTokenizer.from_pretrained(nano, local_files_only=True)
    tokenizer.add_tokens([kind.slot, kind.visual, *_MARKS], special_tokens=True)
    model = random_model(name, kind, tokenizer, device, dtype, config.attn, seed, tower_layers)
    template = (chat_template(nano) or str(tokenizer.chat_template)).replace("<video>", kind.slot)
    return Checkpoint(name, model, tokenizer, ARCHITECTURES[name].pixels, template)


def find_architecture(name: str) -> Architecture:
    """The architecture of that name.

    Raises:
        UsageError: there is none.
    """
    if name not in ARCHITECTURES:
        raise UsageError(f"--arch {name}", why=f"there are: {', '.join(ARCHITECTURES)}", code="bad_option")
    return ARCHITECTURES[name]


def random_model(
    name: str,
    kind: Any,
    tokenizer: Any,
    device: torch.device,
    dtype: torch.dtype,
    attn: str,
    seed: int = 0,
    tower_layers: int = 0,
) -> Any:
    """The stock model; on the ``meta`` device it takes no memory."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    sizes, token_id = ARCHITECTURES[name], tokenizer.convert_tokens_to_ids
    ids = {kind.visual_key: token_id(kind.visual)}
    ids |= {key: token_id("<image>") for key in ("image_token_id",) if key not in ids}
    ids |= {f"vision_{end}_token_id": token_id(f"<|vision_{end}|>") for end in ("start", "end")}
    more = {"tie_word_embeddings": False, **sizes.more}
    vision, text = dict(sizes.vision), dict(sizes.text)
    if tower_layers:
        vision["depth" if "depth" in vision else "num_hidden_layers"], text["num_hidden_layers"] = tower_layers, 1
    config = AutoConfig.for_model(sizes.model_type, vision_config=vision, text_config=text, **ids, **more)
    build: Any = AutoModelForImageTextToText.from_config
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), torch.device(device):
            torch.manual_seed(seed)
            model = build(config, dtype=dtype, attn_implementation=attn)
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise OutOfMemory(f"{name} does not fit on {device}", why=first_line(error), hint="a smaller --arch") from error
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = None, 0
    return model.eval()
