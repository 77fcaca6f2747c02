# SPDX-License-Identifier: Apache-2.0
"""Many questions about one video in a single forward pass.

The visual prefix is computed once; all question and answer rows follow it, each allowed to see the prefix and the
earlier rows of its own question only, with positions restarted at the end of the prefix. That equals asking one
question at a time, at a fraction of the cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface

from training.nano.model import VisualPrompt
from vidcomp.bench.world.questions import Question
from vidcomp.bench.world.vocabulary import ASSISTANT, EOS, USER, VOCABULARY, encode

SPLIT = "nano_split"
"""Name under which the attention function is registered."""

LATE_LAYER = 3
"""From this layer on, the mask `late` of a forward pass holds."""

_IGNORE = -100


@dataclass(frozen=True)
class Packed:
    """Text rows of a batch, padded to L."""

    tokens: Tensor  # [B, L]
    offsets: Tensor  # [B, L] position after the prefix
    owner: Tensor  # [B, L] which question, -1 = padding
    targets: Tensor  # [B, L] next token where it belongs to the answer, -100 elsewhere

    def to(self, device: str) -> Packed:
        """The same on another device."""
        return Packed(*(t.to(device) for t in (self.tokens, self.offsets, self.owner, self.targets)))


@dataclass
class Taps:
    """Collects attention of the text rows in some layers while a forward pass runs."""

    layers: tuple[int, ...] = ()
    attention: dict[int, Tensor] = field(default_factory=dict)  # layer to [B, heads, L, prefix + L]


def pack(batch: Sequence[Sequence[Question]]) -> Packed:
    """Pack the questions of each video one after the other."""
    rows = [_pack_one(questions) for questions in batch]
    length = max(len(row[0]) for row in rows)
    fills = (VOCABULARY["<pad>"], 0, -1, _IGNORE)
    columns = (torch.tensor([row[k] + [fill] * (length - len(row[k])) for row in rows]) for k, fill in enumerate(fills))
    return Packed(*columns)


def _pack_one(questions: Sequence[Question]) -> tuple[list[int], list[int], list[int], list[int]]:
    """Tokens, offsets, owners and targets of one video."""
    tokens: list[int] = []
    offsets: list[int] = []
    owner: list[int] = []
    targets: list[int] = []
    for index, question in enumerate(questions):
        prompt = [*encode(question.text), VOCABULARY[ASSISTANT]]
        answer = [*encode(question.answer), VOCABULARY[EOS]]
        rows = (prompt + answer)[:-1]
        tokens += rows
        offsets += range(len(rows))
        owner += [index] * len(rows)
        targets += [_IGNORE] * (len(prompt) - 1) + answer
    return tokens, offsets, owner, targets


def split_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float,
    dropout: float = 0.0,
    prefix: int = 0,
    taps: Taps | None = None,
    late: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Causal attention inside the prefix, masked attention for the text rows only.

    query [B, H, P + L, d], key and value [B, H_kv, P + L, d], attention_mask [B, 1, L, P + L] added to the scores.
    """
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    query, key = query.to(value.dtype), key.to(value.dtype)
    exact = torch.float32 if query.device.type == "cpu" else value.dtype  # the fused CPU kernel is faster in float32
    q, k, v = (part[:, :, :prefix].to(exact) for part in (query, key, value))
    before = functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling).to(value.dtype)
    layer = getattr(module, "layer_idx", -1)
    if late is not None and layer >= LATE_LAYER:
        attention_mask = torch.cat([attention_mask[..., :prefix] + late, attention_mask[..., prefix:]], -1)
    scores = query[:, :, prefix:] @ key.transpose(2, 3) * scaling
    if taps is not None and layer in taps.layers:
        weights = (scores.float() + attention_mask).softmax(-1)
        taps.attention[layer] = weights
    else:
        weights = (scores + attention_mask.to(scores.dtype)).softmax(-1)  # unfused, faster on a CPU for few rows
    after = weights.to(value.dtype) @ value
    return torch.cat([before, after], 2).transpose(1, 2).contiguous(), None


AttentionInterface.register(SPLIT, split_attention)


@dataclass(frozen=True)
class TextOutput:
    """What a packed forward pass gives."""

    logits: Tensor  # [R, vocabulary] for the R rows that have a target
    targets: Tensor  # [R]
    hidden_states: tuple[Tensor, ...]  # after each layer [B, P + L, D], empty unless asked for
    prefix: int


def forward_packed(
    language_model: Any,
    prompt: VisualPrompt,
    packed: Packed,
    taps: Taps | None = None,
    keep_hidden: bool = False,
    late: Tensor | None = None,
) -> TextOutput:
    """Run the stock Qwen2 decoder over prefix and packed questions; `late` [B, 1, 1, P] masks the last layers."""
    embed = language_model.embed_tokens
    tokens = prompt.tokens
    batch, device = tokens.shape[0], tokens.device
    user = embed(torch.full((batch, 1), VOCABULARY[USER], device=device))
    text = embed(packed.tokens)
    prefix = tokens.shape[1] + 1
    places = torch.arange(1, prefix, device=device).expand(batch, -1) if prompt.positions is None else prompt.positions
    starts = places[:, -1:] + 1
    positions = torch.cat([torch.zeros_like(starts), places, starts + packed.offsets], 1)
    out = language_model(
        inputs_embeds=torch.cat([user, tokens.to(text.dtype), text], 1),
        attention_mask={"full_attention": _text_mask(packed.owner, prefix)},
        position_ids=positions,
        use_cache=False,
        prefix=prefix,
        taps=taps,
        late=late,
        output_hidden_states=keep_hidden,
    )
    chosen = packed.targets >= 0
    rows = out.last_hidden_state[:, prefix:][chosen]
    logits = functional.linear(rows, embed.weight.to(rows.dtype))
    return TextOutput(logits.float(), packed.targets[chosen], (out.hidden_states or ())[1:], prefix)


def _text_mask(owner: Tensor, prefix: int) -> Tensor:
    """Additive mask [B, 1, L, prefix + L]: the whole prefix, and earlier rows of the same question."""
    batch, length = owner.shape
    same = owner[:, :, None] == owner[:, None, :]
    allowed = same & torch.ones(length, length, dtype=torch.bool, device=owner.device).tril()
    own = torch.zeros(batch, length, length, device=owner.device).masked_fill(~allowed, -1e4)
    return torch.cat([torch.zeros(batch, length, prefix, device=owner.device), own], 2)[:, None]


def exact_matches(output: TextOutput, packed: Packed, batch: Sequence[Sequence[Question]]) -> list[list[bool]]:
    """For every question, whether each answer token is the most likely one; equals greedy decoding being right."""
    chosen = packed.targets >= 0
    right = torch.ones_like(chosen)
    right[chosen] = output.logits.argmax(-1) == output.targets
    return [
        [bool(right[i][(packed.owner[i] == j) & chosen[i]].all()) for j in range(len(questions))]
        for i, questions in enumerate(batch)
    ]
