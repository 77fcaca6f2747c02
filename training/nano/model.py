# SPDX-License-Identifier: Apache-2.0
"""The network: a stock LLaVA-OneVision of about 1.3 million parameters, and the pieces the recipe trains one by one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration

from vidcomp.bench.world.vocabulary import EOS, IMAGE, PAD, UNK, VIDEO, VOCABULARY

SIDE = 96
"""Frame side in pixels."""
PATCH = 8
CELLS = SIDE // PATCH
"""Patches along one side, before the 2x2 pooling."""
GRID = CELLS // 2
"""Visual tokens along one side."""
FRAMES = 8
"""Frames sampled from a video."""
_WORD_TABLES = ("embed_tokens.weight", "lm_head.weight")
WIDTH = 128
"""Residual width of the language model."""
TOWER_WIDTH = 96


def build_config() -> LlavaOnevisionConfig:
    """The configuration that is shipped with the checkpoint."""
    vision = {
        "model_type": "siglip_vision_model",
        "hidden_size": TOWER_WIDTH,
        "intermediate_size": 4 * TOWER_WIDTH,
        "num_hidden_layers": 4,
        "num_attention_heads": TOWER_WIDTH // 32,
        "image_size": SIDE,
        "patch_size": PATCH,
        "vision_use_head": False,
    }
    text = {
        "model_type": "qwen2",
        "hidden_size": WIDTH,
        "intermediate_size": 352,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": len(VOCABULARY),
        "max_position_embeddings": 2048,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": VOCABULARY[EOS],
        "pad_token_id": VOCABULARY[PAD],
    }
    return LlavaOnevisionConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=VOCABULARY[IMAGE],
        video_token_index=VOCABULARY[VIDEO],
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        projector_hidden_act="gelu",
        vision_aspect_ratio="anyres_max_1",
        image_grid_pinpoints=[[SIDE, SIDE]],
        tie_word_embeddings=True,
    )


def build_model(seed: int = 0, device: str = "cpu") -> Any:
    """A fresh LlavaOnevisionForConditionalGeneration in float32, initialised so that it trains fast."""
    torch.manual_seed(seed)
    model: Any = LlavaOnevisionForConditionalGeneration(build_config())
    for part in (model.model.language_model, model.model.multi_modal_projector):
        for module in part.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, 0, 0.06)
    nn.init.normal_(model.model.multi_modal_projector.linear_1.weight, 0, 0.12)
    nn.init.normal_(model.model.multi_modal_projector.linear_2.weight, 0, 0.09)
    tower = model.model.vision_tower
    tower.embeddings.position_embedding.weight.data.copy_(sinusoids(CELLS, TOWER_WIDTH))
    tower.set_attn_implementation("eager")  # twice as fast as the fused kernel for training on a CPU
    return model.to(torch.device(device))


def load_weights(model: Any, state: dict[str, Tensor]) -> None:
    """Load a saved state; words that are newer than it start as copies of the unknown word.

    Raises:
        RuntimeError: the state belongs to another network.
    """
    words = model.get_input_embeddings().weight.shape[0]
    wider = {
        key: _with_new_words(value, words) if key.endswith(_WORD_TABLES) else value for key, value in state.items()
    }
    model.load_state_dict(wider)


def _with_new_words(table: Tensor, words: int) -> Tensor:
    """A word table [V, D] with at least `words` rows."""
    missing = max(0, words - len(table))
    return torch.cat([table, table[VOCABULARY[UNK]].expand(missing, -1)])


def sinusoids(cells: int, width: int, strength: float = 0.5) -> Tensor:
    """Two-dimensional sinusoid position rows [cells * cells, width]."""
    y, x = np.mgrid[:cells, :cells].reshape(2, -1)
    rate = 2 * np.pi / np.geomspace(2.2, 2.2 * cells, width // 4)
    waves = [wave(place[:, None] * rate) for place in (x, y) for wave in (np.sin, np.cos)]
    return torch.tensor(strength * np.concatenate(waves, 1), dtype=torch.float32)


def to_pixels(frames: NDArray[np.uint8]) -> Tensor:
    """RGB frames uint8 [T, h, w, 3] to model input float32 [T, 3, 96, 96], resized as the product does it."""
    images = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)
    if images.shape[-2:] != (SIDE, SIDE):
        images = functional.interpolate(images.contiguous(), size=(SIDE, SIDE), mode="bicubic", antialias=True)
    return (images.float() - 127.5) / 127.5


def tower_features(tower: Any, pixels: Tensor, positions: Tensor | None = None) -> Tensor:
    """Hidden states before the final norm, as the stock model reads them.

    pixels [B, 3, h, w]; positions [B, P] selects position rows when the picture is a window of the frame.
    Returns [B, P, D].
    """
    embeddings = tower.embeddings
    hidden: Tensor = embeddings.patch_embedding(pixels).flatten(2).transpose(1, 2)  # [B, P, D]
    rows = embeddings.position_embedding.weight
    hidden = hidden + (rows if positions is None else rows[positions])
    for layer in tower.encoder.layers:
        out = layer(hidden, None)
        hidden = out[0] if isinstance(out, tuple) else out
    return hidden


def pool(patches: Tensor) -> Tensor:
    """Mean over 2x2 patches, equal to the bilinear pooling of the stock model: [B, 4 N, D] to [B, N, D]."""
    side = int(patches.shape[1] ** 0.5) // 2
    return patches.view(patches.shape[0], side, 2, side, 2, -1).mean((2, 4)).flatten(1, 2)


@dataclass(frozen=True)
class VisualPrompt:
    """Visual tokens of a batch as the language model sees them, with their positions in the prompt."""

    tokens: Tensor  # [B, M, D], the newline token last
    positions: Tensor | None = None  # [B, M] positions after the user token, None = 1, 2, ...
    kept: Tensor | None = None  # [B, M - 1] which of all visual tokens these are, None = all


def visual_tokens(model: Any, pixels: Tensor) -> Tensor:
    """Tower, projector and pooling, equal to the stock path: [B, T, 3, 96, 96] to [B, T * 36, D]."""
    return projected(model, tower_features(model.model.vision_tower, pixels.flatten(0, 1)), len(pixels))


def projected(model: Any, hidden: Tensor, batch: int) -> Tensor:
    """Projector and pooling after the tower: [B * T, P, D] to [B, T * 36, D]."""
    return pool(model.model.multi_modal_projector(hidden)).view(batch, -1, WIDTH)


def full_prompt(model: Any, tokens: Tensor) -> VisualPrompt:
    """All visual tokens [B, M, D] followed by the newline token."""
    newline = model.model.image_newline.to(tokens.dtype).expand(len(tokens), 1, -1)
    return VisualPrompt(torch.cat([tokens, newline], 1))
