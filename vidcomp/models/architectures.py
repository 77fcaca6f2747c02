"""Full-size architectures with random weights, for timing: true shapes, no download, no sense in the answers.

Sizes of llava-hf/llava-onevision-qwen2-{0.5b,7b}-ov-hf. Tokenizer and prompt are those of the embedded model.
"""

from __future__ import annotations

from typing import Any

import torch

from vidcomp.config import ModelConfig
from vidcomp.errors import OutOfMemory, UsageError
from vidcomp.hub import EMBEDDED, first_line, pick_device, pick_dtype
from vidcomp.models.base import Family
from vidcomp.models.checkpoint import Checkpoint, chat_template
from vidcomp.models.llava_onevision import LlavaOnevision

__all__ = ["ARCHITECTURES", "random_family"]

_SIGLIP = dict(
    model_type="siglip_vision_model",
    hidden_size=1152,
    image_size=384,
    intermediate_size=4304,
    num_attention_heads=16,
    num_hidden_layers=26,
    patch_size=14,
    vision_use_head=False,
)
_QWEN2 = dict(model_type="qwen2", rope_theta=1e6, max_position_embeddings=32768)

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llava-onevision-0.5b": dict(
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        vocab_size=152000,
        tie_word_embeddings=True,
    ),
    "llava-onevision-7b": dict(
        hidden_size=3584,
        intermediate_size=18944,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
        vocab_size=152128,
        tie_word_embeddings=False,
    ),
}
"""Language-model sizes by name; all of them use the SigLIP tower of LLaVA-OneVision."""

_PIXELS = dict(size={"height": 384, "width": 384}, resample=3, image_mean=[0.5] * 3, image_std=[0.5] * 3)


def random_family(name: str, config: ModelConfig, seed: int = 0) -> Family:
    """A model of full size with random weights.

    Args:
        name: a key of ``ARCHITECTURES``.
        config: device, dtype and attention kernel; ``auto`` dtype is bfloat16 on an accelerator.
        seed: of the weights.

    Raises:
        UsageError: unknown name. OutOfMemory: it does not fit.
    """
    if name not in ARCHITECTURES:
        raise UsageError(f"--arch {name}", why=f"there are: {', '.join(ARCHITECTURES)}", code="bad_option")
    from transformers import AutoTokenizer

    device = pick_device(config.device)
    dtype = pick_dtype(config.dtype, device)
    dtype = torch.bfloat16 if isinstance(dtype, str) else dtype
    nano = EMBEDDED["nano"]
    tokenizer = AutoTokenizer.from_pretrained(nano, local_files_only=True)
    model = _random_model(name, tokenizer.convert_tokens_to_ids, device, dtype, config.attn, seed)
    return LlavaOnevision(Checkpoint(name, model, tokenizer, _PIXELS, chat_template(nano)))


def _random_model(name: str, token_id: Any, device: torch.device, dtype: torch.dtype, attn: str, seed: int) -> Any:
    from transformers import AutoModelForImageTextToText, LlavaOnevisionConfig

    sizes = ARCHITECTURES[name]
    config = LlavaOnevisionConfig(
        vision_config=_SIGLIP,
        text_config={**_QWEN2, **sizes},
        image_token_index=token_id("<image>"),
        video_token_index=token_id("<video>"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        tie_word_embeddings=sizes["tie_word_embeddings"],
    )
    build: Any = AutoModelForImageTextToText.from_config
    torch.manual_seed(seed)
    try:
        with torch.device(device):
            model = build(config, dtype=dtype, attn_implementation=attn)
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise OutOfMemory(f"{name} does not fit on {device}", why=first_line(error), hint="a smaller --arch") from error
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = None, 0
    return model.eval()
