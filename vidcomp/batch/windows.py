# SPDX-License-Identifier: Apache-2.0
"""The record of a film that is asked about window by window."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from vidcomp.batch.memory import fitted
from vidcomp.batch.tasks import OnWindow, Record, Task, Windows, failure
from vidcomp.batch.window_log import WindowLog, from_plan, noted
from vidcomp.engine.film import continued, read_ahead
from vidcomp.errors import VidcompError
from vidcomp.report.page.canvas import data_uri, jpeg
from vidcomp.result import versions
from vidcomp.video.options import readers_of
from vidcomp.video.windows import Window, plan_windows

if TYPE_CHECKING:
    from concurrent.futures import Future

    from vidcomp.engine.run import VideoLM
    from vidcomp.video import Frames

__all__ = ["film_record"]

log = logging.getLogger(__name__)

PICTURE_SIDE = 320  # pixels of the picture of a window
# Of an answer's record, what is the same for all windows of a film.
COMMON = ("schema", "video", "question", "model", "method", "inner", "encoder", "versions", "seed")


def film_record(lm: VideoLM, task: Task, windows: Windows, tell: OnWindow) -> Record:
    """Ask about every window of a video that is not done yet.

    Args:
        lm: the model, with all settings.
        task: the video and the question.
        windows: how it is divided.
        tell: called with the task and words about how far it is.

    Returns:
        One record with a segment per window.

    Raises:
        InputError: the file cannot be divided, or the log cannot be written.
    """
    notes = WindowLog(windows.log, windows.key) if windows.log else None
    plan = notes.plan if notes and notes.plan else _plan(lm, task, windows, tell)
    if notes and not notes.plan:
        notes.begin(plan)
    divided = [from_plan(line) for line in plan["windows"]]
    done = {number: entry for number, entry in (notes.done if notes else {}).items()
            if entry["segment"]["status"] != "failed"}  # fmt: skip
    left = [number for number in range(len(divided)) if number not in done]
    tell(task, f"{len(done)} of {len(divided)} windows")
    for number, read in zip(left, read_ahead(lm, task.path, [divided[number] for number in left]), strict=True):
        before = done[number - 1]["segment"]["caption"] if windows.context and number - 1 in done else ""
        done[number] = _entry(lm, task, windows, *read, before or "")
        if notes:
            notes.note(number, done[number])
        tell(task, f"{len(done)} of {len(divided)} windows")
    return _joined(task, windows, plan, [done[number] for number in range(len(divided))])


def _plan(lm: VideoLM, task: Task, windows: Windows, tell: OnWindow) -> dict[str, Any]:
    def searched(seconds: float, length: float) -> None:
        tell(task, f"looking for cuts, {min(1.0, seconds / max(length, 1e-9)):.0%}")

    config = lm.config.video
    _, divided, damage = plan_windows(
        task.path, windows.every, config.window, config.deadline, readers_of(config), searched
    )
    return {"damage": damage, "windows": [noted(window) for window in divided]}


def _entry(
    lm: VideoLM, task: Task, windows: Windows, window: Window, read: Future[Frames], before: str
) -> dict[str, Any]:  # fmt: skip
    """The note of a window: its segment, and what its record says of the whole film."""
    try:
        question = continued(task.question, before)
        answer = fitted(lm, task.path, question, read.result(), window.settings())
    except VidcompError as error:
        return {"segment": _failed(window, error), "common": None}
    except Exception as error:  # a bug must not cost the other windows; it is recorded with its kind
        log.debug("unexpected failure on %s from %s s on", task.path, window.start, exc_info=True)
        why = f"{type(error).__name__}: {error}"
        bug = VidcompError("this is a bug in vidcomp", why=why, hint="vidcomp ask ... --debug")
        return {"segment": _failed(window, bug), "common": None}
    record = answer.to_dict()
    segment = {
        **window.to_dict(), "status": record["status"], "caption": record["answer"], "finish": record["finish"],
        "keep": record["keep"], "tokens": record["tokens"], "frames": record["frames"], "seconds": record["seconds"],
        "notes": list(answer.ledger.notes),
    }  # fmt: skip
    if "degraded" in record:
        segment["degraded"] = record["degraded"]
    if windows.pictures:
        segment["picture"] = data_uri(jpeg(answer.frames.pixels[len(answer.frames) // 2], PICTURE_SIDE, 70))
    common = {name: record[name] for name in COMMON} | {"notes": list(answer.frames.info.notes)}
    return {"segment": segment, "common": {**common, "question": task.question}}


def _failed(window: Window, error: VidcompError) -> dict[str, Any]:
    return {**window.to_dict(), "status": "failed", "caption": None, "error": error.to_dict()}


def _joined(task: Task, windows: Windows, plan: dict[str, Any], entries: list[dict[str, Any]]) -> Record:
    segments = [entry["segment"] for entry in entries]
    common = next((entry["common"] for entry in entries if entry["common"]), None)
    if common is None:
        first = segments[0]["error"]
        error = VidcompError(first["what"], why=first["why"], hint=first["hint"], code=first["code"])
        record = {**failure(task, error), "versions": versions()}
        return {**record, "windows": windows.every.to_dict(), "segments": segments}
    told = [segment for segment in segments if segment["status"] != "failed"]
    kept, read = (sum(part["tokens"][name] for part in told) for name in ("kept", "uncompressed"))
    damage = "; ".join(_damage(plan, segments))
    record = {
        **common, "status": "degraded" if damage else "ok",
        "caption": "\n".join(part["caption"] for part in told), "windows": windows.every.to_dict(),
        "keep": {"requested": told[0]["keep"]["requested"], "actual": round(kept / read, 6)},
        "tokens": {"kept": kept, "uncompressed": read}, "segments": segments,
        "seconds": {"total": round(sum(part["seconds"]["total"] for part in told), 6)},
        "notes": list(_notes(entries)),
    }  # fmt: skip
    return {**record, "degraded": damage} if damage else record


def _damage(plan: dict[str, Any], segments: list[dict[str, Any]]) -> Iterator[str]:
    failed = sum(segment["status"] == "failed" for segment in segments)
    if failed:
        yield f"{failed} of {len(segments)} windows failed"
    parts = [plan["damage"], *(segment.get("degraded") for segment in segments)]
    yield from dict.fromkeys(filter(None, parts))


def _notes(entries: list[dict[str, Any]]) -> Iterator[str]:
    """Notes about the film, each once, and how many windows have some of their own."""
    yield from dict.fromkeys(note for entry in entries if entry["common"] for note in entry["common"]["notes"])
    own = sum(bool(entry["segment"].get("notes")) for entry in entries)
    if own:
        yield f"{own} of {len(entries)} windows have notes of their own, in their segments"
