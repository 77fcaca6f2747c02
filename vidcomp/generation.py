"""Prefill and decoding through the stock ``generate``, with streaming and a clock on the first token."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList, TextStreamer

from vidcomp.config import GenerateConfig
from vidcomp.errors import OutOfMemory
from vidcomp.inllm import CompressedCache
from vidcomp.models import Family

__all__ = ["Generation", "Prefill", "generate", "memory_errors", "stream_text"]


@dataclass(frozen=True)
class Generation:
    """An answer as it came out of the model; times are readings of ``time.perf_counter``."""

    text: str
    new_tokens: int
    first_token_at: float
    done_at: float


@dataclass(frozen=True)
class Prefill:
    """What the language model reads before the first token.

    Attributes:
        rows: [S, D] input embeddings, visual tokens in place.
        positions: [1, S] position ids.
        cache: empty, holding the plan.
        separators: how many of the visual rows are separators; they come last.
        text: how many rows are prompt.
    """

    rows: Tensor
    positions: Tensor
    cache: CompressedCache
    separators: int
    text: int


def generate(
    family: Family,
    prefill: Prefill,
    config: GenerateConfig,
    on_text: Callable[[str], None] | None = None,
) -> Generation:
    """Answer from prepared input rows.

    Args:
        family: the loaded model.
        prefill: rows, positions and plan.
        config: length, sampling and seed.
        on_text: called with each piece of text.

    Raises:
        OutOfMemory: the device's memory did not suffice.
    """
    rows = prefill.rows
    clock = _FirstTokenClock()
    streamer = _Pieces(family.tokenizer, on_text) if on_text else None
    torch.manual_seed(config.seed)
    with memory_errors(f"{family.device} for {len(rows)} rows"):
        ids = family.model.generate(
            inputs_embeds=rows[None].to(family.model.dtype),
            position_ids=prefill.positions,
            attention_mask=torch.ones(1, len(rows), dtype=torch.long, device=rows.device),
            past_key_values=prefill.cache,
            max_new_tokens=config.max_new_tokens,
            stopping_criteria=StoppingCriteriaList([clock]),
            streamer=streamer,
            **_sampling(config),
            **_end_tokens(family),
        )
    new = ids[0].tolist()
    text = family.tokenizer.decode(new, skip_special_tokens=True).strip()
    return Generation(text, len(new), clock.first or time.perf_counter(), time.perf_counter())


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


def stream_text(run: Callable[[Callable[[str], None]], Any]) -> Iterator[str]:
    """Turn a function that calls back with pieces of text into a generator; its exceptions surface here."""
    pieces: queue.SimpleQueue[str | BaseException | None] = queue.SimpleQueue()

    def work() -> None:
        try:
            run(pieces.put)
            pieces.put(None)
        except BaseException as error:  # carried to the caller's thread
            pieces.put(error)

    threading.Thread(target=work, name="vidcomp-stream", daemon=True).start()
    while (piece := pieces.get()) is not None:
        if isinstance(piece, BaseException):
            raise piece
        yield piece


class _FirstTokenClock(StoppingCriteria):
    """Never stops; notes when the first token exists."""

    def __init__(self) -> None:
        self.first: float | None = None

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        if self.first is None:
            input_ids[0, -1].item()  # wait for the device
            self.first = time.perf_counter()
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)


class _Pieces(TextStreamer):
    """Hands finished words on."""

    def __init__(self, tokenizer: Any, on_text: Callable[[str], None]) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.on_text = on_text

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        if text:
            self.on_text(text)


def _sampling(config: GenerateConfig) -> dict[str, Any]:
    if config.temperature == 0:
        return {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    return {"do_sample": True, "temperature": config.temperature, "top_p": config.top_p, "top_k": 0}


def _end_tokens(family: Family) -> dict[str, Any]:
    """A pad id, which several checkpoints leave out, so that the library need not guess and warn."""
    known = family.model.generation_config
    ends = known.eos_token_id if known.eos_token_id is not None else family.tokenizer.eos_token_id
    first = ends[0] if isinstance(ends, list) else ends
    return {"eos_token_id": ends, "pad_token_id": known.pad_token_id if known.pad_token_id is not None else first}
