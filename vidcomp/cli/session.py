# SPDX-License-Identifier: Apache-2.0
"""Opening a model for a command: arguments first, then the file, then the weights."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from vidcomp.cli.console import Ui
from vidcomp.cli.notes import format_notes, model_notes
from vidcomp.config import ModelConfig, RunConfig
from vidcomp.core.arguments import check_question
from vidcomp.video.files import open_video, refuse_text
from vidcomp.video.names import display_name
from vidcomp.video.options import readers_of

if TYPE_CHECKING:
    from vidcomp.engine.run import VideoLM
    from vidcomp.families import Family

__all__ = ["check_file", "check_names", "check_request", "keep_model", "open_model"]

_kept: list[tuple[ModelConfig, Family]] = []  # at most one; see keep_model


def open_model(
    config: RunConfig, ui: Ui, video: Path | None = None, question: str | None = None, arch: str | None = None
) -> VideoLM:
    """Load the model after everything that can be checked without it has been checked."""
    check_names(config, question)
    if video is not None:
        check_file(video)
    check_request(config, question)
    _tame_libraries(ui)
    for line in config.spans.moved:
        ui.note(f"note: {line}")
    from vidcomp.engine.run import VideoLM

    if arch is not None:
        from vidcomp.families import random_family

        lm = VideoLM(random_family(arch, config.model), config)
        ui.note(f"note: {arch} has random weights: its times are real, its answers mean nothing")
    else:
        for line in model_notes(config.model.model):
            ui.note(f"note: {line}")
        lm = _loaded(config)
        for line in format_notes(config.model.dtype, lm.family):
            ui.note(f"note: {line}")
    if ui.verbose:
        for line in _settings(lm):
            ui.note(line)
    return lm


def keep_model(config: ModelConfig, family: Family) -> None:
    """From now on commands of this process with these settings take this model instead of loading one."""
    _kept[:] = [(config, family)]


def _loaded(config: RunConfig) -> VideoLM:
    from vidcomp.engine.run import VideoLM, load_config

    for kept, family in _kept:
        if replace(config.model, offline=kept.offline) == kept:
            return VideoLM(family, config)
    return load_config(config)


def check_names(config: RunConfig, question: str | None) -> None:
    """Fail on a wrong question, or a wrong name of a method, inner schedule or merger, before a library is loaded."""
    if question is not None:
        check_question(question)
    from vidcomp.methods import METHODS
    from vidcomp.schedules import SCHEDULES
    from vidcomp.tower import MERGERS

    METHODS.parse(config.outer.method)
    SCHEDULES.parse(config.outer.inner)
    MERGERS.parse(config.outer.encoder)


def check_file(video: Path) -> None:
    """Fail on a file that is none, or text, before a library is loaded."""
    descriptor = open_video(video)
    try:
        refuse_text(descriptor, display_name(video))
    finally:
        os.close(descriptor)


def check_request(config: RunConfig, question: str | None) -> None:
    """Fail on a wrong method, inner schedule, merger, reader or question before any weight is read."""
    check_names(config, question)
    from vidcomp.methods import METHODS
    from vidcomp.schedules import SCHEDULES
    from vidcomp.tower import MERGERS
    from vidcomp.video.readers.base import require_readers

    if (readers := readers_of(config.video)) is not None:
        require_readers(readers)
    METHODS.build(config.outer.method)
    SCHEDULES.build(config.outer.inner)
    MERGERS.build(config.outer.encoder)


def _tame_libraries(ui: Ui) -> None:
    """The libraries below speak through handlers of their own, at levels of their own."""
    from huggingface_hub.utils import logging as of_hub
    from huggingface_hub.utils.tqdm import disable_progress_bars
    from transformers.utils import logging as of_transformers

    for library in (of_hub, of_transformers):
        library.disable_propagation()  # or the root logger says everything again
        if not (ui.verbose or ui.debug):
            library.set_verbosity_error()
    if ui.quiet:
        disable_progress_bars()
        of_transformers.disable_progress_bar()  # type: ignore[no-untyped-call]


def _settings(lm: VideoLM) -> Iterator[str]:
    """Settings of a run, a line per subject."""
    from vidcomp.engine.positions import position_policy
    from vidcomp.result import versions

    config, family = lm.config, lm.family
    dtype = str(next(family.model.parameters()).dtype).removeprefix("torch.")
    yield (
        f"model: {family.checkpoint.name} ({family.model_type}), device {family.device}, dtype {dtype}, "
        f"attention {config.model.attn}, quantize {config.model.quantize}"
    )
    outer, video, answer = config.outer, config.video, config.generate
    yield (
        f"method: {outer.method}, keep {outer.keep:g}, inner {outer.inner}, encoder {outer.encoder}, "
        f"positions {position_policy(outer.positions, family).name}"
    )
    number = f"{video.fps:g} frames a second" if video.fps else f"{video.frames or family.default_frames} frames"
    yield f"sampling: {number}, rule {video.sample or 'uniform'}, seek {video.seek}"
    spans = config.spans
    yield f"spans: segmenter {spans.segmenter}, rule {spans.span_rule}, repeats {spans.repeats}, reuse {spans.reuse}"
    given = {"temperature": answer.temperature, "top_p": answer.top_p}
    drawn = ", ".join(f"{name} {value:g}" for name, value in given.items() if value is not None)
    yield f"answer: at most {answer.max_new_tokens} tokens, {drawn or 'drawn as the model asks'}, seed {answer.seed}"
    yield f"versions: {', '.join(f'{name} {number}' for name, number in versions().items())}"
