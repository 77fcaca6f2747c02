# SPDX-License-Identifier: Apache-2.0
"""The drop-in: a user's own stock model compresses the video in its prompt while a ``with`` block is open.

The stock model runs as always: it embeds the ids, runs its tower and places the features. Where its decoder is about to
read the sequence, a hook takes the visual rows out, lets the method decide, and hands the shorter sequence on with the
positions of the rows that stay. Text is never touched, so the markers of frames that lost all their tokens stay. Every
call keeps its state in its own cache, so threads may generate at once; at the end of the block no hook is left.
"""

from __future__ import annotations

import inspect
import threading
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle
from transformers import AutoTokenizer, DynamicCache

from vidcomp.config import OuterConfig, RunConfig
from vidcomp.core.arguments import checked
from vidcomp.core.ledger import StageLedger
from vidcomp.core.library import CACHE
from vidcomp.engine.decoder import Attachment, check_forward
from vidcomp.engine.decoder.prompt_cache import PromptCache
from vidcomp.engine.finite import check_finite_rows
from vidcomp.engine.inner import chosen_schedule, visual_facts
from vidcomp.engine.outer import completed, compressed, signals_to_collect, view_of
from vidcomp.engine.positions import position_policy
from vidcomp.engine.prefill import joined_rows
from vidcomp.engine.prompt_video import (
    TowerRun,
    VideoRows,
    find_video,
    frame_rows,
    fullest,
    one_prompt,
    prompt_around,
    split_levels,
    videos_given,
)
from vidcomp.engine.record import Recorder
from vidcomp.errors import NotApplied, UsageError
from vidcomp.families import Encoded, Family, Layout, adapter_of
from vidcomp.methods import Method, method_of
from vidcomp.methods.base import for_family
from vidcomp.schedules import Schedule
from vidcomp.spans import every_frame

__all__ = ["Compression", "attach"]

_INPUTS = "give the model the processor's own inputs, in one piece; what must not be compressed goes outside the block"


@checked
def attach(
    model: Any,
    *,
    method: str | Method = "holitom",
    keep: float | None = None,
    keep_tokens: int | None = None,
    inner: str = "auto",
    positions: str = "auto",
    segmenter: str = "tower",
    tokenizer: Any = None,
) -> Compression:
    """Compress the video in every prompt that a stock model reads inside the ``with`` block.

        with vidcomp.attach(model, method="holitom", keep=0.1) as run:
            model.generate(**inputs)
        run.ledgers[-1].tokens

    Inputs are those of the library's own processor, with one video per prompt; pictures beside it stay whole. Sampling,
    beams, streaming, gradients and whatever else the model does stay as they are. All frames go through the vision
    tower, since the model runs it itself. A video that would be read whole is an error, at the latest when the block
    ends.

    Args:
        model: a loaded stock model of a supported family, or a PEFT model around one; it is used as it is and left as
            it was.
        method: a name with parameters (``"holitom:tau=0.8"``) or a method object.
        keep: share of the visual tokens that enters the language model, 0.1 when it is not named; 1 is the plain model,
            bit for bit.
        keep_tokens: their number instead, met exactly.
        inner: reduction inside the language model: ``auto`` (the method's own), ``none``, or ``holitom:k=18,r=0.5``.
        positions: ``keep``, ``compact``, or ``auto`` for the family's own choice.
        segmenter: ``tower``: the method finds its spans itself. Others look at frames, which do not come by here.
        tokenizer: the model's own; InternVL and SmolVLM2 need it to tell frames from pictures. None: the one beside the
            model's files.

    Raises:
        UsageError: a setting is wrong, or the model is being compressed already. ModelError: unsupported model.
    """
    if segmenter != "tower":
        raise UsageError(f"segmenter {segmenter!r} in the drop-in",
                         why="it looks at frames, and the model is given pixels that were prepared already",
                         hint="vidcomp.load(...).ask(video, question, segmenter=...)", code="dropin")  # fmt: skip
    chosen = method_of(method)
    spec = method if isinstance(method, str) else method.name
    budget = {name: value for name, value in (("keep", keep), ("keep_tokens", keep_tokens)) if value is not None}
    config = RunConfig.from_flat(method=spec, inner=inner, positions=positions, **budget).outer
    inside = getattr(model, "get_base_model", None)  # PEFT wraps the stock model
    family = adapter_of(inside() if inside is not None else model)
    chosen = for_family(chosen, family.model_type)
    return Compression(family, chosen, config, tokenizer if tokenizer is not None else _tokenizer(family))


def _tokenizer(family: Family) -> Any:
    """The tokenizer beside the model's files, where frames and pictures have one token; never from the network."""
    if family.frame_line is None:
        return None
    try:
        return AutoTokenizer.from_pretrained(family.model.name_or_path, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise UsageError(f"{family.model_type} models need their tokenizer here",
                         why="frames and pictures have one token, and only the text before them tells which is which",
                         hint="vidcomp.attach(model, tokenizer=processor.tokenizer)",
                         code="dropin") from error  # fmt: skip


@dataclass
class _Call:
    """State of one thread's current forward."""

    ids: Tensor | None = None
    inside: bool = False  # whether the stock model is running, whose decoder is called with what it made of the ids
    returns_cache: bool = True
    labels: bool = False
    every_logit: bool = False
    videos: int | None = None
    runs: list[TowerRun] = field(default_factory=list)  # of the tower, not yet seen in a prompt
    seen: list[TowerRun] = field(default_factory=list)  # those of the last prompt, which returns whole without a cache
    stack: ExitStack = field(default_factory=ExitStack)
    cache: PromptCache | None = None
    recorder: Recorder = field(default_factory=Recorder)  # of the prompt in that cache


class Compression:
    """An open or closed :func:`attach` block.

    Attributes:
        ledgers: one per prompt that was compressed, in the order in which they were read.
    """

    def __init__(self, family: Family, method: Method, config: OuterConfig, tokenizer: Any = None) -> None:
        self.family, self.method, self.tokenizer = family, method, tokenizer
        self.schedule = chosen_schedule(method, config, family)
        self.policy = position_policy(config.positions, family, self.schedule, counted_elsewhere=True)
        self.config = replace(config, positions=self.policy.name)
        self.signals = signals_to_collect(method, family, self.schedule)
        if "query" in method.needs:
            raise UsageError(f"method {method.name!r} chooses tokens for a question",
                             why="a ready prompt does not tell the question from the template around it",
                             hint="vidcomp.load(...).ask(video, question)", code="missing_question")  # fmt: skip
        self.plain = config.whole and self.schedule is None
        self.ledgers: list[StageLedger] = []
        self._calls: list[_Call] = []  # one per thread
        self._stack = ExitStack()
        self._local = threading.local()

    def __enter__(self) -> Compression:
        model = self.family.model
        with ExitStack() as stack:  # nothing stays installed when a later step fails
            stack.enter_context(Attachment(model))
            for handle in self._hooks(model):
                stack.callback(handle.remove)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        self._stack.close()
        whole = sum(len(call.runs) for call in self._calls)
        if whole and kind is None and not self.plain:
            raise NotApplied(f"the vision tower ran {whole} times for nothing that was compressed",
                             why="its features did not come by in a prompt of this model", hint=_INPUTS)  # fmt: skip

    def _hooks(self, model: Any) -> list[RemovableHandle]:
        base, decoder, tower = model.base_model, model.get_decoder(), self.family.tower
        return [
            model.register_forward_pre_hook(self._before_head, with_kwargs=True),
            base.register_forward_pre_hook(self._before_model, with_kwargs=True),
            base.register_forward_hook(self._after_model, always_call=True),
            tower.register_forward_pre_hook(self._before_tower, with_kwargs=True),
            tower.register_forward_hook(self._after_tower, always_call=True),
            decoder.register_forward_pre_hook(self._before_decoder, with_kwargs=True),
        ]

    @property
    def _call(self) -> _Call:
        if not hasattr(self._local, "call"):
            self._local.call = _Call()
            self._calls.append(self._local.call)
        call: _Call = self._local.call
        return call

    # -- hooks, in the order in which a prefill meets them

    def _before_tower(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        call = self._call
        arguments = inspect.signature(module.forward).bind(*args, **kwargs).arguments
        small = {name: value for name, value in arguments.items() if not _is_pixels(value)}  # pixels are large
        pixels = next((value for value in arguments.values() if _is_pixels(value)), ())
        signals_of = call.stack.enter_context(self.family.watching(self.signals))
        call.runs.append(TowerRun({**small, "pictures": len(pixels)}, signals_of))

    def _after_tower(self, module: Any, args: Any, output: Any) -> None:
        self._call.stack.close()
        if output is None:  # it failed
            self._call.runs.pop()

    def _before_head(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._call.labels = kwargs.get("labels") is not None
        self._call.every_logit = isinstance(keep := kwargs.get("logits_to_keep", 0), int) and keep == 0

    def _before_model(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        call = self._call
        call.ids, call.cache, call.inside = kwargs.get("input_ids", args[0] if args else None), None, True
        call.videos = videos_given(kwargs)
        uses = kwargs.get("use_cache")
        uses = self.family.model.config.get_text_config().use_cache if uses is None else uses
        call.returns_cache = bool(uses) or kwargs.get(CACHE) is not None

    def _before_decoder(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        cache, call = kwargs.get(CACHE), self._call
        known = isinstance(cache, PromptCache)
        if isinstance(cache, PromptCache):
            cache.continue_with(kwargs)
        runs, call.runs = call.runs, []  # they belong to this prompt, whatever becomes of it
        call.seen = runs if runs or cache is not None else call.seen
        if self.plain and runs:
            check_finite_rows(kwargs["inputs_embeds"])
        rows = None if self.plain else self._video_rows(call, kwargs, runs)
        if rows is None:
            return (args, kwargs) if known else None
        if known or (cache is not None and cache.get_seq_length() > 0):
            kind = (
                "a second video in a compressed conversation" if known else "a video behind rows that were read before"
            )
            raise UsageError(kind, why="only a first prompt is compressed, and whole: no prefill_chunk_size",
                             hint="a new generate call with the whole prompt", code="dropin")  # fmt: skip
        config = self.config.settled(int(rows.visual.sum()) - len(self.family.separators()))
        schedule = chosen_schedule(self.method, config, self.family)
        if config.whole and schedule is None:
            check_finite_rows(kwargs["inputs_embeds"])
            return None
        if cache is not None and type(cache) is not DynamicCache:
            raise UsageError(f"a {type(cache).__name__}", why="rows can only leave a DynamicCache",
                             hint="generate without cache_implementation", code="dropin")  # fmt: skip
        if call.labels:
            raise UsageError("labels beside a video that is compressed",
                             why="rows leave, so logits and labels do not stand side by side",
                             hint="call without labels; the last logits belong to the last ids",
                             code="dropin")  # fmt: skip
        assert call.ids is not None
        self._shorten(call.ids, rows, call.seen, kwargs, config, schedule)
        return args, kwargs

    def _video_rows(self, call: _Call, kwargs: dict[str, Any], runs: list[TowerRun]) -> VideoRows | None:
        """The rows of the prompt that show video, None when there are none.

        Raises:
            UsageError: the prompt does not tell. NotApplied: the tower ran, and nothing in the prompt is of it.
        """
        ids, embeds = call.ids, kwargs.get("inputs_embeds")
        if ids is None:
            if runs or (call.inside and embeds is not None and embeds.shape[1] > 1):
                raise UsageError("a prompt given as inputs_embeds", why="without ids a video looks like text",
                                 hint=_INPUTS, code="dropin")  # fmt: skip
            return None
        if ids.shape[1] == 1 and not runs:
            return None
        if bool((ids == self.family.visual_id).any()):
            rows = frame_rows(self.family, self.tokenizer, ids[fullest(ids, self.family.visual_id)].cpu())
            return rows if bool(rows.visual.any()) else None
        if runs and not bool((ids == self.family.model.config.image_token_id).any()):
            raise NotApplied("the vision tower ran, and this prompt holds nothing of it",
                             why="a prompt in pieces (prefill_chunk_size), or features that were made for another one",
                             hint=_INPUTS)  # fmt: skip
        return None

    def _after_model(self, module: Any, args: Any, output: Any) -> None:
        call = self._call
        call.ids, call.inside, call.labels, call.every_logit = None, False, False, False
        cache, call.cache = call.cache, None
        if output is None:  # it failed
            call.runs.clear()
        elif cache is not None:
            check_forward(cache, 1)
            call.recorder.prompt_read(cache, cache.is_token)
            if not call.returns_cache:
                output[CACHE] = None

    # -- the work

    def _shorten(
        self, ids: Tensor, shown: VideoRows, runs: list[TowerRun], kwargs: dict[str, Any],
        config: OuterConfig, schedule: Schedule | None,
    ) -> None:  # fmt: skip
        """Replace embeddings, positions, mask and cache of the decoder's call by those of the rows that stay."""
        rows, visual = one_prompt(ids, kwargs["inputs_embeds"]), shown.visual
        layout, run = find_video(self.family, shown, runs, self._call.videos, len(ids))
        prompt, plan = prompt_around(ids[0].cpu(), visual, layout), every_frame(layout.slices)
        levels, beside = split_levels(kwargs, visual)
        total, shows = layout.slices * layout.tokens, rows[visual.nonzero()[:, 0].to(rows.device)]
        seen, separators, text = shows[:total], shows[total:], rows[(~visual).nonzero()[:, 0].to(rows.device)]
        recorder = Recorder()
        recorder.given(layout, len(separators))
        view = view_of(_encoded(seen, levels, layout, run, shown.pictures), layout, plan)
        view = completed(view, self.method, self.family)
        reduction, tokens = compressed(recorder, view, plan, self.method, config)
        facts = visual_facts(schedule, view, plan, reduction.anchors, len(separators), reduction)
        order = prompt.arranged(tokens.positions.cpu(), layout.tokens, len(separators))
        if beside is not None:
            beside = torch.isin(order.full, beside[0]).nonzero()[:, 0], beside[1]
        joined, planned = joined_rows(
            self.family, layout, order, tokens, separators, text, schedule, facts, beside=beside
        )
        cache = PromptCache(self.family.model.config.get_text_config(), planned)
        cache.is_token, self._call.recorder = order.order < len(tokens), recorder
        cache.place(order.full.to(rows.device), len(rows), self.policy, kwargs)
        kwargs["inputs_embeds"] = joined.expand(len(ids), -1, -1)
        kwargs[CACHE] = self._call.cache = cache
        recorder.note(*self._surprises(len(ids[0]), len(joined)))
        self.ledgers.append(recorder.ledger)

    def _surprises(self, full: int, left: int) -> list[str]:
        """Notes that the caller of this forward might not expect."""
        notes = []
        if self._call.every_logit:
            notes.append(f"the logits have {left} rows for {full} ids; count from the last one")
        if self.schedule is not None and not self._call.returns_cache:
            notes.append("without a cache the whole prompt is read and reduced anew for every token")
        return notes


def _encoded(features: Tensor, levels: list[Tensor], layout: Layout, run: TowerRun, pictures: Tensor | None) -> Encoded:
    """Output of the tower for the slices, from features [T * N, D] and levels of the prompt; beams may repeat them."""
    shape = (layout.slices, layout.tokens, -1)
    which = torch.arange(layout.slices) if pictures is None else pictures
    signals = {name: value.detach()[which.to(value.device)] for name, value in run.signals(layout).items()}
    return Encoded(features.view(shape), signals, tuple(level.view(shape) for level in levels))


def _is_pixels(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()
