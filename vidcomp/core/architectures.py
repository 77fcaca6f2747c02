# SPDX-License-Identifier: Apache-2.0
"""Sizes of published models, as their config files on the hub name them: numbers alone, which need no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = ["ARCHITECTURES", "Architecture", "ModelShape"]


@dataclass(frozen=True)
class ModelShape:
    """The sizes that decide FLOPs and cache bytes of a language model.

    Attributes:
        layers: decoder layers.
        width: of the residual stream.
        heads, kv_heads: of attention, for queries and for keys.
        head_size: width of one head.
        mlp_width: inner width of the feed-forward block.
        bytes_per_value: of weights and cache.
    """

    layers: int
    width: int
    heads: int
    kv_heads: int
    head_size: int
    mlp_width: int
    bytes_per_value: int


@dataclass(frozen=True)
class Architecture:
    """Sizes of one checkpoint.

    Attributes:
        model_type: its family.
        billions: parameters of the hub's checkpoint, a tied head counted once.
        vision, text: settings of the two halves.
        pixels: settings of the video processor.
        more: settings of the model as a whole.
    """

    model_type: str
    billions: float
    vision: dict[str, Any]
    text: dict[str, Any]
    pixels: dict[str, Any]
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def shape(self) -> ModelShape:
        """Of its language model, in bfloat16."""
        text = self.text
        width, heads = text["hidden_size"], text["num_attention_heads"]
        return ModelShape(
            text["num_hidden_layers"], width, heads, text["num_key_value_heads"],
            text.get("head_dim", width // heads), text["intermediate_size"], bytes_per_value=2,
        )  # fmt: skip


def _llm(kind: str, width: int, layers: int, heads: int, kv_heads: int, mlp: int, words: int, **more: Any) -> Any:
    return dict(
        model_type=kind, hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=kv_heads, intermediate_size=mlp, vocab_size=words, tie_word_embeddings=False,
        max_position_embeddings=131072, **more,
    )  # fmt: skip


def _tower(kind: str, width: int, layers: int, heads: int, mlp: int, patch: int, **more: Any) -> Any:
    return dict(
        model_type=kind, hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads, intermediate_size=mlp,
        patch_size=patch, **more,
    )  # fmt: skip


def _square(side: int, half: bool = True, **more: Any) -> dict[str, Any]:
    level = [0.5] * 3 if half else [0.48145466, 0.4578275, 0.40821073]
    spread = [0.5] * 3 if half else [0.26862954, 0.26130258, 0.27577711]
    size = {"height": side, "width": side}
    return {"size": size, "resample": 3, "image_mean": level, "image_std": spread, **more}


def _packed(patch: int, least: int, most: int) -> dict[str, Any]:
    return _square(0, patch_size=patch, merge_size=2) | {"size": {"shortest_edge": least, "longest_edge": most}}


def _tied(text: dict[str, Any]) -> dict[str, Any]:
    return text | {"tie_word_embeddings": True}


_QWEN2_05B = _llm("qwen2", 896, 24, 14, 2, 4864, 152000, rope_theta=1e6)
_QWEN2_7B = _llm("qwen2", 3584, 28, 28, 4, 18944, 152128, rope_theta=1e6)
_MROPE = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}
_MROPE3 = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [24, 20, 20], "mrope_interleaved": True}
_QWEN25_3B = _llm("qwen2_5_vl_text", 2048, 36, 16, 2, 11008, 151936, rope_parameters=_MROPE)
_QWEN25_7B = _llm("qwen2_5_vl_text", 3584, 28, 28, 4, 18944, 152064, rope_parameters=_MROPE)
_QWEN3_4B = _llm("qwen3_vl_text", 2560, 36, 32, 8, 9728, 151936, head_dim=128, rope_parameters=_MROPE3)
_QWEN3_8B = _llm("qwen3_vl_text", 4096, 36, 32, 8, 12288, 151936, head_dim=128, rope_parameters=_MROPE3)
_VL3_2B = _llm("qwen2", 1536, 28, 12, 2, 8960, 151936, rope_theta=1e6)
_SMOL_05B = _llm("llama", 960, 32, 15, 5, 2560, 49280, head_dim=64)
_SMOL_22B = _llm("llama", 2048, 24, 32, 32, 8192, 49280, head_dim=64)

_SIGLIP = _tower("siglip_vision_model", 1152, 26, 16, 4304, 14, image_size=384, vision_use_head=False)
_CLIP = _tower("clip_vision_model", 1024, 24, 16, 4096, 14, image_size=336, projection_dim=768)
_INTERNVIT = _tower(
    "internvl_vision", 1024, 24, 16, 4096, 14, image_size=[448, 448], attention_bias=True, use_mean_pooling=True
)
_NAVIT = _tower("video_llama_3_vision", 1152, 27, 16, 4304, 14)
_SMOL_B = _tower("smolvlm_vision", 768, 12, 12, 3072, 16, image_size=512)
_SMOL_SO = _tower("smolvlm_vision", 1152, 27, 16, 4304, 14, image_size=384)


def _qwen25_tower(width: int) -> dict[str, Any]:
    return dict(
        hidden_size=1280, depth=32, num_heads=16, intermediate_size=3420, patch_size=14, window_size=112,
        fullatt_block_indexes=[7, 15, 23, 31], out_hidden_size=width, tokens_per_second=2,
    )  # fmt: skip


def _qwen3_tower(width: int, hidden: int, depth: int, mlp: int, taps: list[int]) -> dict[str, Any]:
    return dict(
        hidden_size=hidden, depth=depth, num_heads=16, intermediate_size=mlp, patch_size=16, out_hidden_size=width,
        num_position_embeddings=2304, deepstack_visual_indexes=taps,
    )  # fmt: skip


_LLAVA = dict(vision_feature_layer=-1, vision_feature_select_strategy="full")
_NEXT = dict(vision_feature_layer=-2, vision_feature_select_strategy="default", image_grid_pinpoints=[[336, 672]])
_CROP = {"size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336}}
_OPEN, _LAST = dict(downsample_ratio=0.5, vision_feature_layer=-1), dict(vision_feature_select_strategy="default")
_VICUNA = _llm("llama", 4096, 32, 32, 32, 11008, 32064) | {
    "max_position_embeddings": 4096, "rope_parameters": {"rope_type": "linear", "factor": 2.5, "rope_theta": 1e4},
}  # fmt: skip


def _smol_pixels(side: int) -> dict[str, Any]:
    return _square(side) | {"size": {"longest_edge": 4 * side}, "max_image_size": {"longest_edge": side}, "resample": 1}


ARCHITECTURES: dict[str, Architecture] = {
    "llava-onevision-0.5b": Architecture(
        "llava_onevision", 0.894, _SIGLIP, _tied(_QWEN2_05B), _square(384), _LLAVA | {"tie_word_embeddings": True}
    ),
    "llava-onevision-7b": Architecture("llava_onevision", 8.031, _SIGLIP, _QWEN2_7B, _square(384), _LLAVA),
    "llava-next-video-7b": Architecture(
        "llava_next_video", 7.063, _CLIP, _VICUNA, _square(336, half=False) | _CROP, _NEXT
    ),
    "qwen2.5-vl-3b": Architecture(
        "qwen2_5_vl", 3.755, _qwen25_tower(2048), _tied(_QWEN25_3B), _packed(14, 3136, 12845056),
        {"tie_word_embeddings": True},
    ),
    "qwen2.5-vl-7b": Architecture(
        "qwen2_5_vl", 8.292, _qwen25_tower(3584), _QWEN25_7B, _packed(14, 3136, 12845056)
    ),
    "qwen3-vl-4b": Architecture(
        "qwen3_vl", 4.438, _qwen3_tower(2560, 1024, 24, 4096, [5, 11, 17]), _tied(_QWEN3_4B),
        _packed(16, 4096, 25165824), {"tie_word_embeddings": True},
    ),
    "qwen3-vl-8b": Architecture(
        "qwen3_vl", 8.767, _qwen3_tower(4096, 1152, 27, 4304, [8, 16, 24]), _QWEN3_8B, _packed(16, 4096, 25165824)
    ),
    "internvl3-1b": Architecture(
        "internvl", 0.938, _INTERNVIT, _QWEN2_05B | {"vocab_size": 151674}, _square(448, half=False), _OPEN | _LAST
    ),
    "internvl3-8b": Architecture(
        "internvl", 7.944, _INTERNVIT, _QWEN2_7B | {"vocab_size": 151674}, _square(448, half=False), _OPEN | _LAST
    ),
    "internvl3.5-8b": Architecture(
        "internvl", 8.528, _INTERNVIT, _llm("qwen3", 4096, 36, 32, 8, 12288, 151936, head_dim=128),
        _square(448, half=False), _OPEN | _LAST,
    ),
    "smolvlm2-500m": Architecture("smolvlm", 0.507, _SMOL_B, _SMOL_05B, _smol_pixels(512), {"scale_factor": 4}),
    "smolvlm2-2.2b": Architecture("smolvlm", 2.247, _SMOL_SO, _SMOL_22B, _smol_pixels(384), {"scale_factor": 3}),
    "videollama3-2b": Architecture(
        "video_llama_3", 1.960, _NAVIT, _tied(_VL3_2B), _packed(14, 12544, 12845056), {"tie_word_embeddings": True}
    ),
    "videollama3-7b": Architecture(
        "video_llama_3", 8.045, _NAVIT, _QWEN2_7B | {"vocab_size": 152064}, _packed(14, 12544, 12845056)
    ),
}  # fmt: skip
"""Sizes by name."""
