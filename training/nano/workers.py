# SPDX-License-Identifier: Apache-2.0
"""Several single-threaded processes that train one model: their parameters are averaged every few steps.

On a CPU two processes of one thread each are faster than one process of two threads, and this needs no shared memory.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import torch
from torch import distributed, multiprocessing, nn

from training.nano.progress import RunSettings


def run_workers(run: RunSettings, job: Callable[[RunSettings], None]) -> None:
    """Run `job` in `run.workers` processes; with one worker it runs right here."""
    if run.workers == 1:
        job(run)
        return
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(_enter, (run, job, str(Path(folder) / "meet")), nprocs=run.workers)  # type: ignore[attr-defined, no-untyped-call]


def _enter(rank: int, run: RunSettings, job: Callable[[RunSettings], None], meeting: str) -> None:
    """Body of one process."""
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{meeting}",
        rank=rank,
        world_size=run.workers,
        timeout=timedelta(minutes=20),
    )
    try:
        job(replace(run, rank=rank))
    finally:
        distributed.destroy_process_group()


def average(run: RunSettings, parameters: Sequence[nn.Parameter], share: float) -> float:
    """Average the parameters of all workers in place; returns the mean share of the budget that is spent."""
    if run.workers == 1:
        return share
    with torch.no_grad():
        flat = torch.cat([p.detach().flatten() for p in parameters] + [torch.tensor([share])])
        distributed.all_reduce(flat)
        flat /= run.workers
        start = 0
        for parameter in parameters:
            parameter.copy_(flat[start : start + parameter.numel()].view_as(parameter))
            start += parameter.numel()
    return float(flat[-1])
