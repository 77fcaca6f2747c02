"""The drop-in: a user's own stock model compresses the video in its prompt while a ``with`` block is open.

The stock model runs as always: it embeds the ids, runs its tower and places the features. Where its decoder is about to
read the sequence, a hook takes the visual rows out, lets the method decide, and hands the shorter sequence on with the
positions of the rows that stay. Text is never touched, so the markers of frames that lost all their tokens stay. Every
call keeps its state in its own cache, so threads may generate at once; at the end of the block no hook is left.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle
from transformers import DynamicCache

from vidcomp.config import OuterConfig
from vidcomp.errors import NotApplied, UsageError
from vidcomp.inllm import Attachment, CompressedCache
from vidcomp.inner import chosen_schedule, visual_facts
from vidcomp.ledger import StageLedger, TokenCounts
from vidcomp.library import CACHE
from vidcomp.measured import record_prefill
from vidcomp.methods import Method, method_of
from vidcomp.models import Family, Layout, Prompt, adapter_of
from vidcomp.outer import completed, reduced, signals_to_collect
from vidcomp.spans import every_frame
from vidcomp.tokens import TokenView

__all__ = ["Compression", "compress"]


def compress(
    model: Any,
    *,
    method: str | Method = "holitom",
    keep: float = 0.1,
    inner: str = "auto",
    positions: str = "auto",
) -> Compression:
    """Compress the video in every prompt that a stock model reads inside the ``with`` block.

        with vidcomp.compress(model, method="holitom", keep=0.1) as run:
            model.generate(**inputs)
        run.ledgers[-1].tokens

    Inputs are those of the library's own processor, with one video per prompt. Sampling, beams, streaming and whatever
    else ``generate`` does stay as they are. All frames go through the vision tower, since the model runs it itself.

    Args:
        model: a loaded stock model of a supported family; it is used as it is and left as it was.
        method: a name with parameters (``"holitom:tau=0.8"``) or a method object.
        keep: share of the visual tokens that enters the language model; 1 is the plain model, bit for bit.
        inner: reduction inside the language model: ``auto`` (the method's own), ``none``, or ``holitom:k=18,r=0.5``.
        positions: ``keep``, ``compact``, or ``auto`` for the family's own choice.

    Raises:
        UsageError: a setting is wrong, or the model is being compressed already. ModelError: unsupported model.
    """
    spec = method if isinstance(method, str) else method.name
    config = OuterConfig(method=spec, keep=keep, inner=inner, positions=positions)
    return Compression(adapter_of(model), method_of(method), config)


@dataclass
class _Call:
    """What one thread's current forward has told so far."""

    ids: Tensor | None = None
    returns_cache: bool = True
    tower: dict[str, Any] | None = None
    told: Callable[[Layout], dict[str, Tensor]] | None = None
    stack: ExitStack = field(default_factory=ExitStack)
    cache: _ReducedCache | None = None


class Compression:
    """An open or closed :func:`compress` block.

    Attributes:
        ledgers: one per prompt that was compressed, in the order in which they were read.
    """

    def __init__(self, family: Family, method: Method, config: OuterConfig) -> None:
        self.family, self.method = family, method
        self.config = replace(config, positions=family.positions if config.positions == "auto" else config.positions)
        if config.positions == "ppe":
            raise UsageError("positions='ppe'", why="the stock model counts positions by itself",
                             hint="positions='keep'", code="bad_option")  # fmt: skip
        self.schedule = chosen_schedule(method, config, family)
        self.signals = signals_to_collect(method, family) | (self.schedule.needs if self.schedule else frozenset())
        if "query" in method.needs:
            raise UsageError(f"method {method.name!r} chooses tokens for a question",
                             why="a ready prompt does not tell the question from the template around it",
                             hint="vidcomp.load(...).ask(video, question)", code="missing_question")  # fmt: skip
        self.ledgers: list[StageLedger] = []
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

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def _hooks(self, model: Any) -> list[RemovableHandle]:
        base, decoder, tower = model.base_model, model.get_decoder(), self.family.tower
        return [
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
        call: _Call = self._local.call
        return call

    # -- hooks, in the order in which a prefill meets them

    def _before_tower(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        call = self._call
        arguments = inspect.signature(module.forward).bind(*args, **kwargs).arguments
        call.tower = {name: value for name, value in arguments.items() if not _is_pixels(value)}  # which are large
        call.told = call.stack.enter_context(self.family.watching(self.signals))

    def _after_tower(self, module: Any, args: Any, output: Any) -> None:
        self._call.stack.close()

    def _before_model(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        call = self._call
        call.ids, call.cache = kwargs.get("input_ids", args[0] if args else None), None
        uses = kwargs.get("use_cache")
        uses = self.family.model.config.get_text_config().use_cache if uses is None else uses
        call.returns_cache = bool(uses) or kwargs.get(CACHE) is not None

    def _before_decoder(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        cache, ids = kwargs.get(CACHE), self._call.ids
        if isinstance(cache, _ReducedCache):
            cache.continue_with(kwargs)
            kind = "a second video in a compressed conversation"
        elif cache is not None and cache.get_seq_length() > 0:
            kind = "a video in a conversation that began outside the block"
        else:
            kind = ""
        if ids is None or ids.shape[1] == 1 or not bool((ids == self.family.visual_id).any()):
            return (args, kwargs) if isinstance(cache, _ReducedCache) else None
        if kind:
            raise UsageError(kind, why="only the first prompt is compressed", hint="a new generate call", code="dropin")
        if self.config.keep >= 1 and self.schedule is None:
            return None
        if cache is not None and type(cache) is not DynamicCache:
            raise UsageError(f"a {type(cache).__name__}", why="rows can only leave a DynamicCache",
                             hint="generate without cache_implementation", code="dropin")  # fmt: skip
        with torch.no_grad():
            self._shorten(ids, kwargs)
        return args, kwargs

    def _after_model(self, module: Any, args: Any, output: Any) -> None:
        call = self._call
        if call.cache is None or output is None:
            return
        _count(self.ledgers[call.cache.number], call.cache)
        if not call.returns_cache:
            output[CACHE] = None
        call.cache = None

    # -- the work

    def _shorten(self, ids: Tensor, kwargs: dict[str, Any]) -> None:
        """Replace embeddings, positions, mask and cache of the decoder's call by those of the rows that stay."""
        rows = _one_prompt(ids, kwargs["inputs_embeds"])
        visual = (ids[0] == self.family.visual_id).cpu()
        layout = self._layout(int(visual.sum()))
        prompt, separators = _prompt(ids[0].cpu(), visual, layout), len(self.family.separators())
        total, where = layout.slices * layout.tokens, visual.nonzero()[:, 0].to(rows.device)
        levels = kwargs.pop("deepstack_visual_embeds", None) or ()
        kwargs.pop("visual_pos_masks", None)
        if any(len(level) < total for level in levels):
            raise UsageError("pictures beside the video", why="this family's DeepStack levels mix them",
                             hint="one video per prompt and nothing else", code="dropin")  # fmt: skip
        ledger = StageLedger(keep_requested=self.config.keep, frames_encoded=layout.frames)
        with ledger.stage("compress", "tokens") as record:
            view = self._view(rows[where[:total]], [level[:total] for level in levels], layout)
            plan = every_frame(layout.slices)
            reduction, tokens = reduced(view, plan, self.method, self.config)
            record.into, record.out = total, len(tokens)
        ledger.tokens = TokenCounts(uncompressed=total, separators=separators)
        order = prompt.arranged(tokens.positions.cpu(), layout.tokens, separators)
        joined = torch.cat([tokens.features.to(rows), rows[where[total:]], rows[~visual.to(rows.device)]])
        cut = order.order.to(rows.device)
        facts = visual_facts(self.schedule, view, plan, reduction.anchors, separators, reduction)
        in_order = cut[cut < len(tokens) + separators]
        text = self.family.model.config.get_text_config()
        cache = _ReducedCache(
            text, order.order < len(tokens) + separators, self.schedule, text.num_hidden_layers,
            {name: values[in_order] for name, values in facts.items()}, uncompressed=total + separators,
            deepstack=[level[cut[cut < len(tokens)]] for level in tokens.deepstack],
        )  # fmt: skip
        cache.is_token, cache.number = order.order < len(tokens), len(self.ledgers)
        cache.place(order.full.to(rows.device), len(rows), self.config.positions == "compact", kwargs)
        kwargs["inputs_embeds"] = joined[cut].expand(len(ids), -1, -1)
        kwargs[CACHE] = self._call.cache = cache
        self.ledgers.append(ledger)

    def _layout(self, visual: int) -> Layout:
        call = self._call
        if call.tower is None:
            raise UsageError("a video whose features were made elsewhere", why="the tower did not run in this block",
                             hint="give the model the processor's own inputs", code="dropin")  # fmt: skip
        layout = self.family.layout_seen(call.tower, visual - len(self.family.separators()))
        if layout is None:
            raise UsageError(
                f"{visual} visual tokens are not those of one whole video",
                why="several videos, pictures beside it, or a processor that drops tokens by itself",
                hint="one video per prompt; VideoLLaMA3: use_token_compression=False",
                code="dropin",
            )
        return layout

    def _view(self, features: Tensor, levels: list[Tensor], layout: Layout) -> TokenView:
        """What the method is shown, from features [T * N, D]."""
        shape = (layout.slices, layout.tokens, -1)
        told = self._call.told(layout) if self._call.told is not None else {}
        signals = {name: value[: layout.slices] for name, value in told.items()}  # beams may repeat the video
        times = torch.tensor(layout.times, dtype=torch.float64)
        view = TokenView(features.view(shape), layout.grid, times, deepstack=tuple(x.view(shape) for x in levels),
                         **signals)  # fmt: skip
        return completed(view, self.method, self.family)


class _ReducedCache(CompressedCache):
    """The cache of a prompt that its owner believes to be longer: lengths and positions are told in full numbers."""

    number = 0
    is_token: Tensor
    _kept: Tensor
    _full = 0
    _shift: Tensor | None = None

    def place(self, kept: Tensor, full: int, compact: bool, kwargs: dict[str, Any]) -> None:
        """Note which columns [S'] of the full prompt stay, and cut positions and mask of the prefill to them."""
        self._kept, self._full = kept, full
        positions = kwargs.get("position_ids")
        if positions is None:
            positions = torch.arange(full, device=kept.device)[None]
        chosen = positions[..., kept]
        if compact:
            renumbered = torch.arange(len(kept), device=kept.device).expand_as(chosen)
            self._shift = positions[..., -1:] - renumbered[..., -1:]
            chosen = renumbered
        kwargs.update(position_ids=chosen, attention_mask=self._cut(kwargs.get("attention_mask")))

    def continue_with(self, kwargs: dict[str, Any]) -> None:
        """Cut mask and positions of a later forward, which are those of the full sequence."""
        positions, length = kwargs.get("position_ids"), kwargs["inputs_embeds"].shape[1]
        if positions is None:
            positions = self.get_seq_length() + torch.arange(length, device=self._kept.device)[None]
        if self._shift is not None:
            shift = self._shift if positions.dim() == self._shift.dim() else self._shift[-1]
            positions = positions - shift[..., : positions.shape[-2], :]
        kwargs.update(position_ids=positions, attention_mask=self._cut(kwargs.get("attention_mask")))

    def get_seq_length(self, layer_idx: int | None = None) -> int:
        """Of a layer by number: what it holds. Without a number: what the owner of the prompt counts."""
        if layer_idx is not None:
            return int(super().get_seq_length(layer_idx))
        return int(super().get_seq_length(0)) + self._full - len(self._kept) if self.layers else 0

    def _cut(self, mask: Any) -> Any:
        if mask is None:
            return None
        if not isinstance(mask, Tensor) or mask.dim() != 2:
            raise UsageError("an attention mask that was prepared elsewhere", hint="a mask [B, S], or none",
                             code="dropin")  # fmt: skip
        return torch.cat([mask[:, self._kept.to(mask.device)], mask[:, self._full :]], 1)


def _is_pixels(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _one_prompt(ids: Tensor, embeds: Tensor) -> Tensor:
    """The rows [S, D] of a batch whose sequences are all the same: beams, or several samples of one prompt."""
    if len(ids) > 1 and not (bool((ids == ids[:1]).all()) and bool((embeds == embeds[:1]).all())):
        raise UsageError(f"a batch of {len(ids)} different prompts", why="each video keeps another number of tokens",
                         hint="one prompt per generate call; beams and several samples of one work",
                         code="dropin")  # fmt: skip
    return embeds[0]


def _prompt(ids: Tensor, visual: Tensor, layout: Layout) -> Prompt:
    """The text around the visual tokens, all of it as the prompt proper."""
    places, tokens = visual.nonzero()[:, 0], layout.tokens
    first = places[: layout.slices * tokens : tokens]
    last = places[tokens - 1 : layout.slices * tokens : tokens]
    if not torch.equal(last - first, torch.full_like(first, tokens - 1)):
        raise UsageError("visual tokens that are not in one piece per frame", hint="the processor's own inputs",
                         code="dropin")  # fmt: skip
    text = ids[~visual]
    return Prompt(text, (~visual).cumsum(0)[first], torch.full_like(text, -1), torch.zeros_like(text, dtype=torch.bool))


def _count(ledger: StageLedger, cache: _ReducedCache) -> None:
    """Write down what the prefill did."""
    if 0 not in cache.prefill_rows:
        raise NotApplied("the decoder layers did not run", why="the model's forward was cut short")
    record_prefill(ledger, cache, cache.is_token)
    ledger.tokens.text = ledger.tokens.sequence - ledger.tokens.kept - ledger.tokens.separators
    if not cache.applied:
        raise NotApplied("the reduction inside the model did not run", why="its layer was not reached")
