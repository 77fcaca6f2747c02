# SPDX-License-Identifier: Apache-2.0
"""Work that several processes divide among them while they do it: each video is claimed before it is begun."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import TracebackType

from vidcomp.batch.claims import Claims, Lease
from vidcomp.batch.jobs import Job
from vidcomp.batch.parts import Parts
from vidcomp.batch.tasks import Record, Task

__all__ = ["Shared"]


class Shared:
    """Tasks of this process among others that work in the same folder.

    Args:
        parts: results of all of them.
        todo: tasks that were not done when this process began.
        lease: silence after which the work of another process is taken over.

    Attributes:
        elsewhere: tasks that others have done meanwhile, with their records; the reader takes them out.
    """

    def __init__(self, parts: Parts, todo: Mapping[Task, Job], lease: Lease) -> None:
        self.parts, self.todo = parts, todo
        self.elsewhere: list[tuple[Task, Record]] = []
        self._before = {task: len(list(parts.records_of(job))) for task, job in todo.items()}
        self._claims = Claims(parts.folder, parts.own, lease)

    def __enter__(self) -> Shared:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._claims.close()

    def tasks(self) -> Iterator[Task | None]:
        """Tasks as this process gets hold of them; None while others have all that is left in hand."""
        left = list(self.todo)
        while left:
            busy: list[Task] = []
            for task in left:
                if self._done_elsewhere(task):
                    continue
                if not self._claims.take(self.todo[task].number):
                    busy.append(task)
                    continue
                self.parts.refresh()  # it may have been finished just before it could be claimed
                if self._done_elsewhere(task):
                    self._claims.release(self.todo[task].number)
                else:
                    yield task
            if len(busy) == len(left):
                yield None
            left = busy
            self.parts.refresh()

    def finish(self, task: Task, record: Record) -> None:
        """Write a record; nobody else does this work any more."""
        self.parts.append(self.todo[task], record)
        self._claims.release(self.todo[task].number)

    def _done_elsewhere(self, task: Task) -> bool:
        """True if there is a record that was not there at the beginning, whatever it says."""
        job, before = self.todo[task], self._before[task]
        if len(list(self.parts.finished.of_job(job))) <= before:
            return False
        records = list(self.parts.records_of(job))
        if len(records) > before:
            self.elsewhere.append((task, records[0]))
        return len(records) > before
