# SPDX-License-Identifier: Apache-2.0
"""Claims on work in a folder that several processes share: files that are there while somebody works.

Nothing compares clocks. A claim names its owner's part of the results. On one machine the owner is gone when the lock
on that part is free; elsewhere, when the part's time stood still during so many looks in a row.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from vidcomp.batch.journal import held_by_nobody, unwritable

__all__ = ["Claims", "Lease"]

BOOT = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class Lease:
    """Signs of life, and the silence after which the work of a process is taken over.

    Attributes:
        seconds: of silence.
        looks: in that time, and twice as many signs of life.
    """

    seconds: float = 45.0
    looks: int = 5


@dataclass(frozen=True)
class _Sign:
    """The last change that was seen of a file, and the looks since then that saw none."""

    seen: tuple[int, int] | None = None
    still: int = 0


@dataclass(frozen=True)
class _Owner:
    """The process that made a claim: its part, and the start of the machine that it runs on."""

    part: str
    boot: str


class Claims:
    """Claims of this process, and the view of those of others.

    A claim that is taken over is not touched: the next one has a higher generation, and whoever makes that file first
    has it. So two processes never take over the same work, and one that was only slow does no harm.

    Args:
        folder: of results.
        part: of this process, whose time is moved on as a sign of life.
        lease: when others are taken for dead.
    """

    def __init__(self, folder: Path, part: Path, lease: Lease) -> None:
        self.folder, self.part, self.lease = folder / "claims", part, lease
        self._mine: dict[int, Path] = {}
        self._signs: dict[Path, _Sign] = {}
        self._boot = BOOT.read_text().strip() if BOOT.exists() else ""
        self._end = threading.Event()
        try:
            self.folder.mkdir(exist_ok=True)
        except OSError as error:
            raise unwritable(self.folder, error, "-o elsewhere") from error
        self._pulse = threading.Thread(target=self._beat, daemon=True, name="vidcomp-claims")
        self._pulse.start()

    def take(self, number: int) -> bool:
        """Claim work; False while a process that lives has it."""
        held = self._generations(number)
        if held and self._lives(held[-1]):
            return False
        generation = int(held[-1].name.partition("-")[2]) + 1 if held else 0
        claim = self.folder / f"{number:016x}-{generation}"
        try:
            with open(claim, "x") as file:
                json.dump({"part": self.part.name, "boot": self._boot}, file)
        except FileExistsError:
            return False
        except OSError as error:
            raise unwritable(claim, error, "free space, then the same command") from error
        self._mine[number] = claim
        return True

    def release(self, number: int) -> None:
        """Give work back, done or not; with it go claims on it that were taken over."""
        claim = self._mine.pop(number)
        for other in self._generations(number):
            if _generation(other) <= _generation(claim):
                with contextlib.suppress(OSError):
                    other.unlink()

    def close(self) -> None:
        """Give back everything."""
        self._end.set()
        self._pulse.join()
        for number in list(self._mine):
            self.release(number)
        with contextlib.suppress(OSError):  # others are at work
            self.folder.rmdir()

    def __enter__(self) -> Claims:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _generations(self, number: int) -> list[Path]:
        """Claims on some work, the one in force last."""
        prefix = f"{number:016x}-"
        return sorted((claim for claim in self._all() if claim.name.startswith(prefix)), key=_generation)

    def _all(self) -> Iterator[Path]:
        with contextlib.suppress(OSError):
            yield from (self.folder / name for name in os.listdir(self.folder))

    def _lives(self, claim: Path) -> bool:
        owner = _owner(claim)
        sign_of = self._sign_of(claim, owner)
        if owner is not None and owner.boot == self._boot != "" and held_by_nobody(sign_of):
            return False
        sign = self._signs.get(sign_of)
        return sign is None or sign.still < self.lease.looks

    def _sign_of(self, claim: Path, owner: _Owner | None) -> Path:
        """The file by which the owner of a claim shows that it lives."""
        return claim if owner is None else self.folder.parent / owner.part

    def _beat(self) -> None:
        """Show that this process lives, and look at the others."""
        step = self.lease.seconds / self.lease.looks / 2
        while True:
            with contextlib.suppress(OSError):
                os.utime(self.part)
            self._look()
            for _ in range(2):
                if self._end.wait(step):
                    return
                with contextlib.suppress(OSError):
                    os.utime(self.part)

    def _look(self) -> None:
        signs: dict[Path, _Sign] = {}
        for place in {self._sign_of(claim, _owner(claim)) for claim in self._all()}:
            sign = self._signs.get(place, _Sign())
            seen = _change(place)
            signs[place] = _Sign(seen, sign.still + 1 if seen == sign.seen else 0)
        self._signs = signs


def _owner(claim: Path) -> _Owner | None:
    """The process that a claim names; None while it has not written its name yet."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        said = json.loads(claim.read_bytes())
        return _Owner(os.path.basename(str(said["part"])), str(said["boot"]))
    return None


def _generation(claim: Path) -> int:
    digits = claim.name.partition("-")[2]
    return int(digits) if digits.isdecimal() else 0


def _change(place: Path) -> tuple[int, int] | None:
    """Time and size of a file; it is opened, because a network file system would else tell what it remembers."""
    try:
        descriptor = os.open(place, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except OSError:
        return None
    try:
        facts = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    return facts.st_mtime_ns, facts.st_size
