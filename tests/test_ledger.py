# SPDX-License-Identifier: Apache-2.0
"""The ledger: whose seconds are whose."""

from __future__ import annotations

import pytest
from clips import make_clip

from vidcomp.core.ledger import StageLedger, StageRecord


def test_seconds_move_from_the_outer_stage_to_the_one_inside():
    ledger = StageLedger([StageRecord("read", "frames", seconds=5.0), StageRecord("encode", "tokens", seconds=1.0)])
    ledger.move_seconds("read", "encode", 2.0)
    assert [stage.seconds for stage in ledger.stages] == [3.0, 3.0]
    assert ledger.seconds == 6.0


def test_encoding_while_frames_come_is_booked_as_encoding(nano, tmp_path, monkeypatch):
    """The tower's clock goes by a second per chunk, nothing else takes time."""
    from vidcomp.core import ledger
    from vidcomp.engine import streaming as eager

    clip, ticks = make_clip(tmp_path / "clip.mp4", frames=20), [0.0]
    encode = nano.family.encode

    def slow(*args):
        ticks[0] += 1.0
        return encode(*args)

    monkeypatch.setattr(nano.family, "encode", slow)
    for module in (eager, ledger):
        monkeypatch.setattr(module.time, "perf_counter", lambda: ticks[0])
    stages = nano.watch(clip).ledger
    assert stages.find("read").seconds == pytest.approx(0)
    assert stages.find("encode").seconds == pytest.approx(ticks[0]) != 0


def test_a_stage_that_ran_for_an_earlier_question_costs_nothing_again():
    ledger = StageLedger([StageRecord("read", "frames", seconds=5.0)]).copy(reused=True)
    ledger.stages.append(StageRecord("prefill", "tokens", seconds=1.0))
    assert ledger.seconds == 1.0
