# SPDX-License-Identifier: Apache-2.0
"""Several questions in one ``generate``: other videos, lengths and budgets, side by side.

Every video is read, encoded and compressed by itself. Prompts of similar length are then padded on the left and read
together; how masks, reductions and DeepStack levels follow is in :mod:`vidcomp.engine.decoder.joined_cache`. In float32
each answer is that of :meth:`VideoLM.ask`, token for token. What cannot stand beside others is asked alone, and its
ledger says why: see :func:`_why_alone`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from vidcomp.config import GenerateConfig
from vidcomp.engine.decoder.joined_cache import JoinedCache, why_alone
from vidcomp.engine.generate import Checked, Generation, Prefill, Watch, draws, ended, generate, run_stock
from vidcomp.engine.record import Recorder
from vidcomp.engine.videos import CompressedVideo
from vidcomp.errors import OutOfMemory, VidcompError
from vidcomp.families import Family
from vidcomp.methods.base import described
from vidcomp.result import Answer

__all__ = ["Request", "answered_together"]

_AHEAD = 4  # batches that are encoded before the first is answered, so that similar lengths find each other
_KERNELS = ("sdpa", "eager")  # those whose masks are known to hide padding


@dataclass(frozen=True)
class Request:
    """A question about an encoded video, ready for the language model.

    Attributes:
        question: plain text.
        video: the video.
        prefill: what is read.
        config: length, sampling and seed.
        recorder: fills the ledger.
        model: name of the checkpoint.
    """

    question: str
    video: CompressedVideo
    prefill: Prefill
    config: GenerateConfig
    recorder: Recorder
    model: str

    def answer(self, generation: Generation, asked_at: float) -> Answer:
        """Make the answer; ``asked_at`` is when the model was called, by ``time.perf_counter``."""
        video, encoded = self.video, self.video.encoded
        self.recorder.answered(generation, self.prefill, asked_at)
        return Answer(
            text=generation.text, question=self.question, path=encoded.frames.info.path, model=self.model,
            method=video.method, frames=encoded.frames.wait(), spans=video.reduction.spans,
            ledger=self.recorder.ledger, seed=self.config.seed,
            inner=described(video.schedule) if video.schedule else "none",
            encoder=video.config.outer.encoder, finish=generation.finish, settings=self.settings,
        )  # fmt: skip

    @property
    def settings(self) -> dict[str, Any]:
        """All settings by name; a method that was given as an object has its name."""
        return {**self.video.config.flat(), **asdict(self.config), "method": self.video.method}


def answered_together(
    family: Family, prepare: Sequence[Callable[[], Request]], batch_size: int
) -> list[Answer | VidcompError]:
    """Answers in the order given, with an error in the place of what failed.

    Args:
        family: the loaded model.
        prepare: make the requests, one each.
        batch_size: how many are read together at most.
    """
    found: dict[int, Answer | VidcompError] = {}
    for start in range(0, len(prepare), _AHEAD * batch_size):
        requests: dict[int, Request] = {}
        for place, make in enumerate(prepare[start : start + _AHEAD * batch_size], start):
            try:
                requests[place] = make()
            except VidcompError as error:
                found[place] = error
        for places in _groups(family, requests, batch_size):
            found |= zip(places, _answered(family, [requests[place] for place in places]), strict=True)
    return [found[place] for place in range(len(prepare))]


def _groups(family: Family, requests: dict[int, Request], size: int) -> Iterator[list[int]]:
    """Places of requests that are read together: of one schedule and one way to generate, of similar length."""
    alike: dict[object, list[int]] = {}
    for place, request in sorted(requests.items(), key=lambda item: len(item[1].prefill.rows)):
        reason = _why_alone(family, request)
        if reason is not None and size > 1 and len(requests) > 1:
            request.recorder.note(f"answered alone: {reason}")
        key = (repr(request.video.schedule), request.config) if reason is None else place
        alike.setdefault(key, []).append(place)
    for places in alike.values():
        yield from (places[start : start + size] for start in range(0, len(places), size))


def _why_alone(family: Family, request: Request) -> str | None:
    """Why a request cannot stand beside others; None when it can."""
    if draws(family, request.config):
        return "its tokens are drawn, and what is drawn would depend on the others; --temperature 0"
    if family.model.config.get_text_config()._attn_implementation not in _KERNELS:
        return "this attention kernel was not tried on padded prompts; --attn sdpa"
    return why_alone(request.prefill.cache.plan)


def _answered(family: Family, requests: Sequence[Request]) -> list[Answer | VidcompError]:
    """Answers of one group. Where memory does not suffice, its halves are tried one after the other."""
    asked_at = time.perf_counter()
    try:
        generations = _generated(family, [request.prefill for request in requests], requests[0].config)
    except OutOfMemory as error:
        if len(requests) == 1:
            return [error]
        half = len(requests) // 2
        return [*_answered(family, requests[:half]), *_answered(family, requests[half:])]
    except VidcompError as error:
        return [error] * len(requests)
    if len(requests) > 1:
        for request in requests:
            request.recorder.note(
                f"answered beside {len(requests) - 1} others: seconds of prefill and generate are those of all"
            )
    return [_told(*pair, asked_at) for pair in zip(requests, generations, strict=True)]


def _told(request: Request, generation: Generation | VidcompError, asked_at: float) -> Answer | VidcompError:
    """The answer, or what was wrong with this request alone."""
    if isinstance(generation, VidcompError):
        return generation
    try:
        return request.answer(generation, asked_at)
    except VidcompError as error:
        return error


def _generated(
    family: Family, prefills: Sequence[Prefill], config: GenerateConfig
) -> Sequence[Generation | VidcompError]:
    """Answer each prompt; logits that are not finite end that sequence alone."""
    if len(prefills) == 1:
        return [generate(family, prefills[0], config)]
    cache = JoinedCache(family.model.config.get_text_config(), [prefill.cache for prefill in prefills])
    watch = Watch()
    ids = run_stock(family, config, Checked(cache), watch, **_side_by_side(family, prefills, cache.pads))
    found: list[Generation | VidcompError] = []
    for number, new in enumerate(ids[:, cache.width :].tolist()):
        try:
            watch.check(family.model.dtype, number)
            found.append(ended(family, config, new, watch))
        except VidcompError as error:
            found.append(error)
    return found


def _side_by_side(family: Family, prefills: Sequence[Prefill], pads: Sequence[int]) -> dict[str, Tensor]:
    """Inputs of the stock ``generate``, [B, W] each, padded on the left.

    The library's repetition rules look at ids, so each prompt is padded with a token that it holds already.
    """
    device = prefills[0].rows.device
    both = list(zip(prefills, pads, strict=True))
    ids = [pad(prefill.ids, (front, 0), value=int(prefill.ids[0])) for prefill, front in both]
    masks = [pad(torch.ones_like(prefill.ids), (front, 0)) for prefill, front in both]
    rows = [pad(prefill.rows.to(family.model.dtype), (0, 0, front, 0)) for prefill, front in both]
    positions = [pad(prefill.positions[..., 0, :], (front, 0)) for prefill, front in both]  # [W], or [R, W]
    return {
        "input_ids": torch.stack(ids).to(device),
        "attention_mask": torch.stack(masks).to(device),
        "inputs_embeds": torch.stack(rows),
        "position_ids": torch.stack(positions, dim=-2),
    }
