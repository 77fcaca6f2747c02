"""Opening a model for a command: arguments first, then the file, then the weights."""

from __future__ import annotations

import os
from pathlib import Path

from vidcomp.border import check_question
from vidcomp.cli.console import Ui
from vidcomp.cli.notes import model_notes
from vidcomp.config import RunConfig, parse_spec
from vidcomp.inllm import get_schedule
from vidcomp.intower import get_merger
from vidcomp.methods import method_of
from vidcomp.models import random_family
from vidcomp.pipeline import VideoLM, load_config
from vidcomp.video.files import open_video
from vidcomp.video.options import readers_of
from vidcomp.video.reader import require_readers

__all__ = ["check_request", "open_model"]


def open_model(
    config: RunConfig, ui: Ui, video: Path | None = None, question: str | None = None, arch: str | None = None
) -> VideoLM:
    """Load the model after everything that can be checked without it has been checked."""
    check_request(config, question)
    if video is not None:
        os.close(open_video(video))
    if arch is not None:
        ui.note(f"note: {arch} has random weights: its times are real, its answers mean nothing")
        return VideoLM(random_family(arch, config.model), config)
    if ui.quiet:
        from huggingface_hub.utils.tqdm import disable_progress_bars

        disable_progress_bars()
    for line in model_notes(config.model.model):
        ui.note(f"note: {line}")
    return load_config(config)


def check_request(config: RunConfig, question: str | None) -> None:
    """Fail on a wrong method, inner schedule, merger, reader or question before any weight is read."""
    if question is not None:
        check_question(question)
    if (readers := readers_of(config.video)) is not None:
        require_readers(readers)
    method_of(config.outer.method)
    name, parameters = parse_spec(config.outer.inner)
    if name not in ("auto", "none") or parameters:
        get_schedule(name, **parameters)
    name, parameters = parse_spec(config.outer.encoder)
    if name != "none" or parameters:
        get_merger(name, **parameters)
