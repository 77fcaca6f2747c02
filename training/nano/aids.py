# SPDX-License-Identifier: Apache-2.0
"""Auxiliary losses that make binding and change easy to learn; dropped again at the end of training.

Grounding: words that name an object look at the tokens that show it. Answer attention: answer rows look at the object
they speak about, around its event. Difference naming: tokens where something changes can say what changes.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from training.nano.model import GRID
from training.nano.packing import Packed, Taps, TextOutput
from training.nano.symbolic import cells_of
from vidcomp.bench.world.questions import Question, Reference
from vidcomp.bench.world.videos import DIRECTIONS, Event, Sight, Video, state
from vidcomp.bench.world.vocabulary import VOCABULARY

GROUND_LAYER, GROUND_HEADS = 1, slice(2, 4)
ANSWER_LAYER, ANSWER_HEADS = 2, slice(0, 2)
NAMING_LAYER = 1


@dataclass(frozen=True)
class AidWeights:
    """Weight of each auxiliary loss, zero = not computed."""

    ground: float = 1.0
    answer: float = 0.3
    naming: float = 0.4

    @property
    def taps(self) -> Taps:
        """The attention these losses need."""
        wanted = ((GROUND_LAYER, self.ground), (ANSWER_LAYER, self.answer))
        return Taps(tuple(layer for layer, weight in wanted if weight))


class VideoMap:
    """Where each object of a video is seen, in places of the visual tokens that the decoder gets.

    `kept` lists the tokens that survived thinning, None means all.
    """

    def __init__(self, video: Video, times: Sequence[float], kept: Sequence[int] | None = None) -> None:
        self.video, self.times = video, times
        self._place = None if kept is None else {token: place for place, token in enumerate(kept)}
        self._seen: dict[tuple[int, int, int], Sight] = {
            (sight.scene, sight.thing, i): sight for i, time in enumerate(times) for sight in state(video, time)
        }

    def samples_of(self, scene: int) -> list[int]:
        """Numbers of the samples that fall into a scene."""
        return [i for i, time in enumerate(self.times) if self.video.scene_at(time) == scene]

    def tokens(self, reference: Reference, sample: int) -> list[int]:
        """Tokens of an object in one sample; where it was or will be if it is not visible then."""
        for shift in (0, -1, 1):
            sight = self._seen.get((reference.scene, reference.thing, sample + shift))
            if sight is not None:
                cells = cells_of(sight, self.video.aspect)
                return self.places([sample * GRID * GRID + int(cell) for cell in cells])
        return []

    def places(self, tokens: list[int]) -> list[int]:
        """Places of those tokens that the decoder gets."""
        return tokens if self._place is None else [self._place[token] for token in tokens if token in self._place]

    def visible_tokens(self, reference: Reference) -> list[int]:
        """Tokens of an object in all samples that show it."""
        seen = [i for i in self.samples_of(reference.scene) if (reference.scene, reference.thing, i) in self._seen]
        return [token for i in seen for token in self.tokens(reference, i)]

    def event_samples(self, scene: int) -> list[int]:
        """The samples just before and just after an event has begun."""
        event = self.video.scenes[scene].event
        samples = self.samples_of(scene)
        if event is None:
            return samples
        later = [i for i in samples if self.times[i] >= event.start]
        return [i for i in samples if i in (later[0] - 1, later[0])] if later else samples


def aid_loss(
    model: Any,
    output: TextOutput,
    taps: Taps,
    weights: AidWeights,
    maps: Sequence[VideoMap],
    batch: Sequence[Sequence[Question]],
    packed: Packed,
) -> Tensor:
    """Weighted sum of the auxiliary losses of a batch."""
    total = output.logits.new_zeros(())
    if weights.ground:
        rows = _grounding_rows(maps, batch, packed)
        total = total + weights.ground * _mass_loss(taps.attention[GROUND_LAYER][:, GROUND_HEADS], rows)
    if weights.answer:
        rows = _answer_rows(maps, batch, packed)
        total = total + weights.answer * _mass_loss(taps.attention[ANSWER_LAYER][:, ANSWER_HEADS], rows)
    if weights.naming and len(maps[0].times) > 1:
        total = total + weights.naming * _naming_loss(model, output, maps)
    return total


Row = tuple[int, int, list[int]]  # video, text row, visual tokens it should look at


def _grounding_rows(maps: Sequence[VideoMap], batch: Sequence[Sequence[Question]], packed: Packed) -> list[Row]:
    """Question words that name an object, with the tokens of that object."""
    rows: list[Row] = []
    tokens, owner, targets = packed.tokens.tolist(), packed.owner.tolist(), packed.targets.tolist()
    for b, questions in enumerate(batch):
        for j, question in enumerate(questions):
            if question.named is None:
                continue
            thing = maps[b].video.scenes[question.named.scene].things[question.named.thing]
            words = {VOCABULARY[thing.color], VOCABULARY[thing.shape]}
            wanted = maps[b].visible_tokens(question.named)
            spots = (r for r, word in enumerate(tokens[b]) if owner[b][r] == j and word in words and targets[b][r] < 0)
            rows += [(b, r, wanted) for r in spots if wanted]
    return rows


def _answer_rows(maps: Sequence[VideoMap], batch: Sequence[Sequence[Question]], packed: Packed) -> list[Row]:
    """Answer rows, with the tokens of the object they speak about."""
    rows: list[Row] = []
    owner, targets = packed.owner.tolist(), packed.targets.tolist()
    for b, questions in enumerate(batch):
        for j, question in enumerate(questions):
            if question.about is None:
                continue
            scene, grid = question.about.scene, maps[b]
            samples = grid.event_samples(scene) if question.about_event else grid.samples_of(scene)
            wanted = [token for sample in samples for token in grid.tokens(question.about, sample)]
            spots = [r for r in range(len(owner[b])) if owner[b][r] == j and targets[b][r] >= 0][:-1]
            rows += [(b, r, wanted) for r in spots if wanted]
    return rows


def _mass_loss(attention: Tensor, rows: Sequence[Row]) -> Tensor:
    """Mean of -log of the attention mass [B, heads, L, K] that the rows put on their tokens."""
    if not rows:
        return attention.new_zeros(())
    wanted = attention.new_zeros(len(rows), attention.shape[-1])
    for i, (_, _, tokens) in enumerate(rows):
        wanted[i, [1 + token for token in tokens]] = 1
    videos, lines = torch.tensor([row[0] for row in rows]), torch.tensor([row[1] for row in rows])
    mass = (attention[videos, :, lines] * wanted[:, None]).sum(-1)
    return -(mass + 1e-5).log().mean()


def _event_word(event: Event) -> int:
    """The word that tells what changes."""
    return VOCABULARY[event.kind if event.kind in DIRECTIONS else event.phrase.split()[0]]


def _naming_loss(model: Any, output: TextOutput, maps: Sequence[VideoMap]) -> Tensor:
    """Tokens of the changing object name the change; as many other tokens name nothing."""
    spots: list[tuple[int, int, int]] = []
    nothing = VOCABULARY["none"]
    for b, grid in enumerate(maps):
        for index, scene in enumerate(grid.video.scenes):
            event, samples = scene.event, grid.samples_of(index)
            if event is None:
                continue
            sample = next((i for i in samples if grid.times[i] >= event.start), samples[-1])
            reference = Reference(index, event.thing)
            spots += [(b, token, _event_word(event)) for token in grid.tokens(reference, sample)]
            still = Reference(index, random.randrange(len(scene.things)))
            calm = [i for i in samples if i < sample] if still == reference else samples
            spots += [(b, token, nothing) for token in grid.tokens(still, random.choice(calm))[:5]]
            others = [random.choice(samples) * GRID * GRID + random.randrange(GRID * GRID) for _ in range(3)]
            spots += [(b, token, nothing) for token in grid.places(others)]
    if not spots:
        return output.logits.new_zeros(())
    videos, tokens, words = (torch.tensor(column) for column in zip(*spots, strict=True))
    hidden = output.hidden_states[NAMING_LAYER][videos, 1 + tokens]
    scores = functional.linear(model.norm(hidden).float(), model.embed_tokens.weight.float())
    return functional.cross_entropy(scores, words.to(scores.device))
