# SPDX-License-Identifier: Apache-2.0
"""A tiny random LLaVA-OneVision, initialised so widely that attention is far from uniform and errors show."""

from __future__ import annotations

import torch
from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration

TEXT = dict(
    model_type="qwen2",
    vocab_size=300,
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=6,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=4096,
    pad_token_id=0,
    eos_token_id=2,
    tie_word_embeddings=False,
)
VISION = dict(
    model_type="siglip_vision_model",
    vision_use_head=False,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=3,
    num_attention_heads=4,
    image_size=54,
    patch_size=6,
)


def tiny_model(attn: str = "sdpa", seed: int = 0, dtype: torch.dtype = torch.float32):
    config = LlavaOnevisionConfig(
        vision_config=VISION,
        text_config=TEXT,
        image_token_id=290,
        video_token_id=291,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    model = LlavaOnevisionForConditionalGeneration(config).eval().to(dtype)
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        noise = torch.randn(weight.shape, generator=generator).to(dtype)
        if weight.ndim >= 2:
            weight.data = noise * (1.5 / weight.shape[-1] ** 0.5)
        elif "newline" in name:
            weight.data = noise * 0.5
        elif name.endswith("bias"):
            weight.data = noise * 0.1
    model.set_attn_implementation(attn)
    model.generation_config.pad_token_id = 0
    model.generation_config.eos_token_id = None
    return model


@torch.no_grad()
def masked_reference(model, rows, positions, kept, replaced=None, frozen=None, unread=None, renumbered=None, added=()):
    """Logits [S, V] by an explicit loop over the decoder layers: nothing is cut, dropped rows are only hidden.

    kept: layer -> row indices visible from that layer on.
    replaced: layer -> (row indices, their new values) written before it.
    frozen: layer -> row indices that it must leave as they are.
    unread: layer -> [S, S] bool, keys that a row must not read there.
    renumbered: layer -> positions [1, S] from that layer on.
    added: (row indices, their values) per layer, added after it, from layer 0 on.
    """
    decoder = model.get_decoder()
    length = rows.shape[0]
    hidden = rows[None]
    rotary = decoder.rotary_emb(hidden, positions)
    visible = torch.ones(length, dtype=torch.bool)
    causal = torch.ones(length, length).tril().bool()
    for index, layer in enumerate(decoder.layers):
        if index in kept:
            visible = torch.zeros(length, dtype=torch.bool)
            visible[kept[index]] = True
        if renumbered and index in renumbered:
            rotary = decoder.rotary_emb(hidden, renumbered[index])
        if replaced and index in replaced:
            where, values = replaced[index]
            hidden = hidden.clone()
            hidden[0, where] = values(hidden[0])
        seen = causal & visible
        if unread and index in unread:
            seen = seen & ~unread[index]
        seen = seen | torch.eye(length, dtype=torch.bool)
        mask = torch.zeros(length, length, dtype=hidden.dtype).masked_fill(~seen, torch.finfo(hidden.dtype).min)
        out = layer(
            hidden,
            attention_mask=mask[None, None],
            position_embeddings=rotary,
            position_ids=None,
            past_key_values=None,
            use_cache=False,
        )
        before, hidden = hidden, (out[0] if isinstance(out, tuple) else out).clone()
        if frozen and index in frozen:
            hidden[0, frozen[index]] = before[0, frozen[index]]
        if index < len(added):
            where, values = added[index]
            hidden[0, where] += values
    return model.lm_head(decoder.norm(hidden))[0]
