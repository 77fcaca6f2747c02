# SPDX-License-Identifier: Apache-2.0
"""The ledger of a request is filled here and nowhere else: a method for each step, in the order in which they run."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy

import torch
from torch import Tensor

from vidcomp.core.ledger import Segmentation, SpanRecord, StageLedger, StageRecord, Unit
from vidcomp.core.tokens import Span
from vidcomp.engine.decoder import CompressedCache
from vidcomp.engine.generate import Generation, Prefill
from vidcomp.errors import NotApplied
from vidcomp.families import Layout
from vidcomp.spans import FramePlan, Segments
from vidcomp.video import Frames

__all__ = ["Recorder", "check_prepared"]


class Recorder:
    """Fills the ledger of one request.

    A step that takes time runs in ``with recorder.timed():``, and its method is called behind the block.

    Attributes:
        ledger: what is known so far.
    """

    def __init__(
        self, earlier: StageLedger | None = None, *, reused: bool = False, device: torch.device | None = None
    ) -> None:
        """Begin a ledger, or go on from an earlier one, which stays as it is.

        Args:
            earlier: holds the steps so far.
            reused: mark them as run, and paid for, by an earlier question.
            device: waited for before the clock is read, where it works on its own.
        """
        self.ledger = deepcopy(earlier) if earlier is not None else StageLedger()
        for stage in self.ledger.stages:
            stage.reused |= reused
        self._device, self._seconds = device, 0.0

    @contextmanager
    def timed(self, *, settle: bool = True) -> Iterator[None]:
        """Time a step; without ``settle`` only as far as the host sees it."""
        start = time.perf_counter()
        yield
        if settle and self._device is not None and self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self._seconds = time.perf_counter() - start

    def read(self, frames: Frames) -> None:
        """Frames of the file, and those that were sampled."""
        self._add("read", "frames", frames.info.frames_total, len(frames.times), self._seconds)

    def segmented(self, layout: Layout, encode: Tensor) -> None:
        """Sampled frames, and those in the slices ``encode`` [E], which no earlier one shows already."""
        self._add("segment", "frames", layout.frames, layout.frames_of(encode), self._seconds)

    def encoded(
        self, layout: Layout, entered: Tensor, plan: FramePlan, tower_rows: Sequence[int], while_reading: float
    ) -> None:
        """Tokens of all slices, and those of the slices behind the tower.

        Args:
            layout: of the whole clip.
            entered: [E] int64, slices that entered the tower.
            plan: the slices that left it, fewer where frames merged inside.
            tower_rows: rows that each of its layers read, where rows were merged or shared there.
            while_reading: seconds that the tower worked while frames were still being read.
        """
        ledger = self.ledger
        ledger.frame_times, ledger.frames_encoded = list(layout.frame_times), layout.frames_of(entered)
        ledger.tower_rows = list(tower_rows)
        ledger.tokens.uncompressed = layout.slices * layout.tokens
        left = len(plan.encode) * layout.tokens
        self._add("encode", "tokens", ledger.tokens.uncompressed, left, self._seconds + while_reading)
        if while_reading:
            next(stage for stage in ledger.stages if stage.name == "read").seconds -= while_reading

    def given(self, layout: Layout, separators: int) -> None:
        """Tokens of a video that a stock model encoded by itself."""
        self.ledger.frames_encoded = layout.frames
        self.ledger.tokens.uncompressed, self.ledger.tokens.separators = layout.slices * layout.tokens, separators

    def compressed(self, total: int, kept: int, keep: float, notes: Iterable[str]) -> None:
        """Tokens behind the tower, those that the method left, and the share that was asked for."""
        self._add("compress", "tokens", total, kept, self._seconds)
        self.ledger.keep_requested, self.ledger.tokens.kept = keep, kept
        self.ledger.notes += notes

    def spans(
        self, layout: Layout, spans: Sequence[Span], anchors: Tensor, segments: Segments | None, own: bool
    ) -> None:
        """A line per span: its frames and seconds, and its tokens before and after; and who found them.

        Args:
            layout: of the whole clip.
            spans: in slices, both ends included.
            anchors: [M] int64, flat index t * N + n of each survivor.
            segments: what a segmenter found, None where none looked.
            own: whether the method worked in spans.
        """
        if segments is None:
            self.ledger.segmentation = Segmentation("tower" if own else None)
        else:
            alike = tuple(segments.similarity.tolist())
            self.ledger.segmentation = Segmentation(segments.segmenter, segments.rule, segments.limit, alike)
        times, tokens = layout.frame_times, layout.tokens
        kept = torch.bincount(anchors // tokens, minlength=layout.slices).tolist()
        for span in spans:
            first, last = layout.members(span.start)[0], layout.members(span.end)[1]
            left = sum(kept[span.start : span.end + 1])
            self.ledger.spans.append(
                SpanRecord(first, last, times[first], times[last], len(span) * tokens, left, span.static)
            )

    def video_read(self, cache: CompressedCache, tokens: int) -> None:
        """Record how the language model read the video alone, for this question and later ones."""
        measured = cache.measured
        self.ledger.video_rows, self.ledger.video_updated = map(_by_layer, (measured.entered, measured.updated))
        self._add("prefill video", "tokens", tokens, tokens, self._seconds)

    def answered(self, generation: Generation, prefill: Prefill, asked_at: float) -> None:
        """Record what the language model read and wrote; ``asked_at`` is when it was called (``time.perf_counter``)."""
        ledger, counts, measured = self.ledger, self.ledger.tokens, prefill.cache.measured
        counts.separators, counts.text, counts.cached = prefill.separators, prefill.text, prefill.cached
        counts.markers, counts.markers_dropped = prefill.markers, prefill.dropped
        first = generation.first_token_at - asked_at
        ledger.time_to_first_token = ledger.seconds + first
        entered = int(prefill.is_token[measured.survivors[0][0].cpu()].sum())
        self._add("prefill", "tokens", entered, entered, first - sum(measured.seconds.values()))
        self._inside(prefill.cache, prefill.is_token)
        if measured.reads:  # decode steps that read part of the visual keys: the mean over the steps
            held, read = (round(sum(numbers) / len(measured.reads)) for numbers in zip(*measured.reads, strict=True))
            self._add(f"reads from layer {prefill.cache.plan.read_layer}", "tokens", held, read)
        ledger.new_tokens = generation.new_tokens
        ledger.notes += [generation.note] if generation.note else []
        self._add("generate", "tokens", 0, generation.new_tokens, generation.done_at - generation.first_token_at)

    def prompt_read(self, cache: CompressedCache, is_token: Tensor) -> None:
        """Record what a stock model read of a prompt: visual tokens are marked in ``is_token`` [S], on the CPU."""
        self._inside(cache, is_token)
        counts = self.ledger.tokens
        counts.text = counts.sequence - counts.kept - counts.separators

    def note(self, *lines: str) -> None:
        """Lines about what the caller would not expect."""
        self.ledger.notes += lines

    def _inside(self, cache: CompressedCache, is_token: Tensor) -> None:
        """Rows of each decoder layer, and visual tokens after each reduction."""
        ledger, counts, measured = self.ledger, self.ledger.tokens, cache.measured
        visual = {layer: int(is_token[rows[0].cpu()].sum()) for layer, rows in measured.survivors.items()}
        counts.kept = counts.after_llm_layer = visual.pop(0)
        counts.sequence = counts.cached + measured.entered[0]
        ledger.layer_rows, ledger.layer_updated, ledger.layer_cached = map(
            _by_layer, (measured.entered, measured.updated, measured.cached)
        )
        for layer, left in sorted(visual.items()):
            self._add(f"llm layer {layer}", "tokens", counts.after_llm_layer, left, measured.seconds[layer])
            counts.after_llm_layer, counts.layer = left, layer
        if frozen := sorted(layer for layer in cache.plan.frozen if layer in measured.reached):
            name = f"frozen in layers {','.join(map(str, frozen))}"
            self._add(name, "tokens", counts.after_llm_layer, counts.after_llm_layer)

    def _add(self, name: str, unit: Unit, into: int, out: int, seconds: float = 0.0) -> None:
        self.ledger.stages.append(StageRecord(name, unit, into, out, seconds))


def _by_layer(rows: dict[int, int]) -> list[int]:
    return [rows[layer] for layer in sorted(rows)]


def check_prepared(tokens: int, prefill: Prefill) -> None:
    """Make sure that what is about to be read is what was prepared; what the forward pass does of it is checked there.

    Args:
        tokens: how many visual tokens were prepared.
        prefill: holds the cache with its plan.

    Raises:
        NotApplied: another number of tokens would enter the model.
    """
    planned = int(prefill.is_token[prefill.cache.plan.visual].sum())
    if planned != tokens:
        raise NotApplied(
            f"{tokens} tokens were prepared, {planned} would enter the model",
            why="the prefill does not hold the compressed sequence",
        )
