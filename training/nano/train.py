# SPDX-License-Identifier: Apache-2.0
"""Command line of the recipe: ``python -m training.nano.train --stage all --state DIR``."""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import torch

from training.nano.frame_encoder_training import train_encoder
from training.nano.join import train_join
from training.nano.joint import load_model, train_stage
from training.nano.language import WORLDS, train_language
from training.nano.progress import RunSettings
from training.nano.salience import train_salience
from training.nano.tower import train_tower

Stage = Callable[..., None]

_STARTS = {"salience": "joint", "robust": "robust"}  # stage to the state that it goes on from
_FRESH_UPDATES = 100_000  # where a model from a checkpoint goes on in the training seeds: at ones it has not seen


def export(run: RunSettings, seconds: float | None = None, out: Path | None = None) -> None:
    """Write the checkpoint folder of the latest full model (takes no time budget)."""
    from training.nano.export import export_checkpoint

    name = next(n for n in ("robust", "salience", "joint", "join") if (run.state / f"{n}.pt").exists())
    folder = out or run.state / "checkpoint"
    export_checkpoint(load_model(replace(run, device="cpu"), name), folder)
    run.log("export", source=name, folder=folder.name)


def start_from(run: RunSettings, stage: str, checkpoint: Path) -> None:
    """Let a stage go on from an exported checkpoint: writes the state that it starts from, unless it is there.

    Raises:
        ValueError: another stage.
    """
    from training.nano.export import load_exported

    if stage not in _STARTS:
        raise ValueError(f"only {', '.join(_STARTS)} can go on from a checkpoint, not {stage}")
    if not (run.state / f"{_STARTS[stage]}.pt").exists():
        weights = load_exported(checkpoint).state_dict()
        run.save(_STARTS[stage], {"model": weights, "updates": _FRESH_UPDATES, "centered": True})
        run.log(stage, source=checkpoint.name)


STAGES: dict[str, Stage] = {
    "tower": train_tower,
    "lm": train_language,
    "join": train_join,
    "joint": partial(train_stage, name="joint"),
    "salience": train_salience,
    "robust": partial(train_stage, name="robust"),
    "encoder": train_encoder,
    "export": export,
}
"""In the order in which `--stage all` runs them."""


def main(arguments: list[str] | None = None) -> None:
    """Run one stage or all of them."""
    parser = _parser()
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if options.device == "cpu":
        torch.set_num_threads(1)
    cv2.setNumThreads(1)
    run = RunSettings(options.state, options.device, options.smoke, workers=options.workers, world=options.world)
    run = replace(run, loaders=_loaders(options))
    if options.from_checkpoint is not None:
        try:
            start_from(run, options.stage, options.from_checkpoint)
        except ValueError as error:
            parser.error(str(error))
    given = {} if options.seconds is None else {"seconds": options.seconds}
    if options.stage == "all":
        run_all(run, given)
    elif options.stage == "export":
        export(run, out=options.out)
    else:
        STAGES[options.stage](run, **given)


def _loaders(options: argparse.Namespace) -> int:
    """Processes that make data: as asked for, or all cores but one beside a GPU."""
    if options.loaders is not None:
        return int(options.loaders)
    return 0 if options.device == "cpu" else max(1, (os.cpu_count() or 2) - 1)


def run_all(run: RunSettings, given: dict[str, float]) -> None:
    """Every stage that has not been finished in this state folder, in order."""
    for name, stage in STAGES.items():
        done = run.state / f"{name}.done"
        if not done.exists():
            stage(run, **given)
            done.touch()


def _parser() -> argparse.ArgumentParser:
    """Options of the command."""
    parser = argparse.ArgumentParser(prog="python -m training.nano.train", description=__doc__)
    parser.add_argument("--stage", choices=[*STAGES, "all"], default="all", help="what to run (default: all)")
    parser.add_argument("--state", type=Path, required=True, help="folder for saved states and the log")
    parser.add_argument(
        "--from-checkpoint",
        type=Path,
        help="checkpoint folder that --stage salience or robust goes on from",
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--seconds", type=float, help="wall-clock seconds per stage (default: as in the recipe)")
    parser.add_argument("--workers", type=int, default=1, help="processes for the stages joint and robust (default: 1)")
    parser.add_argument("--world", choices=list(WORLDS), default="small", help="what is in the videos (default: small)")
    parser.add_argument("--loaders", type=int, help="processes that make data ahead (default: 0; with cuda, all cores)")
    parser.add_argument("--smoke", action="store_true", help="a few optimiser steps per stage, to see that it runs")
    parser.add_argument("--out", type=Path, help="folder for --stage export (default: STATE/checkpoint)")
    return parser


if __name__ == "__main__":
    main()
