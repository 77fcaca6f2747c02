# SPDX-License-Identifier: Apache-2.0
"""The workers of a batch, seen from their parent, which loads no torch and alone writes results."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Literal

from vidcomp.batch.tasks import OnWindow, Record, Task, failure
from vidcomp.batch.worker import Done, Going, Opening, Ready, Refused
from vidcomp.config import RunConfig
from vidcomp.errors import ModelError, UsageError, VidcompError

__all__ = ["Crew", "Plan", "planned"]

BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]);"
    "from vidcomp.batch.worker import main; main(int(sys.argv[2]))"
)
FAILED_STARTS = 3  # in a row, after which the fault is not one worker's
CORES_PER_WORKER = 4  # on a CPU, where --workers auto
LOG_BYTES = 2000  # of what a worker printed
TICK_SECONDS = 1.0  # between two looks at silent workers


@dataclass(frozen=True)
class Plan:
    """Devices that the workers of a batch run on.

    Attributes:
        devices: one per worker.
        ahead: videos that each may decode before their turn.
        patience: seconds that a worker may take for one video, or for one window of it.
        threads: of each model on a CPU; None leaves it to torch.
    """

    devices: tuple[str, ...]
    ahead: int = 1
    patience: float = 1800.0
    threads: int | None = None


def planned(workers: str, devices: str | None, per_device: int, config: RunConfig) -> tuple[str, ...]:
    """Devices of the workers that ``--workers N|auto --devices a,b --workers-per-device N`` ask for.

    Raises:
        UsageError: a number or a device is wrong, or they exclude each other.
    """
    if workers != "auto" and not (workers.isdecimal() and 1 <= int(workers) <= 1024):
        raise UsageError(f"--workers {workers}", why="it must be auto or a number from 1 on", code="bad_option")
    if per_device < 1:
        raise UsageError(f"--workers-per-device {per_device}", why="it must be at least 1", code="bad_option")
    if devices and config.model.device != "auto":
        raise UsageError("--devices together with --device", hint="give one of them", code="bad_option")
    named = [config.replace(device=name.strip()).model.device for name in (devices or "").split(",") if name.strip()]
    known = named or [config.model.device]
    if workers == "auto" and not named and known == ["auto"] and config.model.device_map is None:
        known = [f"cuda:{number}" for number in range(_gpus())] or known
    if workers != "auto":
        count = int(workers)
    else:
        on_cpu = not any(name.startswith(("cuda", "mps")) for name in known) and not _gpus()
        count = max(1, (os.cpu_count() or 1) // CORES_PER_WORKER) if on_cpu else len(known) * per_device
    if named and workers == "1":  # the default: one for each device
        count = len(named) * per_device
    return tuple(known[number % len(known)] for number in range(count))


def _gpus() -> int:
    """Count NVIDIA devices without loading torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([name for name in visible.split(",") if name.strip() not in ("", "-1")])
    with contextlib.suppress(OSError):
        return len([name for name in os.listdir("/dev") if re.fullmatch(r"nvidia\d+", name)])
    return 0


class _Worker:
    """One process, and the tasks in its hands in their order."""

    def __init__(self, opening: Opening) -> None:
        self.held: dict[int, Task] = {}
        self.opening = opening
        self.ready, self.since = False, time.monotonic()
        self.log = tempfile.TemporaryFile()
        near, far = socket.socketpair()
        with far:
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-X", "faulthandler", "-c", BOOT, _folders(), str(far.fileno())],
                stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, pass_fds=(far.fileno(),),
            )  # fmt: skip
        self.line = Connection(near.detach())
        self._send(opening)

    def give(self, task: Task) -> None:
        """Hand over a task; whether it arrived shows when the process is found dead."""
        if not self.held:
            self.since = time.monotonic()
        self.held[task.number] = task
        self._send(task)

    def done(self, number: int) -> Task:
        """Take a task out of its hands."""
        self.since = time.monotonic()
        return self.held.pop(number)

    def silent_for(self) -> float:
        """Seconds that the task in hand has taken."""
        return time.monotonic() - self.since if self.ready and self.held else 0.0

    def end(self) -> str:
        """End the process and return how it ended."""
        self.process.kill()
        code = self.process.wait()
        self.line.close()
        size = self.log.seek(0, os.SEEK_END)
        self.log.seek(max(0, size - LOG_BYTES))
        said = self.log.read().decode("utf-8", "replace").split("\n")
        self.log.close()
        last = next((line.strip() for line in reversed(said) if line.strip()), "")
        how = f"signal {-code}" if code < 0 else f"status {code}"
        return f"{how}{last and f', {last}'}"

    def _send(self, message: Opening | Task) -> None:
        with contextlib.suppress(OSError):  # it is dead: receiving from it tells
            self.line.send(message)


def _folders() -> str:
    return json.dumps([os.path.abspath(entry) for entry in sys.path])


class Crew:
    """Workers that answer the tasks of a batch.

    A worker that dies or is silent for too long is replaced. The task in its hands is given out once more, alone, after
    all others; where that fails as well it is a failed record with the code ``worker_died``.

    Args:
        config: all settings.
        plan: where they run.
        questions: what will be asked.
        on_window: called with how far a task is.
    """

    def __init__(
        self, config: RunConfig, plan: Plan, questions: Sequence[str], on_window: OnWindow = lambda *_: None
    ) -> None:  # fmt: skip
        self.plan, self.on_window = plan, on_window
        self._openings = deque(
            Opening(config.replace(device=device), tuple(questions), plan.ahead, plan.threads)
            for device in plan.devices
        )
        self._workers: list[_Worker] = []
        self._again: deque[Task] = deque()  # tasks that waited behind the one that a worker died of
        self._suspects: deque[Task] = deque()
        self._tried: set[int] = set()
        self._failed_starts = 0

    def __enter__(self) -> Crew:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._workers:
            worker.end()

    def all(self, tasks: Iterable[Task | None]) -> Iterator[tuple[Task, Record]]:
        """Answer tasks; they come back in the order in which they are done. None among them stands for a moment.

        Raises:
            ModelError, UsageError: no worker can load the model, or it does not fit the settings.
        """
        left = iter(tasks)
        more = True
        while True:
            more = self._give_out(left) and more
            if not more and not any(worker.held for worker in self._workers):
                return
            lines = {worker.line: worker for worker in self._workers}
            for line in wait(list(lines), TICK_SECONDS):
                yield from self._received(lines[line])  # type: ignore[index]
            for worker in list(self._workers):
                if worker.silent_for() > self.plan.patience:
                    yield from self._lost(worker, f"no answer within {self.plan.patience:g} s")

    def _give_out(self, left: Iterator[Task | None]) -> bool:
        """Fill the hands of all workers; what a worker died of is tried when nobody else has anything.

        Returns:
            False when no more tasks will come.
        """
        task: Task | Literal[False] | None = None
        while self._room():
            task = self._again.popleft() if self._again else next(left, False)
            if not task:
                break
            self._freest().give(task)
        if self._suspects and not any(worker.held for worker in self._workers):
            self._freest().give(self._suspects.popleft())
        return task is not False

    def _room(self) -> bool:
        return bool(self._openings) or any(len(worker.held) <= self.plan.ahead for worker in self._workers)

    def _freest(self) -> _Worker:
        """Return a worker with nothing in hand, a new one where all have something, or the one with least."""
        best = min(self._workers, key=lambda worker: len(worker.held), default=None)
        if best is not None and (not best.held or not self._openings):
            return best
        self._workers.append(_Worker(self._openings.popleft()))
        return self._workers[-1]

    def _received(self, worker: _Worker) -> Iterator[tuple[Task, Record]]:
        try:
            message = worker.line.recv()
        except (EOFError, OSError):
            yield from self._lost(worker, "")
            return
        if isinstance(message, Refused):
            raise message.error
        if isinstance(message, Ready):
            worker.ready, worker.since, self._failed_starts = True, time.monotonic(), 0
        if isinstance(message, Going):
            worker.since = time.monotonic()
            self.on_window(worker.held[message.number], message.text)
        if isinstance(message, Done):
            yield worker.done(message.number), message.record

    def _lost(self, worker: _Worker, why: str) -> Iterator[tuple[Task, Record]]:
        """Replace a worker that is dead, or is to be ended because it is silent."""
        self._workers.remove(worker)
        self._openings.append(worker.opening)
        ended = worker.end()
        why = why or ended
        held = list(worker.held.values())
        if not worker.ready:
            self._failed_starts += 1
            if self._failed_starts >= FAILED_STARTS:
                raise ModelError("workers end while they load the model", why=why, hint="--workers 1 shows more")
            self._again.extendleft(reversed(held))
            return
        self._again.extendleft(reversed(held[1:]))
        if held and held[0].number in self._tried:
            hint = "the others are done; vidcomp ask FILE QUESTION --debug shows more"
            died = VidcompError("its worker died twice", why=why, hint=hint, code="worker_died")
            yield held[0], failure(held[0], died)
        elif held:
            self._tried.add(held[0].number)
            self._suspects.append(held[0])
