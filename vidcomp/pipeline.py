"""VideoLM: the stages in order. Frames in, answer out; the ledger fills as data passes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vidcomp.assembly import assembled
from vidcomp.config import ModelConfig, RunConfig, parse_spec
from vidcomp.eager import EagerEncoder
from vidcomp.errors import UsageError
from vidcomp.generation import Prefill, generate, memory_errors, stream_text
from vidcomp.hub import EMBEDDED
from vidcomp.inllm import Attachment, AttentionBalance, Schedule
from vidcomp.inner import chosen_merger, chosen_schedule, encoded_with, visual_facts
from vidcomp.ledger import SpanRecord, StageLedger, TokenCounts
from vidcomp.measured import check_prepared, record_generation
from vidcomp.methods import Method, get_method
from vidcomp.methods.base import described, reads
from vidcomp.models import Family, Layout, load_family
from vidcomp.models.base import Turn
from vidcomp.outer import ADDED, completed, reduced, signals_to_collect
from vidcomp.positions import GROUPS, spread_members
from vidcomp.questions import SharedPrefix
from vidcomp.result import Answer
from vidcomp.spans import FramePlan, every_frame, find_duplicates, frame_encoder
from vidcomp.spans.encoders import FrameEncoder
from vidcomp.tokens import CompressedTokens, Reduction, Span, TokenView
from vidcomp.video import Frames, Sampling, read_frames
from vidcomp.video.line import start_nursery
from vidcomp.video.options import sampling_of

__all__ = ["EncodedVideo", "VideoLM", "WatchedVideo", "check_question", "load", "load_config"]

VideoPath = str | PathLike[str]
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WatchedVideo:
    """A video after the vision tower, before any token is removed by a method.

    Attributes:
        frames: the sampled frames and their times.
        layout: how they become slices and tokens.
        plan: which slices were encoded.
        view: tokens of the encoded slices, [E, N, D].
        seen: [E, F], what the segmenter saw of the encoded slices, None when none is named.
        config: the settings it was read with.
        ledger: the stages so far.
    """

    frames: Frames
    layout: Layout
    plan: FramePlan
    view: TokenView
    seen: Tensor | None
    config: RunConfig
    ledger: StageLedger


@dataclass(frozen=True)
class EncodedVideo:
    """A video ready to be asked about: survivors, and the decision that made them.

    Attributes:
        watched: where it comes from.
        tokens: survivors, [M, D].
        reduction: the decision, about all T * N tokens.
        method: the method's name, with its parameters as they were given.
        schedule: what will be reduced inside the language model, None for nothing.
        question: the one that the method chose tokens for, None when it looked at the video alone.
        config: settings, the keep ratio among them.
        ledger: the stages so far.
        prefix: what the language model holds of it between questions.
    """

    watched: WatchedVideo
    tokens: CompressedTokens
    reduction: Reduction
    method: str
    schedule: Schedule | None
    question: str | None
    config: RunConfig
    ledger: StageLedger
    prefix: SharedPrefix = field(default_factory=SharedPrefix, repr=False, compare=False)


class VideoLM:
    """A loaded video-LLM that reads videos through the compressor.

    Use :func:`load` to make one. ``close`` (or a ``with`` block) takes the hooks off the model.
    """

    def __init__(self, family: Family, config: RunConfig) -> None:
        self.family, self.config = family, config
        self._attachment = Attachment(family.model)
        self._encoders: dict[Any, FrameEncoder | None] = {}

    def close(self) -> None:
        """Take the hooks off the model; it answers bit-identically to before."""
        self._attachment.remove()

    def __enter__(self) -> VideoLM:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # -- what people call

    def ask(
        self,
        video: VideoPath | WatchedVideo | EncodedVideo,
        question: str,
        *,
        method: str | Method | None = None,
        on_text: Callable[[str], None] | None = None,
        stop: Callable[[], bool] | None = None,
        balance: AttentionBalance | None = None,
        history: Sequence[Turn] = (),
        **settings: Any,
    ) -> Answer:
        """Answer a question about a video.

        Args:
            video: a file, or what :meth:`encode` returned; what :meth:`watch` returned is compressed anew.
            question: plain text.
            method: a name with parameters (``"holitom:tau=0.8"``) or a method object; the configured one when None.
            on_text: called with each piece of the answer as it is written.
            stop: asked after every token; True ends the answer there.
            balance: collects what the answer looks at, layer by layer; costs one row of attention per layer and token.
            history: turns of the conversation before this question, (question, answer) each.
            settings: any field of :class:`~vidcomp.config.RunConfig`'s stages, such as ``keep=0.1, frames=16, seed=1``.

        Raises:
            InputError: the file cannot be read. UsageError: a setting is wrong, or this VideoLM was closed.
            NotApplied: a reduction did not happen; no text has been handed on then.
        """
        check_question(question)
        self._attachment.check_open()
        encoded = self._encoded(video, question, method, settings)
        ledger = encoded.ledger.copy() if encoded is not video else encoded.prefix.ledger(encoded.ledger)
        config = encoded.config.replace(**settings)
        prefill = self.prepare(encoded, question, balance, history)
        if encoded is video:  # it may be asked again: what comes before the question is read once
            prefill = encoded.prefix.continued(self.family, prefill, ledger)
        check_prepared(len(encoded.tokens), prefill)
        waited = time.perf_counter()
        generation = generate(self.family, prefill, config.generate, on_text, stop)
        record_generation(ledger, generation, prefill, waited)
        return Answer(
            text=generation.text, question=question, path=encoded.watched.frames.info.path,
            model=self.family.checkpoint.name,
            method=encoded.method, frames=encoded.watched.frames, spans=encoded.reduction.spans, ledger=ledger,
            seed=config.generate.seed, inner=described(encoded.schedule) if encoded.schedule else "none",
            encoder=encoded.config.outer.encoder,
        )  # fmt: skip

    def stream(self, video: VideoPath | WatchedVideo | EncodedVideo, question: str, **settings: Any) -> Iterator[str]:
        """Like :meth:`ask`, yielding the answer in pieces as it is written."""
        return stream_text(lambda on_text, stop: self.ask(video, question, on_text=on_text, stop=stop, **settings))

    def encode(
        self,
        video: VideoPath | WatchedVideo,
        *,
        question: str | None = None,
        method: str | Method | None = None,
        **settings: Any,
    ) -> EncodedVideo:
        """Read, encode and compress a video once, for many questions.

        Args:
            video: a file, or what :meth:`watch` returned.
            question: what a question-aware method chooses tokens for; other methods do not look at it.
            method, settings: as in :meth:`ask`.

        Raises:
            UsageError: a question-aware method without a question; otherwise as :meth:`ask`.
        """
        watched = video if isinstance(video, WatchedVideo) else self.watch(video, method=method, **settings)
        config = watched.config.replace(**_named(method, settings))
        if config.outer.positions == "auto":
            config = config.replace(positions=self.family.positions)
        chosen = method if method is not None and not isinstance(method, str) else self._method(config)
        watched = replace(watched, view=completed(watched.view, chosen, self.family, watched.seen, question))
        ledger = watched.ledger.copy()
        ledger.keep_requested = config.outer.keep
        with ledger.stage("compress", "tokens", self._settle) as record, torch.no_grad():
            reduction, tokens = reduced(watched.view, watched.plan, chosen, config.outer)
            record.into, record.out = watched.view.total, len(tokens)
        ledger.tokens.kept = len(tokens)
        ledger.spans = _span_records(watched, reduction)
        name = config.outer.method if chosen is not method else described(chosen)
        schedule = chosen_schedule(chosen, config.outer, self.family)
        asked = question if "query" in reads(chosen, ADDED) else None
        return EncodedVideo(watched, tokens, reduction, name, schedule, asked, config, ledger)

    def watch(
        self,
        video: VideoPath,
        *,
        method: str | Method | None = None,
        signals: frozenset[str] = frozenset(),
        **settings: Any,
    ) -> WatchedVideo:
        """Read a video and run the vision tower without removing tokens.

        Args:
            video: a file.
            method: the view gets the signals that it reads.
            signals: more signals to collect, for other methods that :meth:`encode` will be called with.
            settings: as in :meth:`ask`.
        """
        config = self.config.replace(**_named(method, settings))
        chosen = method if method is not None and not isinstance(method, str) else self._method(config)
        schedule = chosen_schedule(chosen, config.outer, self.family)  # what this model lacks is found before reading
        signals = signals | signals_to_collect(chosen, self.family) | (schedule.needs if schedule else frozenset())
        merger = chosen_merger(config.outer, self.family, signals)
        ledger = StageLedger()
        plain = merger is None and self._frame_encoder(config) is None  # then every frame is encoded, as it comes
        eager = EagerEncoder(self.family, signals) if plain else None
        frames = self._read(video, config, eager, ledger)
        height, width = frames.pixels.shape[1:3]
        layout = self.family.layout(frames.times, height, width, frames.info.duration_seconds)
        plan, seen = self._plan(frames, layout, config, ledger)
        ledger.frame_times, apart = list(layout.frame_times), plan.encode
        ledger.frames_encoded = sum(last - first + 1 for first, last in map(layout.members, apart.tolist()))
        with ledger.stage("encode", "tokens", self._settle) as record:
            if eager is not None:
                encoded = eager.result()
            else:
                with memory_errors(f"{self.family.device} for {ledger.frames_encoded} frames"):
                    encoded, plan, ledger.tower_rows = encoded_with(
                        merger, self.family, frames.pixels, layout, plan, signals
                    )
            record.into, record.out = layout.slices * layout.tokens, len(plan.encode) * layout.tokens
        if eager is not None:
            ledger.move_seconds("read", "encode", eager.seconds)
        times = torch.tensor(layout.times, dtype=torch.float64)[plan.encode]
        view = TokenView(encoded.features, layout.grid, times, deepstack=encoded.deepstack, **encoded.signals)
        ledger.tokens = TokenCounts(uncompressed=layout.slices * layout.tokens)
        seen = seen if seen is None else seen[torch.isin(apart, plan.encode)]  # frames may have merged in the tower
        view = completed(view, chosen, self.family, seen)
        return WatchedVideo(frames, layout, plan, view, seen, config, ledger)

    # -- the stages

    def _read(self, video: VideoPath, config: RunConfig, eager: EagerEncoder | None, ledger: StageLedger) -> Frames:
        with ledger.stage("read", "frames") as record:
            frames = read_frames(
                Path(fspath(video)), self._sampling(config),
                deadline_seconds=config.video.deadline, strict=config.video.strict, on_ready=eager,
            )  # fmt: skip
            record.into, record.out = frames.info.frames_total, len(frames.times)
        return frames

    def _encoded(
        self,
        video: VideoPath | WatchedVideo | EncodedVideo,
        question: str,
        method: str | Method | None,
        settings: dict[str, Any],
    ) -> EncodedVideo:
        if not isinstance(video, EncodedVideo):
            return self.encode(video, question=question, method=method, **settings)
        fixed = {name for name in settings if name not in {"max_new_tokens", "temperature", "top_p", "seed"}}
        if fixed or method is not None:
            raise UsageError(
                f"{sorted(fixed or {'method'})[0]} cannot change after encode()", hint="call encode() again with it"
            )
        if video.question not in (None, question):
            _log.warning("method %r chose tokens for another question: %s", video.method, video.question)
        return video

    def _sampling(self, config: RunConfig) -> Sampling:
        return sampling_of(config.video, self.family.default_frames, self.family.stock_rule)

    def _plan(
        self, frames: Frames, layout: Layout, config: RunConfig, ledger: StageLedger
    ) -> tuple[FramePlan, Tensor | None]:
        encoder = self._frame_encoder(config)
        if encoder is None:
            return every_frame(layout.slices), None
        with ledger.stage("segment", "frames", self._settle) as record:
            regions = layout.by_slice(encoder(frames.pixels))
            plan = find_duplicates(regions, encoder, config.spans.same_frame)
            record.into = layout.frames
            record.out = sum(last - first + 1 for first, last in map(layout.members, plan.encode.tolist()))
        return plan, regions[plan.encode].flatten(1)

    def _frame_encoder(self, config: RunConfig) -> FrameEncoder | None:
        key = (config.spans.segmenter, config.spans.segmenter_model)
        if key not in self._encoders:
            embedded = config.model.model in EMBEDDED
            self._encoders[key] = frame_encoder(
                config.spans, device=config.model.device, offline=config.model.offline, embedded=embedded
            )
        return self._encoders[key]

    def _method(self, config: RunConfig) -> Method:
        name, parameters = parse_spec(config.outer.method)
        method: Any = get_method(name, **parameters)
        drawn = "seed" not in parameters and hasattr(method, "seed")
        chosen: Method = replace(method, seed=config.generate.seed) if drawn else method
        return chosen

    def prepare(
        self,
        encoded: EncodedVideo,
        question: str,
        balance: AttentionBalance | None = None,
        history: Sequence[Turn] = (),
    ) -> Prefill:
        """Input rows, position ids and an empty cache holding the plan, ready for the stock ``generate``."""
        watched, schedule = encoded.watched, encoded.schedule
        reduction, separators = encoded.reduction, len(self.family.separators())
        facts = visual_facts(schedule, watched.view, watched.plan, reduction.anchors, separators, reduction)
        policy = encoded.config.outer.positions
        members = spread_members(reduction, GROUPS) if policy == "ppe" else None
        return assembled(
            self.family, watched.layout, encoded.tokens, question, policy, schedule,
            history=history, facts=facts, balance=balance, members=members,
        )  # fmt: skip

    def _settle(self) -> None:
        if self.family.device.type == "cuda":
            torch.cuda.synchronize(self.family.device)


def load(
    model: str = "nano", *, device: str = "auto", dtype: str = "auto", attn: str = "sdpa", **settings: Any
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
    start_nursery()  # the decoding libraries load beside the model
    return VideoLM(load_family(config.model), config)


def check_question(question: str) -> None:
    """Raise UsageError when there is nothing to answer."""
    if not question.strip():
        raise UsageError(
            "the question is empty", hint='vidcomp ask movie.mp4 "what happens at the end?"', code="empty_question"
        )


def _named(method: str | Method | None, settings: dict[str, Any]) -> dict[str, Any]:
    named = {**settings, **({"method": method} if isinstance(method, str) else {})}
    fixed = {item for item in ModelConfig.__dataclass_fields__ if item in named}
    if fixed:
        raise UsageError(f"{sorted(fixed)[0]} cannot change after load()", hint="load the model again with it")
    return named


def _span_records(watched: WatchedVideo, reduction: Reduction) -> list[SpanRecord]:
    layout, tokens = watched.layout, watched.layout.tokens
    kept = torch.bincount(reduction.anchors // tokens, minlength=layout.slices).tolist()
    ends = [(layout.members(span.start)[0], layout.members(span.end)[1]) for span in _spans(watched, reduction)]
    return [
        SpanRecord(
            first, last, layout.frame_times[first], layout.frame_times[last],
            len(span) * tokens, sum(kept[span.start : span.end + 1]), span.static,
        )
        for span, (first, last) in zip(_spans(watched, reduction), ends, strict=True)
    ]  # fmt: skip


def _spans(watched: WatchedVideo, reduction: Reduction) -> tuple[Span, ...]:
    return reduction.spans or watched.plan.spans
