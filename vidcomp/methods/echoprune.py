# SPDX-License-Identifier: Apache-2.0
"""EchoPrune: tokens that match the question and that the frame before does not hold already.

Needs: query.

In plain words, with all tokens and the question's embeddings scaled to length one:
1. Relevance: the largest cosine with a token of the question.
2. Correspondence: the cosine with the token at the same place of the frame before.
3. Echo: the frame before, averaged by a softmax of its cosines with the token over ``temperature``; the product of the
   token with that average.
4. The first frame keeps budget / T tokens, rounded down, by relevance alone; the other frames share the rest of the
   budget by relevance - correspondence - echo. What is not used there goes to the first frame.
Survivors are unchanged and in raster order.

Our reading: the rules are those of an independent port of the paper, whose full text was not available. At the port's
temperature of 0.5 the average is nearly the plain mean of the frame before; 0.05 makes it a match. There is no limit
per frame: the first frame of a new scene is new everywhere. Cost: N * N * D products per frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vidcomp.core.budget import token_budget
from vidcomp.core.source import Source
from vidcomp.core.tokens import Reduction, TokenView
from vidcomp.methods.base import Method, signal
from vidcomp.methods.blocks.cosine import unit_rows
from vidcomp.methods.blocks.select import keep_marked, top_mask
from vidcomp.methods.blocks.similarity import frame_cosine, products

__all__ = ["Echoprune", "echoes", "relevance"]


@dataclass(frozen=True)
class Echoprune(Method):
    """Exactly the ceiling of ``keep * T * N`` tokens.

    Attributes:
        temperature: of the softmax over the frame before, above 0.
    """

    temperature: float = 0.5

    name: ClassVar[str] = "echoprune"
    summary: ClassVar[str] = "keeps tokens that match the question and that the frame before does not hold"
    source: ClassVar[Source] = Source("EchoPrune", arxiv="2605.10050")
    needs: ClassVar[frozenset[str]] = frozenset({"query"})
    exact: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"temperature must be above 0, got {self.temperature}")

    def __call__(self, view: TokenView, keep: float) -> Reduction:
        """Keep the relevant and new tokens."""
        budget = token_budget(view.total, keep)
        features = view.features.detach()
        frames, tokens = features.shape[:2]
        score = relevance(features, signal(view, "query", self.name))
        step = torch.arange(1, frames, device=features.device)
        score[1:] -= frame_cosine(features, step, step - 1) + echoes(features, self.temperature)
        first = min(tokens, max(1, budget // frames, budget - (frames - 1) * tokens))
        here = top_mask(score[:1], torch.tensor([first], device=score.device))
        rest = top_mask(score[1:].reshape(1, -1), torch.tensor([budget - first], device=score.device))
        return keep_marked(torch.cat([here, rest.view(frames - 1, tokens)]))


def relevance(features: Tensor, query: Tensor) -> Tensor:
    """Largest cosine of each token with one of the question's: [T, N] float32; query [L, D]."""
    asked = unit_rows(query)
    return torch.stack([products(unit_rows(frame), asked).amax(dim=1) for frame in features])


def echoes(features: Tensor, temperature: float) -> Tensor:
    """Product of each token with its echo in the frame before: [T - 1, N] float32."""
    found = [torch.zeros(0, features.shape[1], device=features.device)]
    before = unit_rows(features[0])
    for frame in features[1:]:
        here = unit_rows(frame)
        cosine = products(here, before)
        found.append((cosine * (cosine / temperature).softmax(dim=1)).sum(dim=1)[None])
        before = here
    return torch.cat(found)
