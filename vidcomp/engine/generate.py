# SPDX-License-Identifier: Apache-2.0
"""Prefill and decoding through the stock ``generate``, with streaming and a clock on the first token."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList, TextStreamer

from vidcomp.config import GenerateConfig
from vidcomp.core.endings import Finish, ending_note, finish_of, repeated_block
from vidcomp.core.library import CACHE
from vidcomp.engine.decoder import CompressedCache, check_forward
from vidcomp.engine.finite import not_finite
from vidcomp.errors import OutOfMemory
from vidcomp.families import Family

__all__ = [
    "Checked",
    "Generation",
    "Prefill",
    "Watch",
    "draws",
    "ended",
    "generate",
    "memory_errors",
    "run_stock",
    "seeded",
    "stream_text",
]

_PATIENCE = 5.0  # seconds that a closed stream waits for its thread


@dataclass(frozen=True)
class Generation:
    """An answer as it came out of the model; times are readings of ``time.perf_counter``.

    ``finish`` says how it ended (:func:`~vidcomp.core.endings.finish_of`), ``note`` says so in a line where it was cut.

    Attributes:
        text: the answer.
        new_tokens: number of tokens written, the end token included.
        first_token_at, done_at: readings of ``time.perf_counter``.
        finish: how it ended (:func:`~vidcomp.core.endings.finish_of`).
        note: a line that says so, where it was cut.
    """

    text: str
    new_tokens: int
    first_token_at: float
    done_at: float
    finish: Finish = "stop"
    note: str | None = None


@dataclass(frozen=True)
class Prefill:
    """Input of the language model before the first token.

    Attributes:
        rows: [S, D] input embeddings, visual tokens in place.
        ids: [S] int64, their token ids; a visual row has the id of the placeholder.
        positions: [1, S] position ids, [R, 1, S] for models with R rotary axes.
        cache: holding the plan, and nothing else but the cached rows.
        is_token: [S] bool on the CPU, the visual tokens; separators are not among them.
        separators: how many rows are separators.
        text: how many rows are prompt, markers of slices not counted.
        markers: how many rows are markers of slices, such as frame numbers and times.
        dropped: marker rows that left with slices that lost all their tokens.
        cached: how many of the rows, from the first on, the cache holds already.
        survivor: [M] int64 on the CPU, which survivor each visual token row is.
    """

    rows: Tensor
    ids: Tensor
    positions: Tensor
    cache: CompressedCache
    is_token: Tensor
    separators: int
    text: int
    markers: int = 0
    dropped: int = 0
    cached: int = 0
    survivor: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))


def generate(
    family: Family,
    prefill: Prefill,
    config: GenerateConfig,
    on_text: Callable[[str], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> Generation:
    """Answer from prepared input rows.

    Everything that the checkpoint's generation defaults ask for and the caller does not override is in force. The
    library's repetition rules look at token ids, so the ids of the prompt travel beside its embeddings.

    Args:
        family: the loaded model.
        prefill: rows, ids, positions and plan.
        config: length, sampling and seed.
        on_text: called with each piece of text.
        stop: asked after every token; True ends the answer there.

    Raises:
        OutOfMemory: the device's memory did not suffice. ModelError: logits are not finite.
        NotApplied: the forward pass did not do what was asked; no text has been handed on then.
    """
    rows, watch, checked = prefill.rows, Watch(stop), Checked(prefill.cache)
    streamer = _Pieces(family.tokenizer, on_text, checked) if on_text else None
    inputs = {} if prefill.cached else {"inputs_embeds": rows[None].to(family.model.dtype)}  # new rows are text
    ids = run_stock(
        family, config, checked, watch, streamer, input_ids=prefill.ids[None].to(rows.device),
        position_ids=prefill.positions, attention_mask=torch.ones(1, len(rows), dtype=torch.long, device=rows.device),
        **inputs,
    )  # fmt: skip
    watch.check(family.model.dtype)
    return ended(family, config, ids[0, len(prefill.ids) :].tolist(), watch, time.perf_counter())


def run_stock(
    family: Family, config: GenerateConfig, checked: Checked, watch: Watch, streamer: Any = None, **inputs: Tensor
) -> Tensor:
    """Ids [B, S + new] of the stock ``generate``, on the cache that is checked."""
    batch, length = inputs["input_ids"].shape
    with (
        memory_errors(f"{family.device} for {batch * length} rows"),
        seeded(config.seed) if draws(family, config) else nullcontext(),
    ):
        ids: Tensor = family.model.generate(
            **inputs,
            max_new_tokens=config.max_new_tokens,
            logits_processor=LogitsProcessorList([checked, watch.logits]),
            stopping_criteria=StoppingCriteriaList([watch]),
            streamer=streamer,
            **{CACHE: checked.cache},
            **_sampling(config, family.model.generation_config),
            **_end_tokens(family),
        )
    return ids


def draws(family: Family, config: GenerateConfig) -> bool:
    """True if tokens are drawn, not the likeliest ones taken."""
    known = family.model.generation_config
    return bool(_sampling(config, known).get("do_sample", known.do_sample))


def ended(
    family: Family, config: GenerateConfig, new: list[int], watch: Watch, done_at: float | None = None
) -> Generation:
    """The answer of one sequence from its new tokens; what follows its first end token is padding.

    Without ``done_at`` it was done when its last token existed, though others were still being written.
    """
    ends = _ends(family)
    new = new[: next((place + 1 for place, token in enumerate(new) if token in ends), len(new))]
    done_at = watch.times[len(new) - 1] if done_at is None else done_at
    text = family.tokenizer.decode(new, skip_special_tokens=True).strip()
    finish = finish_of(new, ends, config.max_new_tokens, watch.stopped)
    note = ending_note(finish, config.max_new_tokens, repeated_block(new) if finish == "loop" else 0)
    return Generation(text, len(new), watch.times[0] if watch.times else done_at, done_at, finish, note)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's global generators, which the stock sampler draws from, and put them back afterwards."""
    host = torch.get_rng_state()
    cards = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    apple = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
    try:
        torch.manual_seed(seed)
        yield
    finally:
        torch.set_rng_state(host)
        torch.cuda.set_rng_state_all(cards)
        if apple is not None:
            torch.mps.set_rng_state(apple)


@contextmanager
def memory_errors(what: str) -> Iterator[None]:
    """Turn a failed allocation, of a GPU or of the CPU, into OutOfMemory; ``what`` says where and for what."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        known = isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)
        if not known:
            raise
        raise OutOfMemory(
            f"not enough memory on {what}",
            why=str(error).splitlines()[0] if str(error) else "the allocation failed",
            hint="fewer --frames, a smaller --keep, or --device cpu",
        ) from error


def stream_text(run: Callable[[Callable[[str], None], Callable[[], bool]], Any]) -> Iterator[str]:
    """Turn a function that calls back with pieces of text into a generator; its exceptions surface here.

    ``run`` gets the callback, and a question that it asks after every token: whether to stop. The answer is yes as soon
    as nobody reads the generator any more.
    """
    pieces: queue.SimpleQueue[str | BaseException | None] = queue.SimpleQueue()
    abandoned = threading.Event()

    def work() -> None:
        try:
            run(pieces.put, abandoned.is_set)
            pieces.put(None)
        except BaseException as error:  # carried to the caller's thread
            pieces.put(error)

    worker = threading.Thread(target=work, name="vidcomp-stream", daemon=True)
    worker.start()
    try:
        while (piece := pieces.get()) is not None:
            if isinstance(piece, BaseException):
                raise piece
            yield piece
    finally:
        abandoned.set()
        worker.join(_PATIENCE)  # one token long; an abandoned encode is not waited for


class _FiniteLogits(LogitsProcessor):
    """Notes sequences whose logits no token can be chosen from. The host waits for that only in :meth:`broken`.

    Such logits are replaced by zeros, because drawing from them ends in an error of the library, on a GPU in one that
    takes the process along.
    """

    def __init__(self) -> None:
        self.bad: Tensor | None = None  # [B] bool

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """[B, V] scores as they are, or zeros."""
        largest = scores.amax(dim=-1, keepdim=True)  # NaN where there is one; minus infinity when nothing is allowed
        broken = ~torch.isfinite(largest)
        self.bad = broken[:, 0] if self.bad is None else self.bad | broken[:, 0]
        return scores.masked_fill(broken, 0.0)

    def broken(self) -> list[bool]:
        """Of each sequence, whether its logits so far were not finite."""
        return [] if self.bad is None else [bool(bad) for bad in self.bad.tolist()]


class Watch(StoppingCriteria):
    """Notes when tokens exist; stops on request, and sequences whose first token was chosen from nothing.

    Attributes:
        times: readings of ``time.perf_counter``, one per new token.
        stopped: whether a stop was requested.
        logits: whether they are finite.
    """

    def __init__(self, stop: Callable[[], bool] | None = None) -> None:
        self.stop, self.stopped, self.logits = stop, False, _FiniteLogits()
        self.times: list[float] = []
        self._broken: list[bool] = []

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        if not self.times:
            self._broken = self.logits.broken()  # waits for the device
        self.times.append(time.perf_counter())
        self.stopped = self.stop is not None and self.stop()
        if self.stopped or not any(self._broken):
            return torch.full((input_ids.shape[0],), self.stopped, device=input_ids.device)
        return torch.tensor(self._broken, device=input_ids.device)

    def check(self, dtype: torch.dtype, number: int = 0) -> None:
        """Raise ModelError when the logits of a sequence were not finite."""
        broken = self.logits.broken()
        if broken and broken[number]:
            raise not_finite("the logits of the language model", dtype)


class Checked(LogitsProcessor):
    """Stands between every forward pass and the token that is chosen from it; changes nothing."""

    def __init__(self, cache: CompressedCache) -> None:
        self.cache, self.forwards = cache, 0

    def __call__(self, input_ids: Tensor, scores: Any) -> Any:
        self.forwards += 1
        check_forward(self.cache, self.forwards)
        return scores

    @property
    def settled(self) -> bool:
        """True if nothing can turn the answer into an error any more: what reads part of the keys starts later."""
        return self.forwards > (self.cache.plan.read_layer is not None)


class _Pieces(TextStreamer):
    """Hands finished words on, the first ones when the forward pass has proven to be what was asked for."""

    def __init__(self, tokenizer: Any, on_text: Callable[[str], None], checked: Checked) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.on_text, self.checked = on_text, checked
        self.held = ""

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        self.held += text
        if self.held and (stream_end or self.checked.settled):
            self.on_text(self.held)
            self.held = ""


def _sampling(config: GenerateConfig, known: Any) -> dict[str, Any]:
    """Choices of the caller about sampling; what is left out is the checkpoint's own default, in ``known``."""
    if config.temperature == 0:
        return {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    if config.temperature is None and config.top_p is None:
        return {}
    chosen = {"do_sample": True, "top_k": known.top_k or 0}  # the library would cut at 50 where a checkpoint is silent
    if config.temperature is not None:
        chosen["temperature"] = config.temperature
    if config.top_p is not None:
        chosen["top_p"] = config.top_p
    return chosen


def _ends(family: Family) -> list[int]:
    """Ids that end an answer."""
    known = family.model.generation_config.eos_token_id
    ends = known if known is not None else family.tokenizer.eos_token_id
    return ends if isinstance(ends, list) else [] if ends is None else [ends]


def _end_tokens(family: Family) -> dict[str, Any]:
    """A pad id, which several checkpoints leave out, so that the library need not guess and warn."""
    pad, ends = family.model.generation_config.pad_token_id, _ends(family)
    return {"eos_token_id": ends or None, "pad_token_id": pad if pad is not None or not ends else ends[0]}
