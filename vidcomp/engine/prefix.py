# SPDX-License-Identifier: Apache-2.0
"""Many questions about one encoded video: the language model reads it once, every question goes on from there."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from vidcomp.core.library import CACHE
from vidcomp.engine.decoder import PrefixCache
from vidcomp.engine.generate import Prefill, memory_errors
from vidcomp.engine.record import Recorder
from vidcomp.families import Family

__all__ = ["SharedPrefix"]


@dataclass
class SharedPrefix:
    """State of the language model for a video between questions: filled by the first, forked by every one.

    Threads may ask at once; each question works on a fork of its own.

    Attributes:
        asked: a question has been asked; later ones find reading and encoding paid for.
    """

    asked: bool = False
    _cache: PrefixCache | None = None
    _ids: Tensor | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def next_question(self) -> bool:
        """Begin another question; whether earlier ones have paid for reading and encoding."""
        with self._lock:
            again, self.asked = self.asked, True
        return again

    def continued(self, family: Family, prefill: Prefill, recorder: Recorder) -> Prefill:
        """The same request as a continuation: everything up to the last visual row comes from the shared cache.

        Args:
            family: the loaded model.
            prefill: the whole request, as one question alone would read it.
            recorder: notes that the video had to be read.

        A schedule that renumbers positions cannot go on from keys that have theirs already: its request stays whole.
        """
        plan = prefill.cache.plan
        if not plan.forks:
            return prefill
        length = int(plan.visual[-1]) + 1
        with self._lock:
            if self._cache is None or self._ids is None or not torch.equal(self._ids, prefill.ids[:length]):
                self._cache = self._read(family, prefill, length, recorder)
                self._ids = prefill.ids[:length]
            return replace(prefill, cache=self._cache.fork(prefill.cache.balance), cached=length)

    @torch.no_grad()
    def _read(self, family: Family, prefill: Prefill, length: int, recorder: Recorder) -> PrefixCache:
        cache = PrefixCache(family.model.config.get_text_config(), prefill.cache.plan, length)
        rows = prefill.rows[None, :length].to(family.model.dtype)
        with recorder.timed(settle=False), memory_errors(f"{family.device} for {length} rows"):
            family.model.get_decoder()(
                inputs_embeds=rows,
                position_ids=prefill.positions[..., :length],
                attention_mask=torch.ones(rows.shape[:2], dtype=torch.long, device=rows.device),
                use_cache=True,
                **{CACHE: cache},
            )
        recorder.video_read(cache, int(prefill.is_token.sum()))
        return cache
