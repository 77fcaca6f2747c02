# SPDX-License-Identifier: Apache-2.0
"""Every family against the library's own processor: pixels bit for bit, prompt ids one by one."""

from __future__ import annotations

import hashlib
import json
import sys
from functools import cache
from pathlib import Path

import pytest
from families import load

DATA = Path(__file__).parent / "data"
sys.path.insert(0, str(DATA))
from make_library_goldens import CLIPS, QUESTION, made_up_clip, run_lengths, times_of  # noqa: E402

GOLDENS = json.loads((DATA / "library_goldens.json").read_text())
CASES = [(name, clip) for name, clips in GOLDENS.items() if name != "made_with" for clip in clips]


@pytest.fixture(scope="module")
def family(replicas):
    return cache(lambda name: load(replicas(name)))


def laid_out(family, name):
    frames, height, width, step = CLIPS[name]
    times, duration = times_of(frames, step)
    return family.layout(times, height, width, duration)


@pytest.mark.parametrize(("name", "clip"), CASES)
def test_pixels_and_prompt_ids_are_the_librarys(family, name, clip):
    adapter, golden = family(name), GOLDENS[name][clip]
    layout = laid_out(adapter, clip)
    pixels = adapter.pixels(made_up_clip(*CLIPS[clip]), layout).contiguous()
    assert pixels.numel() == golden["values"]
    assert pixels.flatten()[::101][:8].tolist() == golden["sample"]
    assert hashlib.sha256(pixels.numpy().tobytes()).hexdigest() == golden["sha256"]
    prompt = adapter.prompt(QUESTION, layout)
    ids = prompt.full_ids(layout.tokens, len(adapter.separators()), adapter.visual_id)
    assert run_lengths(ids.tolist()) == golden["ids"]
    if "seconds_per_slice" in golden:
        assert float(adapter.clock(layout)["second_per_grid_ts"][0]) == golden["seconds_per_slice"]


def test_another_question_or_time_changes_the_ids(family):
    """So the comparison above can fail."""
    adapter, golden = family("smolvlm2"), GOLDENS["smolvlm2"]["wide"]
    frames, height, width, step = CLIPS["wide"]
    times, duration = times_of(frames, step)
    later = adapter.layout([time + 1 for time in times], height, width, duration)
    for question, layout in ((QUESTION + "?", laid_out(adapter, "wide")), (QUESTION, later)):
        ids = adapter.prompt(question, layout).full_ids(layout.tokens, 0, adapter.visual_id)
        assert run_lengths(ids.tolist()) != golden["ids"]
