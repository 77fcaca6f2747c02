# SPDX-License-Identifier: Apache-2.0
"""Budgets, logs and saved state shared by all stages of the recipe."""

from __future__ import annotations

import json
import logging
import math
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

logger = logging.getLogger(__name__)

SMOKE_STEPS = 4
"""Optimiser steps of each stage in smoke mode; of a stage in phases at least one each."""


@dataclass
class Budget:
    """How long a stage may train: wall-clock seconds, or a fixed number of steps."""

    seconds: float
    steps: int | None = None
    started: float = field(default_factory=time.monotonic)
    done: int = 0

    @property
    def elapsed(self) -> float:
        """Seconds since the budget was opened."""
        return time.monotonic() - self.started

    @property
    def share(self) -> float:
        """Part of the budget that is used up, 0 to 1."""
        if self.steps is not None:
            return min(1.0, self.done / self.steps)
        return min(1.0, self.elapsed / max(self.seconds, 1e-6))

    @property
    def left(self) -> bool:
        """True while there is something to spend."""
        return self.share < 1.0


@dataclass(frozen=True)
class RunSettings:
    """What every stage needs to know about the run."""

    state: Path
    device: str = "cpu"
    smoke: bool = False
    rank: int = 0  # number of this process, 0 writes the state
    workers: int = 1  # processes whose parameters are averaged
    world: str = "small"  # what the videos are made of: a name in language.WORLDS
    loaders: int = 0  # processes that make data ahead of time

    @property
    def scale(self) -> int:
        """How many times larger a batch is than on a CPU."""
        return 1 if self.device == "cpu" or self.smoke else 8

    @property
    def sync_steps(self) -> int:
        """Optimiser steps between two averagings of the workers."""
        return 2 if self.smoke else 10

    def budget(self, seconds: float, parts: int = 1) -> Budget:
        """A budget of `seconds`, or in smoke mode of the smoke steps shared by `parts` phases."""
        return Budget(seconds, max(1, SMOKE_STEPS // parts) if self.smoke else None)

    def held_out(self, count: int) -> int:
        """How many held-out items to score: `count`, fewer in smoke mode."""
        return min(count, 4) if self.smoke else count

    def log(self, stage: str, **values: Any) -> None:
        """Append one JSON line to the log of this run and show it."""
        entry = {"time": time.strftime("%Y-%m-%dT%H:%M:%S"), "stage": stage, **values}
        self.state.mkdir(parents=True, exist_ok=True)
        with (self.state / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
        logger.info("%s", json.dumps(entry))

    def save(self, name: str, content: dict[str, Any]) -> None:
        """Write STATE/name.pt atomically (only the first process does)."""
        if self.rank:
            return
        self.state.mkdir(parents=True, exist_ok=True)
        partial = self.state / f".{name}.partial"
        torch.save(content, partial)
        os.replace(partial, self.state / f"{name}.pt")

    def load(self, name: str) -> dict[str, Any]:
        """Read STATE/name.pt."""
        path = self.state / f"{name}.pt"
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist: run the stage {name!r} first")
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        return content


def set_rate(optimizer: torch.optim.Optimizer, step: int, share: float, warmup: int = 60, hold: float = 0.5) -> None:
    """Linear warm-up, constant until `hold` of the budget, then a cosine down to 2 %; scales each group's "peak"."""
    fall = 0.5 * (1 + math.cos(math.pi * max(0.0, share - hold) / (1 - hold)))
    scale = min(1.0, (step + 1) / warmup) * (0.02 + 0.98 * fall)
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * scale


def adamw(*groups: tuple[list[nn.Parameter], float], decay: float = 0.02) -> torch.optim.AdamW:
    """AdamW over (parameters, peak learning rate) groups."""
    return torch.optim.AdamW(
        [{"params": parameters, "peak": rate, "lr": rate} for parameters, rate in groups],
        betas=(0.9, 0.98),
        weight_decay=decay,
    )


def step(optimizer: torch.optim.Optimizer, loss: torch.Tensor, budget: Budget) -> None:
    """One clipped optimiser step."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()
    budget.done += 1
