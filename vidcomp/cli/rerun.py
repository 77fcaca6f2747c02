# SPDX-License-Identifier: Apache-2.0
"""vidcomp rerun: repeat a result from its record."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vidcomp.cli.console import Ui, data, out_console
from vidcomp.cli.options import path_argument, with_ui
from vidcomp.errors import InputError, UsageError
from vidcomp.video.names import display_name, path_from_record

if TYPE_CHECKING:
    from vidcomp.report.rerun import Difference

__all__ = ["DIFFERS", "rerun"]

DIFFERS = 5
"""Exit status of a repeated result that is not the recorded one."""


@with_ui
def rerun(
    result: Annotated[
        Path, path_argument("what ask --json or report --json wrote (- for stdin), or a results file of caption")
    ],
    line: Annotated[int | None, typer.Option("--line", help="which record of a results file, from 1 on", min=1)] = None,
    video: Annotated[Path | None, typer.Option("--video", help="where the video is now", readable=False)] = None,
    device: Annotated[str | None, typer.Option("--device", help="where the model runs now")] = None,
    *,
    ui: Ui,
) -> None:
    """Repeat a result from its record, and say what differs. The status is 5 when answer or tokens do."""
    from vidcomp.cli.session import open_model
    from vidcomp.report.rerun import differences, settings_of

    record, shared = _record(result, line)
    config = settings_of(record, shared)
    if device is not None:
        config = config.replace(device=device)
    path, question = video or _video_of(record), str(record["question"])
    with open_model(config, ui, path, question) as lm:
        now = lm.ask(path, question).to_dict()
    found = differences(record, now)
    same = all(difference.kind != "result" for difference in found)
    if ui.json:
        data({"schema": 1, "same": same, "differences": [one.to_dict() for one in found], "recorded": record,
              "now": now})  # fmt: skip
    else:
        _print(now, found, same)
    if not same:
        raise typer.Exit(DIFFERS)


def _record(file: Path, line: int | None) -> tuple[Mapping[str, Any], Mapping[str, Any] | None]:
    """The record, and the settings that it shares with others of its file."""
    single = _single(file)
    if single is not None:
        return _answered(single, file), None
    from vidcomp.batch.results import read_results

    found = list(read_results(file))
    if not found:
        raise InputError(f"nothing to repeat in {display_name(file)}", why="it holds no record", code="not_results")
    if line is None and len(found) != 1:
        raise UsageError(
            f"{display_name(file)} holds {len(found)} records", hint="name one: --line 1", code="bad_option"
        )
    if line is not None and line > len(found):
        raise UsageError(f"--line {line}", why=f"there are {len(found)} records", code="bad_option")
    chosen = found[(line or 1) - 1]
    return _answered(chosen.record, file), chosen.settings


def _single(file: Path) -> Mapping[str, Any] | None:
    """The one JSON object of a file that is no results file."""
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8") if file.is_file() else ""
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is no text"
        raise InputError(f"cannot read {display_name(file)}", why=why, code="unreadable") from error
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) and "job" not in found and "run" not in found else None


def _answered(record: Mapping[str, Any], file: Path) -> Mapping[str, Any]:
    """A record with an answer about one video."""
    if record.get("status") == "failed" or not {"question", "video"} <= set(record):
        why = "it failed" if record.get("status") == "failed" else "it holds no question and no video"
        raise InputError(f"nothing to repeat in {display_name(file)}", why=why, code="not_results")
    return record


def _video_of(record: Mapping[str, Any]) -> Path:
    path = path_from_record(str(record["video"]["path"]))
    if not path.exists():
        raise InputError(f"{display_name(path)} is not there any more", hint="say where it is now: --video FILE",
                         code="not_found")  # fmt: skip
    return path


def _print(now: Mapping[str, Any], found: list[Difference], same: bool) -> None:
    console = out_console()
    console.print(f"{now['question']}  ->  {now['answer']}", markup=False)
    for one in found:
        console.print(f"{one.kind}: {one.field} was {_short(one.recorded)}, is {_short(one.now)}", markup=False)
    verdict = "the same answer from as many tokens" if same else "this is not the recorded result"
    console.print(verdict + ("" if found else "; nothing differs"), markup=False)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 100 else f"{text[:99]}…"
