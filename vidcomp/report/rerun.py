# SPDX-License-Identifier: Apache-2.0
"""Repeating a result from its record, and saying what differs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from vidcomp.config import RunConfig
from vidcomp.errors import InputError

__all__ = ["Difference", "differences", "settings_of"]

_RESULT = ("answer", "finish", "tokens.uncompressed", "tokens.kept", "tokens.after_llm_layer", "tokens.sequence")
_INPUT = (
    "video.duration_seconds", "video.frames_total", "video.width", "video.height", "video.codec",
    "frames.indices", "frames.times", "frames.encoded",
)  # fmt: skip
_SETTING = ("question", "model", "method", "inner", "encoder", "keep.requested", "seed")


@dataclass(frozen=True)
class Difference:
    """One field in which a repeated result is not the recorded one.

    Attributes:
        field: its name in the record, with points between levels.
        kind: ``result``, ``input`` (the file, or how it is read), ``setting`` or ``version``.
        recorded, now: the two values.
    """

    field: str
    kind: str
    recorded: Any
    now: Any

    def to_dict(self) -> dict[str, Any]:
        """An entry of ``differences`` in ``rerun --json``."""
        return {"field": self.field, "kind": self.kind, "recorded": self.recorded, "now": self.now}


def settings_of(record: Mapping[str, Any], shared: Mapping[str, Any] | None = None) -> RunConfig:
    """Settings of a recorded run.

    Args:
        record: of ``ask --json``, ``report --json``, or a line of a results file.
        shared: settings that lines of a results file have in common; they may name the prompt as well.

    Raises:
        InputError: the record has none. UsageError: one of them is unknown to this version, or out of its range.
    """
    settings = {**(record.get("settings") or shared or {})}
    if not settings:
        raise InputError("this record does not say its settings", why="it was written before records held them",
                         hint="ask again: vidcomp ask VIDEO QUESTION --json", code="not_results")  # fmt: skip
    if settings.get("windows"):
        raise InputError("this record is of a film in windows", why="rerun repeats one answer about a whole video",
                         hint="vidcomp caption VIDEO --every scene", code="not_results")  # fmt: skip
    settings.pop("prompt", None)  # of schema 1
    return RunConfig.from_flat(**settings)


def differences(recorded: Mapping[str, Any], now: Mapping[str, Any]) -> list[Difference]:
    """Fields in which two records are not equal; those of times and places are not compared."""
    kinds = {**dict.fromkeys(_RESULT, "result"), **dict.fromkeys(_INPUT, "input"), **dict.fromkeys(_SETTING, "setting")}
    versions = sorted({*recorded.get("versions", {}), *now.get("versions", {})})
    kinds |= dict.fromkeys((f"versions.{name}" for name in versions), "version")
    return list(_compared(_with_answer(recorded), _with_answer(now), kinds))


def _compared(recorded: Mapping[str, Any], now: Mapping[str, Any], kinds: Mapping[str, str]) -> Iterator[Difference]:
    for name, kind in kinds.items():
        before, after = _at(recorded, name), _at(now, name)
        if before != after:
            yield Difference(name, kind, before, after)


def _with_answer(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """Captions under the name that answers have."""
    return {**record, "answer": record["caption"]} if "caption" in record else record


def _at(record: Mapping[str, Any], name: str) -> Any:
    value: Any = record
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value
