# SPDX-License-Identifier: Apache-2.0
"""vidcomp calibrate: find the parameters that a schedule leaves to a search."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vidcomp.cli.console import Ui, data
from vidcomp.cli.notes import counted
from vidcomp.cli.options import ALL_GROUPS, path_argument, with_config, with_ui
from vidcomp.config import RunConfig

__all__ = ["calibrate"]


@with_ui
@with_config(*ALL_GROUPS)
def calibrate(
    schedule: Annotated[str, typer.Argument(help="gsearch, psigmoid:keep=0.5 or shortv", show_default=False)],
    videos: Annotated[list[Path], path_argument("video files")],
    question: Annotated[
        list[str] | None, typer.Option("--question", help="ask this about each; may be repeated", show_default=False)
    ] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="preset file to write")] = Path("preset.json"),
    allowed: Annotated[float, typer.Option("--allowed", help="gsearch: largest harm in nats", min=0)] = 0.01,
    *,
    config: RunConfig,
    ui: Ui,
) -> None:
    """Search a schedule's parameters on your own videos, without labels, and write them to a preset file."""
    from vidcomp.cli.session import check_names, open_model
    from vidcomp.schedules import SCHEDULES

    name, parameters = SCHEDULES.parse(schedule)
    questions = question or ["describe the video."]
    for text in questions:
        check_names(config, text)
    with open_model(config, ui, videos[0]) as lm:
        from vidcomp.bench.calibrate import calibrate as search
        from vidcomp.bench.calibrate import samples_of
        from vidcomp.schedules.blocks.presets import write_preset

        samples = samples_of(lm, videos, questions)
        step = ui.note if ui.verbose else lambda text: None
        found = search(lm, samples, name, allowed=allowed, on_step=step, **parameters)
    facts = {"model": config.model.model, "samples": len(samples), "harm_nats": round(found.harm, 6)}
    write_preset(output, found.schedule, **found.entries, **facts)
    fixed = ",".join(f"{key}={value}" for key, value in {**parameters, "file": output}.items())
    option = f"--inner {name}:{fixed}"
    if ui.json:
        data({"schema": 1, "schedule": name, **found.entries, **facts, "tried": found.tried, "option": option})
        return
    ui.note(f"{found.tried} settings tried on {counted(len(samples), 'question')}; harm {found.harm:.4f} nats")
    data(option)
