# SPDX-License-Identifier: Apache-2.0
"""Every setting of a run: named, defaulted, ranged and explained once.

One frozen dataclass per stage, nested into :class:`RunConfig`. The command line builds its options from these fields,
the JSON record writes them, and the Python API takes the same names. Importing this module must stay free of torch.
"""

from __future__ import annotations

import numbers
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from vidcomp.core.arguments import suggest
from vidcomp.core.options import Checked, check_limit, option, option_of
from vidcomp.errors import UsageError

# Arguments of calls that take settings beside them: a misspelt one lands among the settings.
_BESIDE = ("on_text", "stop", "balance", "history", "question", "signals", "video")

__all__ = [
    "GenerateConfig",
    "ModelConfig",
    "OuterConfig",
    "RunConfig",
    "SpanConfig",
    "VideoConfig",
    "newer_budget",
    "parse_seconds",
    "settings_that_do_not_shape",
]


def parse_seconds(flag: str, text: str | float) -> float:
    """Seconds from ``90``, ``1:30`` or ``00:01:30.5``.

    Raises:
        UsageError: it is no such time, naming ``flag``.
    """
    parts = str(text).strip().split(":")
    try:
        values = [float(part) for part in parts]
    except ValueError:
        values = []
    seconds: float = sum(value * 60.0**place for place, value in enumerate(reversed(values)))
    good = 1 <= len(values) <= 3 and all(0 <= value for value in values) and all(value < 60 for value in values[1:])
    if not good or not seconds < float("inf"):
        raise UsageError(f"{flag} {text}", why="it must be seconds, mm:ss or hh:mm:ss", code="bad_option")
    return seconds


@dataclass(frozen=True)
class VideoConfig(Checked):
    """The frames that are read."""

    frames: int | None = option(
        None,
        "--frames",
        "frames to sample, evenly over time, first and last included (default: what the model was made for)",
        low=1,
        high=4096,
    )
    fps: float | None = option(
        None, "--fps", "sample this many frames per second instead of a fixed number", above=0, high=1000
    )
    max_frames: int = option(512, "--max-frames", "upper limit for --fps and --sample", low=1, high=4096)
    sample: str | None = option(
        None,
        "--sample",
        "which frames: uniform in time, fps, keyframes of the file, from every scene, or as the model's own processor "
        "(default: uniform, or fps with --fps)",
        choices=("uniform", "fps", "keyframes", "scene", "model"),
    )
    start: str | None = option(None, "--start", "leave out what comes before: seconds, or hh:mm:ss")
    end: str | None = option(None, "--end", "leave out what comes after: seconds, or hh:mm:ss")
    seek: str = option(
        "exact",
        "--seek",
        "fast may take a frame up to a quarter of the sampling step away that costs less to decode",
        choices=("exact", "fast"),
    )
    reader: str = option(
        "auto",
        "--reader",
        "what decodes: auto takes pyav, then decord or opencv where that fails, or name one of them",
        choices=("auto", "pyav", "decord", "opencv"),
    )
    deadline: float = option(
        30.0,
        "--deadline",
        "seconds that a reader may take, plus one per minute of video",
        above=0,
        high=86400,
        shapes=False,
    )
    strict: bool = option(
        False, "--strict", "fail when only part of the video is sound; look longer for damage", shapes=False
    )

    def __post_init__(self) -> None:
        for name in ("start", "end"):
            value: Any = getattr(self, name)
            if isinstance(value, numbers.Real) and not isinstance(value, bool):
                object.__setattr__(self, name, str(value))
        super().__post_init__()
        if self.frames is not None and self.fps is not None:
            raise UsageError("--frames together with --fps", why="each one alone decides how many frames are read",
                             hint="give one of them", code="bad_option")  # fmt: skip
        if self.sample is not None and self.sample != "fps" and self.fps is not None:
            raise UsageError(f"--fps together with --sample {self.sample}", why="that rule does not go by rate",
                             hint="--sample fps, or leave --fps out", code="bad_option")  # fmt: skip
        if self.sample == "fps" and self.frames is not None:
            raise UsageError("--frames together with --sample fps", why="that rule goes by rate",
                             hint="--max-frames limits it", code="bad_option")  # fmt: skip
        start, end = self.window
        if end is not None and end <= start:
            raise UsageError(f"--end {self.end} is not after --start {self.start or 0}", code="bad_option")

    @property
    def window(self) -> tuple[float, float | None]:
        """``start`` and ``end`` in seconds."""
        end = None if self.end is None else parse_seconds("--end", self.end)
        return parse_seconds("--start", self.start or 0), end


@dataclass(frozen=True)
class SpanConfig(Checked):
    """Spans of frames that look alike, and frames that need no rows of their own in the vision tower."""

    segmenter: str = option(
        "tower", "--segmenter",
        "who finds the spans that methods work in: the method itself on the features of the vision tower, a network "
        "that looks at the frames, or their brightness",
        choices=("tower", "dinov2", "clip", "luma"),
    )  # fmt: skip
    segmenter_model: str | None = option(
        None, "--segmenter-model", "checkpoint for dinov2 or clip: a hub id, a folder, or 'embedded'"
    )
    span_rule: str = option(
        "auto",
        "--span-rule",
        "where a span of such a segmenter ends: where that lets most regions stay as they are through a whole span "
        "(gain), where the picture as a whole becomes another one (fall), or as the method's own spans do (auto)",
        choices=("auto", "gain", "fall"),
    )
    same_span: float | None = option(
        None, "--same-span", "similarity from which a region stays as it is (gain), or a picture is the same one "
        "(fall; default: by segmenter)", low=-1, high=1,
    )  # fmt: skip
    skip_repeats: str | None = option(
        None,
        "--skip-repeats",
        "a frame that looks like the last encoded one takes its rows instead of being encoded: off, auto, or the "
        "similarity (-1 to 1) of their least similar regions from which it does (default: off)",
    )
    same_frame: float | None = option(
        None, "--same-frame", "earlier name of --skip-repeats, beside a segmenter that looks at frames", low=-1, high=1
    )
    reuse: str = option(
        "off",
        "--reuse",
        "patches that look as they did keep their row of the vision tower: off, auto, or the share of full brightness "
        "(0 to 1) by which a part of a patch may differ; 0 shares equal pictures only",
    )

    def __post_init__(self) -> None:
        for name in ("reuse", "skip_repeats"):
            value: Any = getattr(self, name)
            if isinstance(value, numbers.Real) and not isinstance(value, bool):
                object.__setattr__(self, name, str(value))
        super().__post_init__()
        check_limit("--reuse", self.reuse, 0)
        if self.skip_repeats is not None:
            check_limit("--skip-repeats", self.skip_repeats, -1)
            if self.same_frame is not None:
                raise UsageError("--skip-repeats together with --same-frame", why="they are two names of one limit",
                                 hint="--skip-repeats alone", code="bad_option")  # fmt: skip

    @property
    def looks(self) -> bool:
        """True if the segmenter looks at the frames themselves."""
        return self.segmenter != "tower"

    @property
    def repeats(self) -> str:
        """``off``, ``auto`` or a limit: whether repeated frames are encoded."""
        if self.skip_repeats is not None:
            return self.skip_repeats
        return "off" if self.same_frame is None or not self.looks else str(self.same_frame)

    @property
    def moved(self) -> tuple[str, ...]:
        """Lines about options that meant something else in the release before."""
        if self.same_frame is not None:
            return (f"--same-frame {self.same_frame:g} is now --skip-repeats {self.same_frame:g}",)
        if self.looks and self.skip_repeats is None:
            return (
                f"--segmenter {self.segmenter} now decides the spans; frames that repeat are left out with "
                "--skip-repeats auto (--skip-repeats off: encode all, without this line)",
            )
        return ()


@dataclass(frozen=True)
class ModelConfig(Checked):
    """The checkpoint that answers, and where it runs."""

    model: str = option("nano", "--model", "nano (embedded), a Hugging Face hub id, or a folder")
    revision: str | None = option(None, "--revision", "branch, tag or commit of a hub model (default: main)")
    device: str = option(
        "auto", "--device", "where the model runs; cuda:1 is the second GPU",
        choices=("auto", "cpu", "cuda", "mps"), numbered="cuda", shapes=False,
    )  # fmt: skip
    device_map: str | None = option(
        None, "--device-map", "spread the layers over several devices (needs accelerate)",
        choices=("auto", "balanced", "sequential"), shapes=False,
    )  # fmt: skip
    dtype: str = option(
        "auto", "--dtype", "number format of the weights", choices=("auto", "float32", "bfloat16", "float16")
    )
    quantize: str = option(
        "none",
        "--quantize",
        "8- or 4-bit weights (needs bitsandbytes and accelerate), or a vision tower that computes in 8 bits on a CPU",
        choices=("none", "8bit", "4bit", "int8-tower"),
    )
    attn: str = option(
        "sdpa", "--attn", "attention kernel", choices=("sdpa", "eager", "flash_attention_2"), shapes=False
    )
    offline: bool = option(False, "--offline", "never touch the network, use cached weights only", shapes=False)

    def __post_init__(self) -> None:
        if isinstance(self.model, os.PathLike):
            object.__setattr__(self, "model", os.fspath(self.model))
        super().__post_init__()
        if self.device_map is not None and self.device != "auto":
            raise UsageError("--device-map together with --device", why="a map decides about every layer",
                             hint="give one of them", code="bad_option")  # fmt: skip
        if self.quantize == "int8-tower" and (self.dtype not in ("auto", "float32") or self.device_map is not None):
            other = "--device-map" if self.device_map is not None else f"--dtype {self.dtype}"
            raise UsageError(f"--quantize int8-tower together with {other}", code="bad_option",
                             why="its kernels read and write float32 on one CPU", hint="give one of them")  # fmt: skip


@dataclass(frozen=True)
class OuterConfig(Checked):
    """Merging and dropping before and inside the language model."""

    method: str = option(
        "holitom",
        "--method",
        "how tokens are reduced, with parameters: holitom:tau=0.8; help lists the names",
        listing="outer",
    )
    keep: float = option(
        0.1,
        "--keep",
        "share of the visual tokens that enters the language model; 1 is the plain model",
        above=0,
        high=1,
    )
    keep_tokens: int | None = option(
        None,
        "--keep-tokens",
        "number of visual tokens that enters the language model, met exactly, instead of a share",
        low=1,
    )
    inner: str = option(
        "auto",
        "--inner",
        "reduction inside the language model: auto (the method's own), none, fastv:k=2,keep=0.5; or help",
        listing="inner",
    )
    encoder: str = option(
        "none",
        "--encoder",
        "merging inside the vision tower: none, tome:r=16, earlytom:tau=0.6; or help",
        listing="encoder",
    )
    positions: str = option(
        "auto",
        "--positions",
        "position ids of survivors: renumbered, those of the full video, those of several members (ppe), or as the "
        "model prefers",
        choices=("auto", "compact", "keep", "ppe"),
    )

    @property
    def whole(self) -> bool:
        """True for the plain model: no method runs, and ``inner="auto"`` means no reduction inside either."""
        return self.keep >= 1

    def settled(self, total: int) -> OuterConfig:
        """The same for a video of ``total`` tokens, whose ``keep`` is the share that ``keep_tokens`` asks for."""
        return self if self.keep_tokens is None else replace(self, keep=min(1.0, self.keep_tokens / total))


@dataclass(frozen=True)
class GenerateConfig(Checked):
    """Writing the answer."""

    max_new_tokens: int = option(256, "--max-new-tokens", "longest answer, in tokens", low=1, high=32768)
    temperature: float | None = option(
        None,
        "--temperature",
        "0 takes the likeliest token, more samples (default: what the checkpoint asks for)",
        low=0,
        high=10,
    )
    top_p: float | None = option(
        None,
        "--top-p",
        "sample from the likeliest tokens that sum to this (default: what the checkpoint asks for)",
        above=0,
        high=1,
    )
    seed: int = option(0, "--seed", "seed of everything random", low=0, high=2**32 - 1)


@dataclass(frozen=True)
class RunConfig:
    """All settings of one run.

    Attributes:
        video: which frames are read, and how.
        spans: repeated pictures before the vision tower.
        model: the checkpoint, and where and in which numbers it runs.
        outer: what is kept of the visual tokens, by which method.
        generate: how the answer is written.
    """

    video: VideoConfig = VideoConfig()
    spans: SpanConfig = SpanConfig()
    model: ModelConfig = ModelConfig()
    outer: OuterConfig = OuterConfig()
    generate: GenerateConfig = GenerateConfig()

    @classmethod
    def from_flat(cls, **values: Any) -> RunConfig:
        """Build from field names of any stage, such as ``keep=0.2, frames=16``.

        Raises:
            UsageError: unknown name, a value outside its range, or two values that exclude each other.
        """
        _check_one_budget(values)
        parts: dict[str, Any] = {}
        for group in fields(cls):
            kind: Any = type(group.default)
            names = {item.name for item in fields(kind)}
            parts[group.name] = kind(**{name: values.pop(name) for name in list(values) if name in names})
        if values:
            wrong, known = sorted(values)[0], list(cls().flat())
            raise UsageError(
                f"unknown setting {wrong!r}", why="no stage has a field of that name",
                hint=suggest(wrong, [*known, *_BESIDE], f"there are {', '.join(known)}"), code="bad_option",
            )  # fmt: skip
        return cls(**parts)

    def replace(self, **values: Any) -> RunConfig:
        """A copy with some fields changed, named as in :meth:`from_flat`."""
        _check_one_budget(values)
        return RunConfig.from_flat(**newer_budget(self.flat(), values))

    def flat(self) -> dict[str, Any]:
        """All settings as one dictionary, for records; of the two budgets only the one in force."""
        found = {item.name: getattr(part, item.name) for part in self.parts() for item in fields(part)}
        if self.outer.keep_tokens is not None:
            del found["keep"]
        return found

    def parts(self) -> tuple[Any, ...]:
        """The stage configs, in the order of the flow."""
        return tuple(getattr(self, group.name) for group in fields(self))


def settings_that_do_not_shape() -> frozenset[str]:
    """Settings that tell where and how long a run works, not what it answers."""
    return frozenset(item.name for part in RunConfig().parts() for item in fields(part) if not option_of(item).shapes)


def _check_one_budget(values: Mapping[str, Any]) -> None:
    """Raise UsageError when both a share and a number of tokens are given."""
    if "keep" in values and values.get("keep_tokens") is not None:
        raise UsageError("--keep-tokens together with --keep", why="each one alone decides how many tokens are kept",
                         hint="give one of them", code="bad_option")  # fmt: skip


def newer_budget(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Settings ``old`` changed by ``new``, in which a share replaces a number of tokens and the other way round."""
    replaced = {"keep": "keep_tokens", "keep_tokens": "keep"}
    gone = {replaced[name] for name in replaced if new.get(name) is not None}
    return {**{name: value for name, value in old.items() if name not in gone}, **new}
