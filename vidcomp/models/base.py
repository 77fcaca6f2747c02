"""What the pipeline asks of a model family: pixels, prompt, features, salience. One adapter per family."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from vidcomp.errors import ModelError
from vidcomp.models.checkpoint import Checkpoint

__all__ = ["DEFAULT_FRAMES", "Encoded", "Family", "ModelShape", "Prompt"]

DEFAULT_FRAMES = 32  # the customary number in the literature, for checkpoints that do not name one


@dataclass(frozen=True)
class Encoded:
    """Visual tokens of some frames: features [t, N, D], and the signals that were asked for, each [t, N] or [t, N, C].

    A signal has the name of a :class:`~vidcomp.tokens.TokenView` field.
    """

    features: Tensor
    signals: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Prompt:
    """Token ids around the visual tokens: before [B0], after [B1], both int64 on the CPU."""

    before: Tensor
    after: Tensor

    def __len__(self) -> int:
        return self.before.numel() + self.after.numel()


@dataclass(frozen=True)
class ModelShape:
    """The sizes that decide FLOPs and cache bytes of a language model."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    head_size: int
    mlp_width: int
    bytes_per_value: int


class Family(ABC):
    """One family of stock video-LLMs. Holds the loaded checkpoint; knows nothing about methods.

    Dimension letters: t frames in a chunk, T frames in all, N tokens per frame, D width of the language model.
    """

    model_type: ClassVar[str]
    signals: ClassVar[frozenset[str]]  # what the tower can tell besides features
    chunk: ClassVar[int] = 16  # frames encoded at once; bounds the vision tower's memory

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.model = checkpoint.model
        self.tokenizer = checkpoint.tokenizer
        self.settings = checkpoint.video_settings

    # -- facts

    @property
    @abstractmethod
    def grid(self) -> tuple[int, int]:
        """(H, W) of the tokens of one frame; N = H * W."""

    @property
    def merging_layers(self) -> tuple[nn.Module, ...]:
        """Layers of the tower up to the first one whose output is used, where rows may be merged between them; none
        when this family's tower cannot host that."""
        return ()

    @property
    def default_frames(self) -> int:
        """Frames to sample when the user names no number."""
        return int(self.settings.get("num_frames") or DEFAULT_FRAMES)

    @property
    def positions(self) -> str:
        """Position policy of ``--positions auto``: what the checkpoint asks for, else renumbered as in the papers."""
        return str(self.settings.get("vidcomp_positions", "compact"))

    @property
    def device(self) -> torch.device:
        """Where the language model reads its input."""
        device: torch.device = self.model.get_input_embeddings().weight.device
        return device

    @property
    def shape(self) -> ModelShape:
        """Sizes of the language model."""
        text = self.model.config.get_text_config()
        heads = text.num_attention_heads
        return ModelShape(
            layers=text.num_hidden_layers,
            width=text.hidden_size,
            heads=heads,
            kv_heads=getattr(text, "num_key_value_heads", None) or heads,
            head_size=getattr(text, "head_dim", None) or text.hidden_size // heads,
            mlp_width=text.intermediate_size,
            bytes_per_value=self.model.get_input_embeddings().weight.element_size(),
        )

    # -- steps

    @abstractmethod
    def pixels(self, frames: np.ndarray[Any, np.dtype[np.uint8]]) -> Tensor:
        """Decoded frames uint8 [t, h, w, 3] as the tower's input, float32 [t, 3, H, W]."""

    @abstractmethod
    def encode_chunk(self, pixels: Tensor, signals: frozenset[str]) -> Encoded:
        """Run tower, projector and pooling on a few frames; ``signals`` is a subset of the family's."""

    @abstractmethod
    def separators(self) -> Tensor:
        """Rows [S, D] that follow the visual tokens, such as a newline; S may be 0."""

    @abstractmethod
    def prompt(self, question: str) -> Prompt:
        """Token ids before and after the visual block, as the stock processor writes them."""

    def encode(self, frames: np.ndarray[Any, np.dtype[np.uint8]], signals: frozenset[str] = frozenset()) -> Encoded:
        """Visual tokens of frames uint8 [T, h, w, 3], a chunk at a time: features [T, N, D], signals [T, N, ...]."""
        chunks = list(self._chunks(frames, signals))
        features = torch.cat([chunk.features for chunk in chunks])
        return Encoded(features, {name: torch.cat([chunk.signals[name] for chunk in chunks]) for name in signals})

    @torch.no_grad()
    def _chunks(self, frames: np.ndarray[Any, np.dtype[np.uint8]], signals: frozenset[str]) -> Iterator[Encoded]:
        for start in range(0, len(frames), self.chunk):
            pixels = self.pixels(frames[start : start + self.chunk])
            yield self.encode_chunk(pixels.to(self.device, self.model.dtype), signals)

    def render(self, question: str) -> str:
        """The chat prompt with one video placeholder.

        Raises:
            ModelError: the checkpoint has no chat template.
        """
        message = {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": question}]}
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    [message],
                    tokenize=False,
                    add_generation_prompt=True,
                    chat_template=self.checkpoint.chat_template,
                )
            )
        except (ValueError, TypeError) as error:
            raise ModelError(
                f"{self.checkpoint.name} has no usable chat template",
                why=str(error).splitlines()[0],
                hint="a hub checkpoint ships chat_template.json or chat_template.jinja; is the folder complete?",
            ) from error

    def embed(self, ids: Tensor) -> Tensor:
        """Token ids [n] as input rows [n, D]."""
        embedded: Tensor = self.model.get_input_embeddings()(ids.to(self.device))
        return embedded
