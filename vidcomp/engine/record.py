# SPDX-License-Identifier: Apache-2.0
"""From a finished generation to the ledger: what the forward pass measured, and whether it is what was asked for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vidcomp.core.ledger import SpanRecord, StageLedger, StageRecord
from vidcomp.core.tokens import Span
from vidcomp.engine.decoder import CompressedCache
from vidcomp.engine.generate import Generation, Prefill
from vidcomp.errors import NotApplied
from vidcomp.families import Layout

__all__ = ["check_prepared", "record_generation", "record_prefill", "span_records"]


def record_generation(ledger: StageLedger, generation: Generation, prefill: Prefill, waited: float) -> None:
    """Write down what the forward pass did: rows per layer, visual tokens at the entrance and after each reduction."""
    cache, counts = prefill.cache, ledger.tokens
    counts.separators, counts.text, counts.cached = prefill.separators, prefill.text, prefill.cached
    counts.markers, counts.markers_dropped = prefill.markers, prefill.dropped
    counts.kept = int(prefill.is_token[cache.survivors[0][0].cpu()].sum())
    ledger.time_to_first_token = ledger.seconds + generation.first_token_at - waited
    inside = sum(cache.reduce_seconds.values())
    first = generation.first_token_at - waited - inside
    ledger.stages.append(StageRecord("prefill", "tokens", counts.kept, counts.kept, first))
    record_prefill(ledger, cache, prefill.is_token)
    ledger.new_tokens = generation.new_tokens
    ledger.notes += [generation.note] if generation.note else []
    _record_reads(ledger, prefill)
    written = generation.done_at - generation.first_token_at
    ledger.stages.append(StageRecord("generate", "tokens", 0, generation.new_tokens, written))


def record_prefill(ledger: StageLedger, cache: CompressedCache, is_token: Tensor) -> None:
    """Write down what a prefill did inside the language model: rows per layer, visual tokens after each reduction.

    Args:
        ledger: knows already how many rows were cached.
        cache: the plan after the forward pass.
        is_token: [S] bool on the CPU, the visual tokens among the rows that were planned.
    """
    counts = ledger.tokens
    visual = {layer: int(is_token[rows[0].cpu()].sum()) for layer, rows in cache.survivors.items()}
    counts.kept = counts.after_llm_layer = visual.pop(0)
    counts.sequence = counts.cached + cache.prefill_rows[0]
    ledger.layer_rows, ledger.layer_updated, ledger.layer_cached = (
        [rows[layer] for layer in sorted(rows)] for rows in (cache.prefill_rows, cache.updated_rows, cache.cached_rows)
    )
    for layer, left in sorted(visual.items()):
        seconds = cache.reduce_seconds[layer]
        ledger.stages.append(StageRecord(f"llm layer {layer}", "tokens", counts.after_llm_layer, left, seconds))
        counts.after_llm_layer, counts.layer = left, layer
    if frozen := sorted(layer for layer in cache.frozen if layer in cache.reached):
        name = f"frozen in layers {','.join(map(str, frozen))}"
        ledger.stages.append(StageRecord(name, "tokens", counts.after_llm_layer, counts.after_llm_layer))


def _record_reads(ledger: StageLedger, prefill: Prefill) -> None:
    """One line for decode steps that read part of the visual keys: the mean over the steps."""
    reads = prefill.cache.reads
    if reads:
        held, read = (round(sum(numbers) / len(reads)) for numbers in zip(*reads, strict=True))
        ledger.stages.append(StageRecord(f"reads from layer {prefill.cache.read_layer}", "tokens", held, read))


def span_records(layout: Layout, spans: Sequence[Span], anchors: Tensor) -> list[SpanRecord]:
    """One line per span: its frames and seconds, and its tokens before and after.

    Args:
        layout: of the whole clip.
        spans: in slices, both ends included.
        anchors: [M] int64, flat index t * N + n of each survivor.
    """
    times, tokens = layout.frame_times, layout.tokens
    kept = torch.bincount(anchors // tokens, minlength=layout.slices).tolist()
    ends = [(layout.members(span.start)[0], layout.members(span.end)[1]) for span in spans]
    return [
        SpanRecord(first, last, times[first], times[last], len(span) * tokens, sum(kept[span.start : span.end + 1]),
                   span.static)
        for span, (first, last) in zip(spans, ends, strict=True)
    ]  # fmt: skip


def check_prepared(tokens: int, prefill: Prefill) -> None:
    """Make sure that what is about to be read is what was prepared; what the forward pass does of it is checked there.

    Args:
        tokens: how many visual tokens were prepared.
        prefill: holds the cache with its plan.

    Raises:
        NotApplied: another number of tokens would enter the model.
    """
    planned = int(prefill.is_token[prefill.cache.visual_rows].sum())
    if planned != tokens:
        raise NotApplied(
            f"{tokens} tokens were prepared, {planned} would enter the model",
            why="the prefill does not hold the compressed sequence",
        )
