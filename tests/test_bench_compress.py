# SPDX-License-Identifier: Apache-2.0
"""Timing of the outer stage alone: every method runs on made-up signals, and memory is measured where it can be."""

from __future__ import annotations

import sys

import pytest
import torch

from vidcomp.bench.compress import bench_compress, made_up_view, with_signals
from vidcomp.bench.memory import peak_memory
from vidcomp.methods import get_method, method_names


@pytest.mark.parametrize("name", [name for name in method_names() if name != "plug-in"])
def test_every_method_can_be_timed(name):
    timing = bench_compress(name, shape=(5, 16, 24), keep=0.25, repeats=1, seed=3)
    assert 1 <= timing.kept <= 80 and timing.median_seconds > 0
    assert timing.to_dict()["method"] == name


def test_signals_are_those_that_are_read():
    view = made_up_view((3, 4, 8))
    assert set(with_signals(view, get_method("longvu")).signals) == {"salience", "frame_features", "query"}
    assert set(with_signals(view, get_method("random")).signals) == {"salience"}
    one, two = (with_signals(view, get_method("visionzip"), seed).keys for seed in (1, 2))
    assert one.shape == (3, 4, 72) and not torch.equal(one, two)


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")
def test_peak_memory_sees_what_was_freed():
    with peak_memory(torch.device("cpu")) as peak:
        torch.ones(64, 2**20).sum()  # 256 MiB
    if peak.bytes is None:
        pytest.skip("the kernel does not let this process reset its peak")
    assert 200 * 2**20 < peak.bytes < 600 * 2**20
