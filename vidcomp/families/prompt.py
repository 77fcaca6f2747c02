# SPDX-License-Identifier: Apache-2.0
"""The text of a request, the places in it where visual tokens go, and the sequence that is left after compression.

Letters: T slices, N tokens per slice, L text tokens, M survivors, S separator rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from vidcomp.families.spelling import Covered

__all__ = ["Markers", "Prompt", "Arrangement", "tokenized"]


@dataclass(frozen=True)
class Markers:
    """Text that a family writes around the visual tokens of each slice.

    Attributes:
        opening: [T], before the tokens of each slice, such as a frame number or a time.
        closing: after them.
        joiner: between two slices.
        intro, outro: before the first and after the last slice; they stay whatever becomes of the slices.
    """

    opening: tuple[str, ...]
    closing: str = ""
    joiner: str = ""
    intro: str = ""
    outro: str = ""

    def pieces(self, visual: str) -> Iterator[tuple[str, int, bool]]:
        """Pieces of text in order: the text, the slice it belongs to (-1 for none), whether it only joins slices."""
        yield self.intro, -1, False
        for index, opening in enumerate(self.opening):
            yield self.joiner if index else "", index, True
            yield opening + visual + self.closing, index, False
        yield self.outro, -1, False


@dataclass(frozen=True)
class Prompt:
    """Text tokens, and where the visual tokens of each slice stand among them. All tensors are on the CPU.

    Attributes:
        ids: [L] int64, in order, visual tokens left out.
        at: [T] int64, not falling: how many text tokens precede the visual tokens of each slice.
        owner: [L] int64, the slice whose marker the token is part of, -1 for the prompt proper.
        joins: [L] bool, part of a marker that only sets it off from the slice before.
    """

    ids: Tensor
    at: Tensor
    owner: Tensor
    joins: Tensor

    def __len__(self) -> int:
        return self.ids.numel()

    @property
    def before(self) -> Tensor:
        """Ids before the first visual token."""
        return self.ids[: int(self.at[0])]

    @property
    def after(self) -> Tensor:
        """Ids after the last visual token."""
        return self.ids[int(self.at[-1]) :]

    def places(self, tokens: int, separators: int = 0) -> tuple[Tensor, Tensor]:
        """Places of rows in the uncompressed sequence.

        Args:
            tokens: N.
            separators: rows that follow the last slice.

        Returns:
            place of each text token [L], and of the first visual token of each slice [T].
        """
        own = torch.arange(len(self))
        passed = torch.searchsorted(self.at, own, right=True)  # slices before each text token
        text = own + tokens * passed + separators * (passed == self.at.numel())
        return text, self.at + tokens * torch.arange(self.at.numel())

    def full_ids(self, tokens: int, separators: int, visual: int) -> Tensor:
        """Ids of the uncompressed sequence, as the stock processor writes them; ``visual`` stands for visual rows."""
        text, _ = self.places(tokens, separators)
        full = torch.full((len(self) + tokens * self.at.numel() + separators,), visual)
        full[text] = self.ids
        return full

    def arranged(self, survivors: Tensor, tokens: int, separators: int = 0) -> Arrangement:
        """The sequence that is read: survivors in their slices, without the markers of slices that lost all tokens.

        Args:
            survivors: [M] int64 on the CPU, flat index t * N + n, in any order; it is kept within a slice, and over all
                slices when no text stands between them.
            tokens: N.
            separators: S.
        """
        slices = survivors // tokens
        alive = torch.zeros(self.at.numel(), dtype=torch.bool).index_fill_(0, slices, True)
        first = int(slices.min())
        stays = (self.owner < 0) | (alive[self.owner.clamp(min=0)] & ~(self.joins & (self.owner == first)))
        text_place, slice_place = self.places(tokens, separators)
        last = slice_place[-1] + tokens
        full = torch.cat([slice_place[slices] + survivors % tokens, last + torch.arange(separators), text_place[stays]])
        # a slice's rows come before the text that follows them and after the text that precedes them
        rank = torch.cat([2 * self.at[slices], (2 * self.at[-1:]).expand(separators), 2 * stays.nonzero()[:, 0] + 1])
        order = rank.argsort(stable=True)
        markers = int((stays & (self.owner >= 0)).sum())
        return Arrangement(self.ids[stays], order, full[order], markers, int((~stays).sum()))


@dataclass(frozen=True)
class Arrangement:
    """Rows of the compressed sequence.

    Attributes:
        text: [L'] int64, ids of the text that stays.
        order: [M + S + L'] int64, index into survivors, then separators, then text, joined.
        full: [M + S + L'] int64, where each row stands in the uncompressed sequence.
        markers: how many of the text rows belong to markers.
        dropped: marker rows that left with their slices.
    """

    text: Tensor
    order: Tensor
    full: Tensor
    markers: int
    dropped: int


def tokenized(covered: Covered, text: str, slot: str, markers: Markers, visual: str) -> Prompt | None:
    """Tokenise a rendered prompt whose ``slot`` stands for the video; None when it holds not exactly one video.

    ``covered`` holds the texts that it was rendered from, and uncovers what they spell of control tokens. One visual
    token per slice is written; it is a special token, so that its number does not change its neighbours.
    """
    head, *rest = text.split(slot)
    pieces = [(head, -1, False), *markers.pieces(visual), (slot.join(rest), -1, False)]
    ids, spans = map(torch.tensor, covered.tokens("".join(piece for piece, _, _ in pieces)))
    is_visual = ids == covered.spelling.tokenizer.convert_tokens_to_ids(visual)
    if len(rest) != 1 or int(is_visual.sum()) != len(markers.opening):
        return None
    ends = torch.tensor([len(piece) for piece, _, _ in pieces]).cumsum(0)
    piece = torch.searchsorted(ends, spans[:, 0].contiguous(), right=True).clamp(max=len(pieces) - 1)
    owner = torch.tensor([owner for _, owner, _ in pieces])[piece]
    joins = torch.tensor([joins for _, _, joins in pieces])[piece] & (spans[:, 1] <= ends[piece])
    at = (~is_visual).cumsum(0)[is_visual]
    return Prompt(ids[~is_visual], at, owner[~is_visual], joins[~is_visual])
