# SPDX-License-Identifier: Apache-2.0
"""Training data made ahead of time by other processes, so that a fast device does not wait for rendering."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from typing import Generic, TypeVar

import cv2
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

Made = TypeVar("Made")


class _Made(IterableDataset[Made], Generic[Made]):
    """What `make` gives for start, start + stride, ...; each process makes its share of it."""

    def __init__(self, make: Callable[[int], Made], start: int, stride: int) -> None:
        super().__init__()
        self.make, self.start, self.stride = make, start, stride

    def __iter__(self) -> Iterator[Made]:
        worker = get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        for number in count(first, step):
            yield self.make(self.start + number * self.stride)


def ahead(make: Callable[[int], Made], start: int, stride: int, loaders: int) -> Iterator[Made]:
    """`make(start)`, `make(start + stride)`, ... in this order without end, made by `loaders` processes or, at 0, here.

    `make` must depend on its seed alone, and be a function of a module or a partial of one.
    """
    items = _Made(make, start, stride)
    if loaders == 0:
        return iter(items)
    return iter(DataLoader(items, batch_size=None, num_workers=loaders, prefetch_factor=4, worker_init_fn=_one_thread))


def _one_thread(_: int) -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(0)  # 1 would wait for threads of the pool that a fork leaves behind
