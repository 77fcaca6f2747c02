# SPDX-License-Identifier: Apache-2.0
"""Questions that are answered by yes or no: how probable the model finds a yes, read off the logits of one token."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vidcomp.core.library import CACHE
from vidcomp.engine.decoder import check_forward
from vidcomp.engine.finite import not_finite
from vidcomp.engine.generate import Generation, Prefill, memory_errors
from vidcomp.engine.record import Recorder, check_prepared
from vidcomp.engine.run import VideoLM
from vidcomp.engine.together import Request
from vidcomp.errors import ModelError
from vidcomp.families import Family
from vidcomp.hub import EMBEDDED
from vidcomp.result import Answer
from vidcomp.video.given import VideoInput

__all__ = ["Verdict", "judged", "spellings"]

_ASK = "Answer yes or no."


@dataclass(frozen=True)
class Verdict:
    """The probability of a yes.

    Attributes:
        answer: ``yes`` or ``no``, with frames and ledger.
        probability: of a yes, where yes and no are all that may come.
        share: of all tokens that might come, the probability of those that begin a yes or a no: near 0 the model
            takes the question for another kind.
    """

    answer: Answer
    probability: float
    share: float


def judged(lm: VideoLM, video: VideoInput, question: str) -> Verdict:
    """Ask a question that is answered by yes or no; one pass of the language model, no token is drawn.

    Args:
        lm: the loaded model, whose settings hold.
        video: as in :meth:`VideoLM.ask`.
        question: plain text. The embedded model has learnt to answer so; others are told to.

    Raises:
        ModelError: the tokenizer does not tell a yes from a no. Otherwise as :meth:`VideoLM.ask`.
    """
    family = lm.family
    words = spellings(family)
    text = question if family.checkpoint.name in EMBEDDED else f"{question.rstrip()} {_ASK}"
    ready = lm.compress(video, question=text)
    prefill, recorder = lm.prepare(ready, text), Recorder(ready.ledger)
    check_prepared(len(ready.tokens), prefill)
    asked_at = time.perf_counter()
    shares = next_token(family, prefill)
    yes, no = (float(shares[ids].sum()) for ids in words)
    done_at = time.perf_counter()
    probability = yes / (yes + no) if yes + no > 0 else 0.5
    said = Generation("yes" if probability > 0.5 else "no", 1, done_at, done_at)
    request = Request(question, ready, prefill, ready.config.generate, recorder, family.checkpoint.name)
    return Verdict(request.answer(said, asked_at), probability, yes + no)


def spellings(family: Family) -> tuple[list[int], list[int]]:
    """Ids of all tokens that are a yes, and of those that are a no; their first tokens where none is one token.

    Raises:
        ModelError: both begin with the same token.
    """
    found = []
    for word in ("yes", "no"):
        forms = [lead + form for lead in ("", " ") for form in (word, word.capitalize(), word.upper())]
        tokens = [family.spelling.ids(form) for form in forms]
        single = {ids[0] for ids in tokens if len(ids) == 1}
        found.append(single or {ids[0] for ids in tokens if ids})
    yes, no = found[0] - found[1], found[1] - found[0]  # an unknown letter has the id of every other one
    if not yes or not no:
        raise ModelError(f"the tokenizer of {family.checkpoint.name} does not tell a yes from a no",
                         why="both begin with the same token", hint="vidcomp caption --every")  # fmt: skip
    return sorted(yes), sorted(no)


@torch.no_grad()
def next_token(family: Family, prefill: Prefill) -> Tensor:
    """Probabilities [V] of the token that follows a prompt, float64 on the CPU; no penalty of the library applies."""
    model: Any = family.model
    rows = prefill.rows[None].to(model.dtype)
    with memory_errors(f"{family.device} for {rows.shape[1]} rows"):
        hidden = model.get_decoder()(
            inputs_embeds=rows,
            position_ids=prefill.positions,
            attention_mask=torch.ones(rows.shape[:2], dtype=torch.long, device=rows.device),
            use_cache=True,
            **{CACHE: prefill.cache},
        ).last_hidden_state[:, -1:]
        logits: Tensor = model.get_output_embeddings()(hidden)[0, -1].double().cpu()
    check_forward(prefill.cache, 1)
    if not torch.isfinite(logits.max()):
        raise not_finite("the logits of the language model", model.dtype)
    return logits.softmax(0)
