# SPDX-License-Identifier: Apache-2.0
"""The ledger: whose seconds are whose."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from clips import make_clip

import vidcomp
from vidcomp.core.ledger import StageLedger, StageRecord
from vidcomp.engine.record import Recorder

WRITES = re.compile(
    r"ledger\.\w+(\.\w+)*(, [\w.]+)* [-+|]?= |\.stages\.(append|extend|insert)|StageRecord\(|setattr\(.*(ledger|counts)"
)


def test_the_ledger_is_filled_in_one_file():
    files = {path: path.read_text() for path in sorted(Path(vidcomp.__file__).parent.rglob("*.py"))}
    writers = {path.name for path, text in files.items() if WRITES.search(text)}
    assert writers == {"record.py"}


def test_encoding_while_frames_come_is_booked_as_encoding(nano, tmp_path, monkeypatch):
    """The tower's clock goes by a second per chunk, nothing else takes time."""
    from vidcomp.engine import record
    from vidcomp.engine import streaming as eager

    clip, ticks = make_clip(tmp_path / "clip.mp4", frames=20), [0.0]
    encode = nano.family.encode

    def slow(*args):
        ticks[0] += 1.0
        return encode(*args)

    monkeypatch.setattr(nano.family, "encode", slow)
    for module in (eager, record):
        monkeypatch.setattr(module.time, "perf_counter", lambda: ticks[0])
    stages = nano.encode(clip).ledger
    assert stages.find("read").seconds == pytest.approx(0)
    assert stages.find("encode").seconds == pytest.approx(ticks[0]) != 0


def test_a_stage_that_ran_for_an_earlier_question_costs_nothing_again():
    earlier = StageLedger([StageRecord("read", "frames", seconds=5.0)])
    ledger = Recorder(earlier, reused=True).ledger
    ledger.stages.append(StageRecord("prefill", "tokens", seconds=1.0))
    assert ledger.seconds == 1.0 and earlier.seconds == 5.0
