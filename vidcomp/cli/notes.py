# SPDX-License-Identifier: Apache-2.0
"""Sentences that more than one command says."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vidcomp.families import Family
    from vidcomp.result import Answer

__all__ = ["counted", "format_notes", "model_notes", "summary"]

_NANO = (
    "nano understands only its own little world of rendered shapes (docs/nano.md); "
    "for real video name a checkpoint: --model llava-hf/llava-onevision-qwen2-7b-ov-hf"
)


def counted(number: int, noun: str) -> str:
    """A number of things in words: ``1 video``, ``2 videos``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def model_notes(model: str) -> list[str]:
    """Notes that a user of this model must know."""
    return [_NANO] if model == "nano" else []


def format_notes(asked: str, family: Family) -> list[str]:
    """Notes about a number format that nobody asked for."""
    import torch

    taken = next(family.model.parameters()).dtype
    if asked != "auto" or family.device.type != "cpu" or taken != torch.bfloat16:
        return []
    return ["in bfloat16, which this processor computes itself, as the checkpoint is stored in half precision "
            "(--dtype float32 for the wider format)"]  # fmt: skip


def summary(answer: Answer) -> str:
    """One line: how much of the video the model read, and how long it took."""
    tokens, ledger = answer.ledger.tokens, answer.ledger
    inside = f", {tokens.after_llm_layer} from layer {tokens.layer} on" if tokens.layer is not None else ""
    read = ", read before" if ledger.continues else ""
    degraded = f" [degraded: {answer.frames.degraded}]" if answer.frames.degraded else ""
    return (
        f"{tokens.kept} of {tokens.uncompressed} visual tokens ({ledger.keep_actual:.1%}){inside}{read}, "
        f"{counted(len(ledger.frame_times), 'frame')}, {ledger.seconds:.2f} s{degraded}"
    )
