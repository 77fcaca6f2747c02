# SPDX-License-Identifier: Apache-2.0
"""The contract of a model family: layout, pixels, prompt, features, signals, positions. One adapter per
family."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vidcomp.core.architectures import ModelShape
from vidcomp.core.arguments import Maker
from vidcomp.core.stock_rules import StockRule
from vidcomp.errors import ModelError
from vidcomp.families.checkpoint import Checkpoint
from vidcomp.families.layout import Layout
from vidcomp.families.prompt import Markers, Prompt, tokenized
from vidcomp.families.spelling import Spelling
from vidcomp.hub.processor import customary_frames, stock_rule
from vidcomp.tower.probe import TOWER_SIGNALS, encoder_layers, probe_signals
from vidcomp.tower.shared import SharedRows, SharingTower

__all__ = ["About", "Encoded", "Family", "ModelShape", "Turn"]

Turn = tuple[str, str]
"""A question and its answer."""


@dataclass(frozen=True)
class Encoded:
    """Visual tokens of some slices.

    Attributes:
        features: [t, N, D].
        signals: what was asked for, each [t, N] or [t, N, C], under the name of a
            :class:`~vidcomp.core.tokens.TokenView` field.
        deepstack: [t, N, D] each, what the language model adds to the tokens after its first layers.
    """

    features: Tensor
    signals: Mapping[str, Tensor] = field(default_factory=dict)
    deepstack: tuple[Tensor, ...] = ()

    @classmethod
    def joined(cls, parts: Sequence[Encoded]) -> Encoded:
        """Parts that follow each other, at least one."""
        return cls(
            torch.cat([part.features for part in parts]),
            {name: torch.cat([part.signals[name] for part in parts]) for name in parts[0].signals},
            tuple(torch.cat(level) for level in zip(*(part.deepstack for part in parts), strict=True)),
        )


@dataclass(frozen=True)
class About:
    """A family in words, for docs/models.md.

    Attributes:
        title: the family's name.
        checkpoints: hub ids.
        tokens: how many tokens a frame costs.
        between: text and rows between and after the frames.
        limits: what to know before use.
    """

    title: str
    checkpoints: tuple[str, ...]
    tokens: str
    between: str = "nothing"
    limits: tuple[str, ...] = ()


class Family(ABC):
    """One family of stock video-LLMs. Holds the loaded checkpoint; knows nothing about methods.

    Dimension letters: F frames, T slices (see :class:`~vidcomp.families.layout.Layout`), t slices in a chunk, N tokens
    per slice, D width of the language model.
    """

    model_type: ClassVar[str]
    about: ClassVar[About]
    signals: ClassVar[frozenset[str]] = TOWER_SIGNALS  # what the tower can tell besides features
    slot: ClassVar[str] = "<video>"  # what the chat template writes for a video
    visual: ClassVar[str] = "<video>"  # the token that stands for one visual row in the stock model's ids
    visual_key: ClassVar[str] = "video_token_id"  # where the model's config has its id
    # Where frames and pictures have one token: what stands right before a frame, and before the first of a video.
    frame_line: ClassVar[str | None] = None
    first_frame: ClassVar[str | None] = None
    frames_per_slice: ClassVar[int] = 1
    default_positions: ClassVar[str] = "compact"
    position_axes: ClassVar[int] = 1  # position numbers per row
    stock: ClassVar[StockRule] = StockRule()  # how the family's own processor samples
    leading: ClassVar[int] = 0  # rows of the tower before the patches; the first is the class token
    chunk: ClassVar[int] = 16  # slices encoded at once, and their patches: both bound the vision tower's memory
    chunk_patches: ClassVar[int] = 16 * 27 * 27

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.model = checkpoint.model
        self.tokenizer = checkpoint.tokenizer
        self.settings = checkpoint.video_settings
        self.maker = Maker(checkpoint.name)

    @classmethod
    def of_model(cls, model: Any) -> Family:
        """The adapter of a model that someone else loaded. Without a tokenizer it writes no prompts, without the
        processor's settings it makes no pixels; everything after them works."""
        vision = model.config.vision_config
        settings = {"patch_size": vision.patch_size, "merge_size": getattr(vision, "spatial_merge_size", 2)}
        return cls(Checkpoint(model.name_or_path or cls.model_type, model, None, settings, None))

    # -- facts

    @property
    def merging_layers(self) -> tuple[nn.Module, ...]:
        """Layers of the tower up to the first one whose output is used, where rows may be merged between them; none
        when this family's tower cannot host that."""
        return ()

    @property
    def sharing_tower(self) -> SharingTower | None:
        """Place where slices can share rows of the tower; None when this family's tower cannot host that."""
        return None

    @property
    def default_frames(self) -> int:
        """Frames to sample when the user names no number."""
        return customary_frames(self.settings)

    @property
    def stock_rule(self) -> StockRule:
        """The rule of ``--sample model``: the family's own rule with the numbers of this checkpoint."""
        return stock_rule(self.stock, self.settings)

    @property
    def positions(self) -> str:
        """Position policy of ``--positions auto``: what the checkpoint asks for, else the family's."""
        return str(self.settings.get("vidcomp_positions", self.default_positions))

    @property
    def device(self) -> torch.device:
        """Device of the language model's input."""
        device: torch.device = self.model.get_input_embeddings().weight.device
        return device

    @property
    def tower(self) -> nn.Module:
        """The vision tower."""
        tower: nn.Module = self.model.get_encoder(modality="video")
        return tower

    @property
    def last_layer(self) -> int:
        """Index of the last tower layer that is used."""
        return len(encoder_layers(self.tower)) - 1

    @property
    def visual_id(self) -> int:
        """Id of the token that stands for a visual row."""
        return int(getattr(self.model.config, self.visual_key))

    @property
    def position_limit(self) -> int | None:
        """Number of positions of the language model, stretched rotary tables counted; None if not known."""
        text = self.model.config.get_text_config()
        limit = getattr(text, "max_position_embeddings", None)
        rotary = getattr(text, "rope_parameters", None) or {}
        stretched = rotary.get("rope_type") in ("linear", "dynamic")
        return int(limit * rotary.get("factor", 1.0) if stretched else limit) if limit else None

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

    @cached_property
    def spelling(self) -> Spelling:
        """Reader of a user's text that names control tokens."""
        return Spelling(self.tokenizer, (self.slot, self.visual))

    # -- what each family says

    @abstractmethod
    def geometry(self, frames: int, height: int, width: int) -> tuple[tuple[int, int], tuple[int, int], int]:
        """For a clip of decoded frames: size of the pictures that the tower reads, token grid, patches per slice."""

    @abstractmethod
    def pixels(self, frames: NDArray[np.uint8], layout: Layout | None = None) -> Tensor:
        """Frames of whole slices, uint8 [t * P, h, w, 3], as the tower's input, float32 [t, ...].

        The values are bit-equal to those of the stock video processor. ``layout`` is that of the whole clip, by
        default of these frames alone.
        """

    @abstractmethod
    def features(self, pixels: Tensor, layout: Layout) -> Encoded:
        """Tower, projector and pooling as the stock model runs them, separators left out: [t, N, D]."""

    @abstractmethod
    def pool(self, signal: Tensor, layout: Layout) -> Tensor:
        """Pool values per patch, [t, patches] or [t, patches, C] in the order of the tower's rows, brought to the
        tokens as the features are: [t, N] or [t, N, C]."""

    @abstractmethod
    def layout_seen(self, call: Mapping[str, Any], rows: int) -> Layout | None:
        """The layout of the one video that the stock model has just read; its times are not known: one frame a second.

        Args:
            call: arguments by name of the tower's last call.
            rows: how many visual tokens the request holds, separators left out.

        Returns:
            None when they are not the tokens of one whole video.
        """

    def markers(self, layout: Layout) -> Markers:
        """Text around the visual tokens of each slice; none by default."""
        return Markers(("",) * layout.slices)

    def separators(self) -> Tensor:
        """Rows [S, D] that follow the visual tokens, such as a newline; none by default."""
        none: Tensor = self.model.get_input_embeddings().weight.new_zeros(0, self.shape.width)
        return none

    def position_rows(self, prompt: Prompt, layout: Layout) -> Tensor:
        """Position ids of the uncompressed sequence, [R, S] with one row per rotary axis, as the stock model counts."""
        rows = len(prompt) + layout.slices * layout.tokens + len(self.separators())
        return torch.arange(rows)[None]

    def render(self, question: str, history: Sequence[Turn] = ()) -> str:
        """The chat prompt with one ``slot`` for the video, in front of the first question of a conversation.

        Raises:
            ModelError: the checkpoint has no chat template.
        """
        return self._templated(question, history, self.checkpoint.chat_template)

    def patches(self, pixels: Tensor, layout: Layout) -> Tensor:
        """The pictures of :meth:`pixels` cut up, in shares of full brightness: [t, H, W, C, p, p] with H rows of W
        patches per slice. Asked for where the family has a :attr:`sharing_tower`."""
        raise NotImplementedError

    def patch_order(self, layout: Layout) -> Tensor | None:
        """[H * W] int64, the patch, counted row by row, that each row of the tower is of; None when they are so."""
        return None

    # -- what follows from it

    def layout(
        self, times: Sequence[float] | NDArray[np.float64], height: int, width: int, duration: float | None = None
    ) -> Layout:
        """Lay a clip of frames h x w at these times out as tokens; the duration is that of the whole video."""
        size, grid, patches = self.geometry(len(times), height, width)
        seconds = duration if duration else float(times[-1])
        return Layout(tuple(float(t) for t in times), seconds, size, grid, patches, self.frames_per_slice)

    def seen_area(self, height: int, width: int) -> tuple[float, float, float, float]:
        """The part of a frame that the tower reads: (left, top, right, bottom) in shares of its sides."""
        return 0.0, 0.0, 1.0, 1.0

    def layout_of(self, frames: NDArray[np.uint8]) -> Layout:
        """The layout of frames [F, h, w, 3] whose times are not known: one per second."""
        return self.layout([float(t) for t in range(len(frames))], frames.shape[1], frames.shape[2], len(frames))

    def prompt(self, question: str, layout: Layout, history: Sequence[Turn] = ()) -> Prompt:
        """The request as text tokens with places for the visual tokens; the ids are those of the stock processor.

        ``history`` holds the turns before this question. Names of control tokens in either are text.

        Raises:
            ModelError: the chat template does not make a prompt with exactly one video.
        """
        covered = self.spelling.covered([*(text for turn in history for text in turn), question])
        *earlier, asked = covered.texts
        turns = list(zip(earlier[::2], earlier[1::2], strict=True))
        prompt = tokenized(covered, self.render(asked, turns), self.slot, self.markers(layout), self.visual)
        if prompt is None:
            raise ModelError(
                f"the chat template of {self.checkpoint.name} does not hold exactly one video",
                why=f"{self.slot} stands in it not at all or more than once, or is no token of its tokenizer",
                hint="is the folder complete? A hub checkpoint ships chat_template.json or chat_template.jinja",
            )
        return prompt

    def encode(
        self,
        frames: NDArray[np.uint8],
        signals: frozenset[str] = frozenset(),
        layout: Layout | None = None,
        shared: SharedRows | None = None,
    ) -> Encoded:
        """Visual tokens of whole slices, a chunk at a time.

        Args:
            frames: uint8 [t * P, h, w, 3], or a clip with an odd last frame.
            signals: what the tower has to tell besides features.
            layout: that of the whole clip when these are some of its slices.
            shared: rows of earlier slices of the clip, which these may share; nothing is shared when None.
        """
        layout = layout or self.layout_of(frames)
        return Encoded.joined(list(self._chunks(frames, signals, layout, shared)))

    def frames_at_once(self, layout: Layout) -> int:
        """Frames of one chunk: whole slices, as many as the bounds on slices and patches allow."""
        return max(1, min(self.chunk, self.chunk_patches // layout.patches)) * self.frames_per_slice

    def encode_chunk(self, pixels: Tensor, layout: Layout, signals: frozenset[str]) -> Encoded:
        """:meth:`features` of a few slices with signals; ``signals`` is a subset of the family's."""
        with self.watching(signals) as signals_of:
            encoded = self.features(pixels, layout)
        return replace(encoded, signals=signals_of(layout))

    @contextmanager
    def watching(self, signals: frozenset[str]) -> Iterator[Callable[[Layout], dict[str, Tensor]]]:
        """Collect what the tower tells while the block runs it; yields a function that gives it behind the block, each
        [t, N, ...]."""
        if not signals:
            yield lambda layout: {}
            return
        with probe_signals(encoder_layers(self.tower), self.last_layer, signals, self.leading) as found:
            yield lambda layout: {name: self.pool(_by_slice(rows, layout), layout) for name, rows in found.items()}

    def embed(self, ids: Tensor) -> Tensor:
        """Token ids [n] as input rows [n, D]."""
        embedded: Tensor = self.model.get_input_embeddings()(ids.to(self.device))
        return embedded

    @torch.no_grad()
    def _chunks(
        self, frames: NDArray[np.uint8], signals: frozenset[str], layout: Layout, shared: SharedRows | None
    ) -> Iterator[Encoded]:
        step = self.frames_at_once(layout)
        for start in range(0, len(frames), step):
            pixels = self.pixels(frames[start : start + step], layout)
            sharing = shared.chunk(self.patches(pixels, layout), self.patch_order(layout)) if shared else nullcontext()
            with sharing:
                encoded = self.encode_chunk(pixels.to(self.device, self.model.dtype), layout, signals)
            yield encoded

    def _templated(self, question: str, history: Sequence[Turn], template: str | None) -> str:
        said = [text for turn in history for text in turn] + [question]
        messages: list[dict[str, Any]] = [
            {"role": ("user", "assistant")[index % 2], "content": [{"type": "text", "text": text}]}
            for index, text in enumerate(said)
        ]
        messages[0]["content"].insert(0, {"type": "video"})
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    messages, tokenize=False, add_generation_prompt=True, chat_template=template
                )
            )
        except (ValueError, TypeError) as error:
            raise ModelError(
                f"{self.checkpoint.name} has no usable chat template",
                why=str(error).splitlines()[0],
                hint="a hub checkpoint ships chat_template.json or chat_template.jinja; is the folder complete?",
            ) from error


def _by_slice(rows: Tensor, layout: Layout) -> Tensor:
    """[t, patches, ...], also from towers that run on the rows of all slices at once."""
    return rows.reshape(-1, layout.patches, *rows.shape[2:])
