"""LLaVA-OneVision: SigLIP tower, projector, 2x2 bilinear pooling, one newline row after the last frame, Qwen2.

Hub checkpoints: llava-hf/llava-onevision-qwen2-{0.5b,7b,72b}-ov-hf. A prompt holds ``T * N + 1`` video placeholders.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vidcomp.errors import UsageError
from vidcomp.models.base import Encoded, Family, Prompt
from vidcomp.models.checkpoint import Checkpoint
from vidcomp.models.probe import TOWER_SIGNALS, encoder_layers, probe_signals
from vidcomp.pixels import RESAMPLE, normalize, resize, to_channels_first

__all__ = ["LlavaOnevision"]


class LlavaOnevision(Family):
    """Adapter for ``llava_onevision`` checkpoints, the embedded model among them."""

    model_type = "llava_onevision"
    signals = TOWER_SIGNALS  # SigLIP has no class token

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__(checkpoint)
        vision = self.model.config.vision_config
        self.patches_per_side = vision.image_size // vision.patch_size
        side = math.ceil(self.patches_per_side / 2)
        self._grid = (side, side)
        tower = self.model.get_encoder(modality="video")
        self._layers = encoder_layers(tower)
        self._last = max(_used_layers(self.model.config, len(self._layers)))

    @property
    def grid(self) -> tuple[int, int]:
        """Tokens per frame after pooling: 27 x 27 patches become 14 x 14."""
        return self._grid

    @property
    def merging_layers(self) -> tuple[torch.nn.Module, ...]:
        """All layers up to the first one whose output the projector reads."""
        return tuple(self._layers[: min(_used_layers(self.model.config, len(self._layers))) + 1])

    def pixels(self, frames: np.ndarray[Any, np.dtype[np.uint8]]) -> Tensor:
        """Squash to the tower's square and normalise, bit-equal to the stock video processor: [t, 3, S, S]."""
        rule = self.settings
        size = (int(rule["size"]["height"]), int(rule["size"]["width"]))
        squashed = resize(to_channels_first(frames), size, RESAMPLE[int(rule["resample"])])
        return normalize(squashed, rule["image_mean"], rule["image_std"], rule.get("rescale_factor", 1 / 255))

    def encode_chunk(self, pixels: Tensor, signals: frozenset[str]) -> Encoded:
        """Tower, projector and pooling as the stock model runs them, without the newline row: [t, N, D]."""
        if not signals:
            return Encoded(self._features(pixels))
        with probe_signals(self._layers, self._last, signals) as found:
            features = self._features(pixels)
        return Encoded(features, {name: self._pool(value) for name, value in found.items()})

    def separators(self) -> Tensor:
        """The learned newline that follows the last frame: [1, D]."""
        newline: Tensor = self.model.base_model.image_newline.detach()
        return newline[None]

    def prompt(self, question: str) -> Prompt:
        """Ids before and after the video placeholder.

        Raises:
            UsageError: the rendered prompt does not hold exactly one placeholder.
        """
        ids = self.tokenizer(self.render(question), return_tensors="pt").input_ids[0]
        at = (ids == self.model.config.video_token_id).nonzero()[:, 0].tolist()
        if len(at) != 1:
            raise UsageError(
                f"the prompt holds {len(at)} video placeholders instead of one",
                why="the question or the chat template contains the placeholder itself",
                hint="ask without the word <video>",
                code="bad_prompt",
            )
        return Prompt(ids[: at[0]], ids[at[0] + 1 :])

    def _features(self, pixels: Tensor) -> Tensor:
        # Positionally: the argument was renamed between releases. Newline: older releases add it later, in forward.
        out = self.model.base_model.get_video_features(pixels[None], return_dict=True)
        rows = len(pixels) * self._grid[0] * self._grid[1]
        tokens: Tensor = out.pooler_output[0, :rows]
        return tokens.view(len(pixels), -1, tokens.shape[-1])

    def _pool(self, signal: Tensor) -> Tensor:
        """A signal [t, patches] or [t, patches, C] resized like the features: [t, N] or [t, N, C]."""
        side = self.patches_per_side
        planes = signal.reshape(len(signal), side, side, -1).movedim(-1, 1)  # [t, C, side, side]
        pooled = F.interpolate(planes, size=self._grid, mode="bilinear").flatten(2).transpose(1, 2)
        return pooled if signal.dim() > 2 else pooled[:, :, 0]


def _used_layers(config: Any, count: int) -> list[int]:
    """Encoder layers whose output feeds the projector, of ``count``; hidden state k is the output of layer k - 1."""
    chosen = config.vision_feature_layer
    states = [chosen] if isinstance(chosen, int) else list(chosen)
    return [(state if state >= 0 else count + 1 + state) - 1 for state in states]
