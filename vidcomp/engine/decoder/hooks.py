# SPDX-License-Identifier: Apache-2.0
"""Stateless hooks on stock decoder layers. They act only when the forward runs on a CompressedCache."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle

from vidcomp.core.library import CACHE, SUPPORTED
from vidcomp.engine.decoder.cache import CompressedCache
from vidcomp.engine.decoder.proof import prove
from vidcomp.errors import ModelError, UsageError
from vidcomp.schedules.blocks.scoring import AttentionInput, moved

__all__ = ["SUPPORTED_ATTENTION", "Attachment", "check_decoder"]

SUPPORTED_ATTENTION = ("sdpa", "eager", "flash_attention_2", "flash_attention_3")


class Attachment:
    """Installs the hooks on a model's decoder; ``remove`` (or the end of a ``with`` block) leaves no trace.

    The hooks hold no state: threads that generate with caches of their own do not disturb each other. One row is sent
    through the decoder to prove that every hook is reached.

    Raises:
        ModelError: the decoder is not shaped as the hooks expect, or its attention kernel cannot be cut.
        NotApplied: some hook is not reached.
        UsageError: the model has the hooks already; a second set would reduce twice.
    """

    def __init__(self, model: Any) -> None:
        check_decoder(model)
        check_free(model)
        self._handles: list[RemovableHandle] = []
        decoder = model.get_decoder()
        for index, layer in enumerate(decoder.layers):
            hook, attention = _LayerHook(index, getattr(decoder, "rotary_emb", None)), layer.self_attn
            self._handles.append(layer.register_forward_pre_hook(hook.before_layer, with_kwargs=True))
            self._handles.append(layer.register_forward_hook(hook.after_layer, with_kwargs=True, prepend=True))
            self._handles.append(attention.register_forward_pre_hook(hook.before_attention, with_kwargs=True))
            self._handles.append(attention.register_forward_hook(hook.after_attention, with_kwargs=True))
        try:
            prove(model)
        except Exception:
            self.remove()
            raise

    def remove(self) -> None:
        """Take all hooks off; a second call does nothing."""
        while self._handles:
            self._handles.pop().remove()

    def __enter__(self) -> Attachment:
        return self

    def __exit__(self, *exc: object) -> None:
        self.remove()


class _LayerHook:
    def __init__(self, index: int, rotary: Any) -> None:
        self.index, self.rotary = index, rotary

    def before_layer(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        cache = kwargs.get(CACHE)
        if not isinstance(cache, CompressedCache):
            return None
        hidden = moved(args[0] if args else kwargs.pop("hidden_states"), module)
        if self.index == 0:
            cache.start_forward(hidden, kwargs.get("position_ids"), self.rotary)
        hidden, mask, tables = cache.before_layer(
            self.index, module, hidden, kwargs["attention_mask"], kwargs["position_embeddings"]
        )
        # Layers hand position_ids to flash attention only, whose packed-sequence guess trips over gaps.
        kwargs.update(attention_mask=mask, position_embeddings=tables, position_ids=None)
        return (hidden, *args[1:]), kwargs

    def after_layer(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        cache = kwargs.get(CACHE)
        if not isinstance(cache, CompressedCache):
            return None
        if isinstance(output, tuple):
            return (cache.after_layer(self.index, output[0]), *output[1:])
        return cache.after_layer(self.index, output)

    def before_attention(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        cache = kwargs.get(CACHE)
        if isinstance(cache, CompressedCache) and cache.watches(self.index):
            hidden = args[0] if args else kwargs["hidden_states"]
            cache.note_input(self.index, AttentionInput(module, hidden, *kwargs["position_embeddings"]))

    def after_attention(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        cache = kwargs.get(CACHE)
        if isinstance(cache, CompressedCache) and cache.balance is not None:
            cache.note_balance(self.index)


def check_free(model: Any) -> None:
    """Raise UsageError when the hooks are on this model."""
    hooks = model.get_decoder().layers[0]._forward_pre_hooks.values()
    if any(isinstance(getattr(hook, "__self__", None), _LayerHook) for hook in hooks):
        raise UsageError(
            "this model is being compressed already",
            why="a VideoLM or another compress() block holds it",
            hint="close that one first; threads share one block",
            code="attached",
        )


def check_decoder(model: Any) -> None:
    """Make sure that the conventions which the hooks rely on hold for this model.

    Raises:
        ModelError: they do not.
    """
    text = model.config.get_text_config()
    kernel = text._attn_implementation
    if kernel not in SUPPORTED_ATTENTION:
        raise ModelError(
            f"attention kernel {kernel}", why=f"supported: {', '.join(SUPPORTED_ATTENTION)}", hint="--attn sdpa"
        )
    kinds = set(getattr(text, "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"}:
        raise ModelError(
            f"decoder with layers of kind {', '.join(sorted(kinds))}", why="rows can only leave full-attention layers"
        )
    layer = model.get_decoder().layers[0]
    if not hasattr(getattr(layer, "self_attn", None), "q_proj"):
        raise ModelError(
            f"unexpected decoder layer {type(layer).__name__}",
            why="its attention has no projections of its own",
            hint=f"vidcomp supports transformers {SUPPORTED}",
        )
