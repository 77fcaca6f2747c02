# SPDX-License-Identifier: Apache-2.0
"""What published implementations returned: cases, tensors and how to compare.

The repository holds a few cases of every method and stage; where the full set lies beside it, all of them run.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data.select_goldens import full_index
from safetensors import safe_open
from torch import Tensor

FULL = Path(__file__).resolve().parents[2] / "shared" / "goldens"  # some five hundred cases, not in this repository
SELECTED = Path(__file__).parent / "data" / "goldens"  # a few of every stage
GOLDENS = FULL if (FULL / "index.json").is_file() else SELECTED
Case = dict[str, Any]


@cache
def _index() -> list[Case]:
    index = full_index(FULL) if GOLDENS is FULL else json.loads((GOLDENS / "index.json").read_text())
    cases: list[Case] = index["cases"]
    return cases


def cases(method: str, stage: str | None = None) -> list[Case]:
    """All cases of a method, or of one of its stages."""
    return [case for case in _index() if case["method"] == method and stage in (None, case["stage"])]


def of(method: str, stage: str) -> pytest.MarkDecorator:
    """Run a test once per case."""
    rows = [pytest.param(case, id=case["id"].split("/", 1)[1]) for case in cases(method, stage)]
    large = pytest.mark.skip(reason="its inputs are large: needs ../shared/goldens beside this repository")
    return pytest.mark.parametrize("case", rows or [pytest.param({}, marks=large)])


def tensor(entry: dict[str, Any]) -> Tensor:
    """One stored tensor."""
    with safe_open(GOLDENS / entry["file"], framework="pt") as file:
        return file.get_tensor(entry["tensor"])


def given(case: Case, name: str) -> Tensor:
    """One input of a case."""
    return tensor(case["inputs"][name])


def check(case: Case, name: str, value: Any) -> None:
    """Compare one output as its entry asks; where it hinges on ties or rounding, only in shape."""
    entry = case["outputs"][name]
    if "value" in entry:
        assert np.isclose(value, entry["value"], rtol=1e-9, atol=0), name
        return
    value = torch.as_tensor(value)
    assert list(value.shape) == entry["shape"], name
    if case["parity"] == "informative" and name in case["stability"].get("unstable_outputs", {}):
        return
    expected = tensor(entry)
    if entry["compare"] == "exact":
        assert value.tolist() == expected.tolist(), name
    else:
        np.testing.assert_allclose(value.numpy(), expected.numpy(), **case["tolerance"], err_msg=name)
