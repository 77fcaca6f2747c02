# SPDX-License-Identifier: Apache-2.0
"""Which model fits a memory: weights against real sizes, and orders that must hold."""

from __future__ import annotations

import json

import pytest

from vidcomp.core.architectures import ARCHITECTURES
from vidcomp.report.fits import FRAMES, fits

GIB = 1 << 30


def test_more_memory_never_fits_less() -> None:
    before: dict[tuple[str, str], int] = {}
    for memory in (1, 2, 4, 8, 16, 24, 48, 80):
        found = {(fit.model, fit.format): fit.frames_compressed for fit in fits(memory * GIB, 0.1)}
        assert all(found[key] >= frames for key, frames in before.items())
        before = found
    assert {model for model, _ in before} <= set(ARCHITECTURES) and set(before.values()) <= set(FRAMES)


def test_fewer_tokens_mean_more_frames_and_narrow_weights_are_smaller() -> None:
    for fit in fits(24 * GIB, 0.1):
        assert fit.frames_compressed >= fit.frames
        wide = ARCHITECTURES[fit.model].billions * 2e9
        assert (
            fit.weight_bytes == pytest.approx(wide, rel=1e-6) if fit.format == "bfloat16" else fit.weight_bytes < wide
        )


@pytest.mark.parametrize(
    ("text", "status"), [("8GB", 0), ("8 gib", 0), ("512M", 0), ("8", 0), ("eight", 2), ("0GB", 2)]
)
def test_the_memory_is_a_number_and_a_unit(cli, text: str, status: int) -> None:
    found, out, _ = cli("models", "--for", text, "--json")
    assert found == status
    if text == "8GB":
        assert {row["format"] for row in json.loads(out)} == {"bfloat16", "8bit", "4bit"}
