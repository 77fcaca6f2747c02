# SPDX-License-Identifier: Apache-2.0
"""The page of the API is what the code says."""

from __future__ import annotations

import pytest

pytest.importorskip("griffe", reason="the reference is made with griffe")

from docs.reference import PAGE, page


def test_the_reference_is_up_to_date() -> None:
    assert page() == PAGE.read_text(encoding="utf-8"), "run: python -m docs.reference"
