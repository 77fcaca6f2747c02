# SPDX-License-Identifier: Apache-2.0
"""VideoLM: the stages in order. Frames in, answer out; the ledger fills as data passes."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from vidcomp.config import RunConfig
from vidcomp.core.arguments import check_calls, check_history, check_names, check_question, checked, expect
from vidcomp.engine.decoder import Attachment, AttentionBalance
from vidcomp.engine.generate import Prefill, generate, memory_errors, stream_text
from vidcomp.engine.inner import (
    chosen_merger,
    chosen_reuse,
    chosen_schedule,
    encoded_with,
    shared_rows,
    visual_facts,
)
from vidcomp.engine.looks import Looks, check_segmenter, spans_unread, with_own_rows
from vidcomp.engine.outer import ADDED, completed, compressed, reads_question, signals_to_collect, spans_of, view_of
from vidcomp.engine.positions import PositionPolicy, position_policy
from vidcomp.engine.prefill import assembled, check_prompt
from vidcomp.engine.record import Recorder, check_prepared
from vidcomp.engine.settings import configured
from vidcomp.engine.streaming import EagerEncoder
from vidcomp.engine.together import Request, answered_together
from vidcomp.engine.videos import CompressedVideo, EncodedVideo
from vidcomp.errors import UsageError, VidcompError
from vidcomp.families import Family, load_family
from vidcomp.families.base import Turn
from vidcomp.methods import Method
from vidcomp.methods.base import described, for_family
from vidcomp.result import Answer
from vidcomp.spans import every_frame
from vidcomp.tower.host import TowerMerger
from vidcomp.video.given import StrPath, VideoInput, read_video
from vidcomp.video.options import sampling_of
from vidcomp.video.process.client import start_worker

__all__ = ["VideoLM", "load", "load_config"]

_log = logging.getLogger(__name__)


class VideoLM:
    """A loaded video-LLM that reads videos through the compressor.

    Use :func:`load` to make one. ``close`` (or a ``with`` block) takes the hooks off the model.
    """

    def __init__(self, family: Family, config: RunConfig) -> None:
        expect("family", family, isinstance(family, Family), "a loaded Family", hint="vidcomp.load(...)")
        expect("config", config, isinstance(config, RunConfig), "a RunConfig")
        self.family, self.config, self.closed = family, config, False
        self._attachment = Attachment(family.model)
        self._looks = Looks(family, config.model)

    def close(self) -> None:
        """Take the hooks off the model; it answers bit-identically to before."""
        self.closed = True
        self._attachment.remove()

    def __enter__(self) -> VideoLM:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # -- what people call

    @checked
    def ask(
        self,
        video: VideoInput | EncodedVideo | CompressedVideo,
        question: str,
        *,
        method: str | Method | None = None,
        on_text: Callable[[str], None] | None = None,
        stop: Callable[[], bool] | None = None,
        balance: AttentionBalance | None = None,
        history: Sequence[Turn] = (),
        trace: Callable[[CompressedVideo, Prefill], None] | None = None,
        **settings: Any,
    ) -> Answer:
        """Answer a question about a video.

        Args:
            video: a file, its bytes, an open file or frames (:class:`~vidcomp.FrameSequence`), or what :meth:`compress`
                returned; what :meth:`encode` returned is compressed anew.
            question: plain text.
            method: a name with parameters (``"holitom:tau=0.8"``) or a method object; the configured one when None.
            on_text: called with each piece of the answer as it is written.
            stop: asked after every token; True ends the answer there.
            balance: collects what the answer looks at, layer by layer; costs one row of attention per layer and token.
            history: turns of the conversation before this question, (question, answer) each.
            trace: called with what was read, once the answer is written (:func:`vidcomp.engine.trace.traced`).
            settings: any field of :class:`~vidcomp.config.RunConfig`'s stages, such as ``keep=0.1, frames=16, seed=1``.

        Raises:
            InputError: the file cannot be read. UsageError: a setting is wrong, or this VideoLM was closed.
            NotApplied: a reduction did not happen; no text has been handed on then.
        """
        check_question(question)
        check_history(history)
        check_calls(on_text=on_text, stop=stop, trace=trace)
        expect("balance", balance, balance is None or isinstance(balance, AttentionBalance), "an AttentionBalance")
        request = self._request(video, question, method, settings, balance, history)
        if request.video is video:  # it may be asked again: what comes before the question is read once
            prefill = request.video.prefix.continued(self.family, request.prefill, request.recorder)
            request = replace(request, prefill=prefill)
        check_prepared(len(request.video.tokens), request.prefill)
        asked_at = time.perf_counter()
        answer = request.answer(generate(self.family, request.prefill, request.config, on_text, stop), asked_at)
        if trace is not None:
            trace(request.video, request.prefill)
        return answer

    @checked
    def ask_many(
        self,
        items: Sequence[tuple[VideoInput | EncodedVideo | CompressedVideo, str]],
        *,
        batch_size: int = 8,
        method: str | Method | None = None,
        **settings: Any,
    ) -> list[Answer | VidcompError]:
        """Answer questions about several videos, several of them in one pass of the language model.

        In float32 each answer is that of :meth:`ask` about the video itself, token for token. Drawn tokens,
        ``positions="ppe"`` and schedules that renumber, freeze rows or read part of the keys are asked one by one.

        Args:
            items: videos as in :meth:`ask`, with a question each.
            batch_size: how many are read together at most; prompts of similar length are.
            method, settings: as in :meth:`ask`, for all of them.

        Returns:
            In the order given an answer, or in its place the error that :meth:`ask` would have raised: one bad file
            does not end the others.

        Raises:
            UsageError: a setting is wrong, or this VideoLM was closed. ModelError: the settings do not fit the model.
        """
        pairs = isinstance(items, Sequence) and all(isinstance(item, tuple) and len(item) == 2 for item in items)
        expect("items", items, pairs, "a list of (video, question)")
        expect("batch_size", batch_size, batch_size >= 1, "at least 1")
        self._check(None)
        self._chosen(*configured(self.config, method, settings), frozenset())

        def prepared(video: Any, question: str) -> Request:
            check_question(question)
            request = self._request(video, question, method, dict(settings))
            check_prepared(len(request.video.tokens), request.prefill)
            return request

        return answered_together(self.family, [partial(prepared, *item) for item in items], batch_size)

    @checked
    def stream(
        self, video: VideoInput | EncodedVideo | CompressedVideo, question: str, **settings: Any
    ) -> Iterator[str]:
        """Like :meth:`ask`, yielding the answer in pieces as it is written."""
        check_question(question)
        return stream_text(lambda on_text, stop: self.ask(video, question, on_text=on_text, stop=stop, **settings))

    def check(self, question: str) -> None:
        """Raise what these settings and this model would raise for any video, before one is read.

        Raises:
            UsageError, ModelError: as :meth:`ask`.
        """
        check_question(question)
        self._chosen(*configured(self.config, None, {}), frozenset())
        self._looks.check(self.config)
        check_prompt(self.family, question)

    @checked
    def encode(
        self,
        video: VideoInput,
        *,
        method: str | Method | None = None,
        signals: frozenset[str] = frozenset(),
        **settings: Any,
    ) -> EncodedVideo:
        """Read a video and run the vision tower; no token is removed yet.

        Args:
            video: a file, its bytes, an open file or frames.
            method: the view gets the signals that it reads.
            signals: more signals to collect, for other methods that :meth:`compress` will be called with.
            settings: as in :meth:`ask`.
        """
        self._check(video)
        config, chosen = configured(self.config, method, settings)
        for line in config.spans.moved:
            warnings.warn(line, DeprecationWarning, 2)
        signals, merger, limit = self._chosen(config, chosen, signals)
        self._looks.check(config)
        recorder = Recorder(device=self.family.device)
        plain = merger is None and config.spans.repeats == "off"  # then every frame is encoded, as it comes
        share = partial(shared_rows, self.family, limit)
        eager = EagerEncoder(self.family, signals, share) if plain else None
        with recorder.timed(settle=False):
            sampling = sampling_of(config.video, self.family.default_frames, self.family.stock_rule)
            frames = read_video(video, config.video, sampling, eager)
        recorder.read(frames)
        height, width = frames.pixels.shape[1:3]
        layout = self.family.layout(frames.times, height, width, frames.info.duration_seconds)
        repeats, looks = every_frame(layout.slices), dict[Any, Any]()
        if config.spans.repeats != "off":
            repeats = self._looks.repeats(frames, layout, config.spans, recorder, looks)
        plan, tower_rows = repeats, list[int]()
        with recorder.timed(), memory_errors(f"{self.family.device} for {layout.frames_of(repeats.encode)} frames"):
            if eager is not None:
                features, tower_rows = eager.result(), eager.tower_rows
            else:
                features, plan, tower_rows = encoded_with(
                    merger, self.family, frames.pixels, layout, repeats, signals, share()
                )
                features, plan = with_own_rows(features, plan, repeats)
        recorder.encoded(layout, repeats.encode, plan, tower_rows, eager.seconds if eager else 0.0)
        view = view_of(features, layout, plan)
        encoded = EncodedVideo(
            frames, layout, plan, repeats.encode, view, None, None, config, recorder.ledger, self.family.maker,
            self.compress, looks,
        )  # fmt: skip
        return self._looks.segmented(encoded, config.spans, chosen, recorder)

    @checked
    def compress(
        self,
        video: VideoInput | EncodedVideo,
        *,
        question: str | None = None,
        method: str | Method | None = None,
        **settings: Any,
    ) -> CompressedVideo:
        """Read, encode and compress a video once, for many questions.

        Args:
            video: as in :meth:`ask`, or what :meth:`encode` returned, which is not encoded again.
            question: what a question-aware method chooses tokens for; other methods do not look at it.
            method, settings: as in :meth:`ask`.

        Raises:
            UsageError: a question-aware method without a question; otherwise as :meth:`ask`.
        """
        if question is not None:
            check_question(question)
        encoded = video if isinstance(video, EncodedVideo) else self.encode(video, method=method, **settings)
        self._check(encoded)
        config, chosen = configured(encoded.config, method, settings)
        outer = config.outer.settled(encoded.layout.slices * encoded.layout.tokens)
        schedule = chosen_schedule(chosen, outer, self.family)
        policy = position_policy(outer.positions, self.family, schedule)
        config, outer = config.replace(positions=policy.name), replace(outer, positions=policy.name)
        recorder = Recorder(encoded.ledger, device=self.family.device)
        check_segmenter(config, chosen_merger(outer, self.family, frozenset()))
        encoded = self._looks.segmented(encoded, config.spans, chosen, recorder)
        encoded = replace(encoded, view=completed(encoded.view, chosen, self.family, encoded.seen, question))
        with torch.no_grad():
            reduction, tokens = compressed(
                recorder,
                encoded.view,
                encoded.plan,
                for_family(chosen, self.family.model_type),
                outer,
                config.generate.seed,
                encoded.seen,
            )
        shown = spans_of(encoded, reduction)
        recorder.note(*spans_unread(encoded, chosen, config))
        recorder.spans(encoded.layout, shown, reduction.anchors, encoded.segments, bool(reduction.spans))
        name = config.outer.method if chosen is not method else described(chosen)
        asked = question if reads_question(chosen) else None
        return CompressedVideo(encoded, tokens, reduction, name, schedule, asked, config, recorder.ledger)

    def watch(self, video: VideoInput, **settings: Any) -> EncodedVideo:
        """Call :meth:`encode` by its earlier name, with a warning."""
        warnings.warn("lm.watch() is now lm.encode(), and what encode() did is compress()", DeprecationWarning, 2)
        return self.encode(video, **settings)

    # -- the stages

    def _request(
        self, video: Any, question: str, method: str | Method | None, settings: dict[str, Any],
        balance: AttentionBalance | None = None, history: Sequence[Turn] = (),
    ) -> Request:  # fmt: skip
        """The question, ready to be read in one prefill with the video."""
        ready = self._compressed(video, question, method, settings)
        again = ready is video and ready.prefix.next_question()
        prefill = self.prepare(ready, question, balance, history)
        config = ready.config.replace(**settings).generate
        recorder = Recorder(ready.ledger, reused=again)
        return Request(question, ready, prefill, config, recorder, self.family.checkpoint.name)

    def _check(self, video: object) -> None:
        """Refuse to work once closed, and on what another model made."""
        if self.closed:
            raise UsageError(f"{self.family.maker.name} is closed", why="close() has taken it apart",
                             hint="ask inside the with block, or load it again", code="closed")  # fmt: skip
        if isinstance(video, (EncodedVideo, CompressedVideo)):
            encoded = video if isinstance(video, EncodedVideo) else video.encoded
            self.family.maker.check(encoded.maker, "an encoded video" if encoded is video else "a compressed video")

    def _chosen(
        self, config: RunConfig, chosen: Method, signals: frozenset[str]
    ) -> tuple[frozenset[str], TowerMerger | None, float | None]:
        """Signals to collect, merger and limit of shared rows; what this model lacks is found before reading."""
        schedule = chosen_schedule(chosen, config.outer, self.family)
        position_policy(config.outer.positions, self.family, schedule)
        signals = check_names("signals", signals, self.family.signals | ADDED)
        signals |= signals_to_collect(chosen, self.family, schedule)
        merger = chosen_merger(config.outer, self.family, signals)
        check_segmenter(config, merger)
        return signals, merger, chosen_reuse(config.spans, self.family, signals, merger)

    def _compressed(
        self,
        video: VideoInput | EncodedVideo | CompressedVideo,
        question: str,
        method: str | Method | None,
        settings: dict[str, Any],
    ) -> CompressedVideo:
        self._check(video)
        if not isinstance(video, CompressedVideo):
            return self.compress(video, question=question, method=method, **settings)
        fixed = {name for name in settings if name not in {"max_new_tokens", "temperature", "top_p", "seed"}}
        if fixed or method is not None:
            raise UsageError(
                f"{sorted(fixed or {'method'})[0]} cannot change after compress()", hint="call compress() again with it"
            )
        if video.question not in (None, question):
            _log.warning("method %r chose tokens for another question: %s", video.method, video.question)
        return video

    def prepare(
        self,
        video: CompressedVideo,
        question: str,
        balance: AttentionBalance | None = None,
        history: Sequence[Turn] = (),
    ) -> Prefill:
        """Input rows, position ids and an empty cache holding the plan, ready for the stock ``generate``."""
        expect("video", video, isinstance(video, CompressedVideo), "what compress() returned")
        self._check(video)
        encoded, schedule = video.encoded, video.schedule
        reduction, separators = video.reduction, len(self.family.separators())
        facts = visual_facts(schedule, encoded.view, encoded.plan, reduction.anchors, separators, reduction)
        policy = PositionPolicy(video.config.outer.positions)
        return assembled(
            self.family, encoded.layout, video.tokens, question, policy, schedule,
            history=history, facts=facts, balance=balance, members=policy.members(reduction),
        )  # fmt: skip


@checked
def load(
    model: StrPath = "nano", *, device: str = "auto", dtype: str = "auto", attn: str = "sdpa", **settings: Any
) -> VideoLM:
    """Load a video-LLM: ``"nano"`` (embedded), a Hugging Face hub id, or a folder.

    Args:
        model: which checkpoint.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        dtype: ``auto``, ``float32``, ``bfloat16`` or ``float16``.
        attn: ``sdpa``, ``eager`` or ``flash_attention_2``.
        settings: defaults for every later call, such as ``keep=0.1``.

    Raises:
        ModelError: it cannot be loaded. UsageError: a setting is wrong.
    """
    config = RunConfig.from_flat(model=model, device=device, dtype=dtype, attn=attn, **settings)
    return load_config(config)


def load_config(config: RunConfig) -> VideoLM:
    """Load the model that a full configuration names."""
    start_worker()  # the decoding libraries load beside the model
    return VideoLM(load_family(config.model), config)
