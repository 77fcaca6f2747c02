# SPDX-License-Identifier: Apache-2.0
"""Index of finished work: where the records of a job stand, in a few dozen bytes of memory for each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from vidcomp.batch.jobs import Job, Run, earlier_run, identity

__all__ = ["Finished", "offset_of", "place_of", "source_of"]

Place = int
"""Number of the file, and the offset in it, as one number: a tuple would take three times the memory."""

OFFSET_BITS = 44


def place_of(source: int, offset: int) -> Place:
    """The place of a line in the file with this number."""
    return source << OFFSET_BITS | offset


def source_of(place: Place) -> int:
    """Number of the file of a place."""
    return place >> OFFSET_BITS


def offset_of(place: Place) -> int:
    """Offset of a place in its file."""
    return place & (1 << OFFSET_BITS) - 1


class Finished:
    """Places of the records of each job, by its number.

    Attributes:
        counts: records by the name of their run; those of schema 1 under the name that their settings have.
        runs: settings by the same name.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.runs: dict[str, Run] = {}
        self._names: dict[str, str] = {}  # of runs, as files say, to those of today
        self._places: dict[int, Place | tuple[Place, ...]] = {}
        self._settings: Any = None  # of the line before, which are those of the next as a rule
        self._run = ""

    def add(self, line: Mapping[str, Any], place: Place) -> None:
        """Take in a line that is a record, or tells of a run."""
        if "job" not in line:
            run = Run.from_line(line)
            self.runs[run.digest] = run
            self._names[str(line["run"])] = run.digest
            return
        job, question = line["job"], line.get("question")
        if isinstance(job.get("settings"), dict):
            run_name = self._of_settings(job["settings"])
            question = job["settings"].get("prompt", question)
        else:
            run_name = self._names.get(job["run"], job["run"]) if isinstance(job.get("run"), str) else ""
        if run_name:
            self.counts[run_name] += 1
        self.note(identity(job, question, run_name), place)

    def note(self, number: int, place: Place) -> None:
        """One more record of this work."""
        before = self._places.get(number)
        if before is None:
            self._places[number] = place
        else:
            self._places[number] = (*(before if isinstance(before, tuple) else (before,)), place)

    def places(self, number: int) -> tuple[Place, ...]:
        """Places of the records of this work, the newest last."""
        found = self._places.get(number, ())
        return found if isinstance(found, tuple) else (found,)

    def of_job(self, job: Job) -> Iterator[Place]:
        """Places of records that may be about a job, the newest first; those of schema 1 last."""
        yield from reversed(self.places(job.number))
        if self._run:
            yield from reversed(self.places(job.earlier))

    def others(self, run: Run) -> str:
        """One line about records made with other settings than these; empty when there are none."""
        same = {run.digest, earlier_run(run.settings)}
        others = {name: count for name, count in self.counts.items() if name not in same}
        if not others:
            return ""
        differing = sorted({name for other in others for name in self._differing(other, run)})
        count = sum(others.values())
        records = "1 record" if count == 1 else f"{count} records"
        return f"{records} made with other settings ({', '.join(differing) or 'not told'})"

    def _differing(self, name: str, run: Run) -> list[str]:
        other = self.runs.get(name)
        if other is None:
            return []
        names = {*other.settings, *run.settings}
        found = [each for each in names if other.settings.get(each) != run.settings.get(each)]
        models = other.models and other.models != run.models
        return found + (["weights"] if models and "model" not in found else [])

    def _of_settings(self, settings: dict[str, Any]) -> str:
        if settings != self._settings:
            self._settings, self._run = settings, earlier_run(settings)
            self.runs[self._run] = Run.of(settings, {})
        return self._run
