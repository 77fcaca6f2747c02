# SPDX-License-Identifier: Apache-2.0
"""--reuse through the whole flow: chunks while decoding, ledger, JSON, report, drift, refusals, and its benchmark."""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import pytest
import torch
from test_shared_rows import Given

from vidcomp import FrameSequence
from vidcomp.bench.clips import CLIPS, write_clip
from vidcomp.bench.tower import bench_tower
from vidcomp.core.pixels import resize, to_channels_first
from vidcomp.engine.inner import shared_rows
from vidcomp.engine.streaming import EagerEncoder
from vidcomp.errors import UsageError
from vidcomp.report.drift import tower_drift
from vidcomp.tower.repeats import RepeatedPatches
from vidcomp.tower.shared import SharedRows
from vidcomp.video import Partial

QUESTION = "what happens?"


@pytest.fixture(scope="module")
def video(samples):
    return samples / "blue_cross_moves_right.mp4"


def test_the_whole_flow_counts_and_tells_the_rows(nano, video):
    answer = nano.ask(video, QUESTION, reuse="auto", max_new_tokens=2)
    computed, *_, all_rows = rows = answer.ledger.tower_rows
    assert rows == [computed] * 3 + [8 * 144] and computed < 0.5 * all_rows
    share = (3 * computed + all_rows) / (4 * all_rows)
    assert answer.to_dict()["tower_rows"] == {"share": round(share, 6), "by_layer": rows}
    plain = nano.ask(video, QUESTION, max_new_tokens=2)
    assert plain.to_dict()["tower_rows"] == {"share": 1.0, "by_layer": []}
    assert plain.text == answer.text


def test_off_is_the_stock_tower_and_so_is_0_without_equal_frames(nano, video):
    stock = nano.encode(video, reuse="off")
    frames = stock.frames.pixels.copy()
    frames[:, 0, 0, 0] = np.arange(len(frames))  # no frame equals another
    given = FrameSequence(frames, fps=2)
    one, other = (nano.encode(given, reuse=reuse).view for reuse in ("off", 0))
    assert torch.equal(one.features, other.features) and torch.equal(one.salience, other.salience)
    same = FrameSequence(np.repeat(frames[:2], 4, 0), fps=2)
    one, other = nano.encode(same, reuse="off"), nano.encode(same, reuse="0")
    assert other.ledger.tower_rows == [2 * 144] * 3 + [8 * 144]
    torch.testing.assert_close(one.view.features, other.view.features, rtol=0, atol=1e-5)


def test_chunks_while_decoding_share_rows_as_one_pass_does(nano, video):
    family, frames = nano.family, nano.encode(video).frames
    layout = family.layout(frames.times, *frames.pixels.shape[1:3], 3.0)
    share = partial(shared_rows, family, 0.06)
    whole_rows = share()
    whole = family.encode(frames.pixels, frozenset({"salience"}), layout, whole_rows)
    family.chunk = 3
    try:
        eager = EagerEncoder(family, frozenset({"salience"}), share)
        for ready in (2, 3, 5, 7, 8):
            eager(Partial(frames.pixels, ready, frames.times, 3.0))
    finally:
        del family.chunk
    assert 0 <= eager.tower_rows[0] - whole_rows.rows[0] <= 2  # a chunk that needs no row takes one along
    torch.testing.assert_close(eager.result().features, whole.features, rtol=0, atol=1e-4)
    torch.testing.assert_close(eager.result().signals["salience"], whole.signals["salience"], rtol=0, atol=1e-5)


def test_repeats_are_skipped_and_the_rest_shares_rows(nano, video):
    encoded = nano.encode(video, reuse="auto", skip_repeats=0.99)
    assert 1 < len(encoded.entered) < 8 == len(encoded.plan.encode)
    assert encoded.ledger.tower_rows[-1] == len(encoded.entered) * 144 > encoded.ledger.tower_rows[0]


@pytest.mark.parametrize(("reuse", "says"), [("on", "off, auto"), (1.5, "0 to 1"), (-0.1, "0 to 1"), ("nan", "0 to 1")])
def test_wrong_limits_are_clear_errors(nano, video, reuse, says):
    with pytest.raises(UsageError, match=says):
        nano.encode(video, reuse=reuse)


@pytest.mark.parametrize(("more", "says"), [
    ({"encoder": "tome"}, "merger"), ({"signals": frozenset({"cls_by_layer"})}, "every layer"),
])  # fmt: skip
def test_what_needs_all_rows_refuses_a_number_and_switches_auto_off(nano, video, more, says):
    with pytest.raises(UsageError, match=says):
        nano.encode(video, reuse=0.1, **more)
    rows = nano.encode(video, reuse="auto", **more).ledger.tower_rows
    assert rows == ([] if "signals" in more else nano.encode(video, **more).ledger.tower_rows)


def test_a_tower_that_cannot_share_is_named(nano, video, monkeypatch):
    monkeypatch.setattr(type(nano.family), "sharing_tower", None)
    with pytest.raises(UsageError, match="llava_onevision"):
        nano.encode(video, reuse=0.1)
    assert nano.encode(video, reuse="auto").ledger.tower_rows == []


def test_the_report_tells_rows_and_drift(cli, video, nano):
    status, out, _ = cli("report", video, QUESTION, "--reuse", "auto", "--probe-drift")
    assert status == 0
    assert "of its rows computed, per layer 3 x " in out and "of 1152" in out
    assert "tokens against those of the plain tower: cosine 0.99" in out
    status, out, _ = cli("report", video, QUESTION, "--reuse", "auto", "--probe-drift", "--json")
    drift = json.loads(out)["report"]["drift"]
    encoded, stock = nano.encode(video, reuse="auto"), nano.encode(video)
    cosine = torch.cosine_similarity(encoded.view.features[-1], stock.view.features[-1], dim=-1)
    assert drift["slices"] == [7]
    assert drift["mean"] == pytest.approx(float(cosine.mean()), abs=1e-4)
    assert drift["worst"] == pytest.approx(float(cosine.min()), abs=1e-4)
    assert tower_drift(nano.family, stock).worst == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(("name", "low", "high"), [
    ("talking-head", 0.1, 0.45), ("slides", 0.1, 0.45), ("hand-held", 0.5, 1), ("changing", 1, 1),
])  # fmt: skip
def test_clips_repeat_as_their_names_say(name, low, high):
    pictures = list(CLIPS[name](np.random.default_rng(0)))
    shown = np.stack(pictures[:: len(pictures) // 8][:8])
    squares = resize(to_channels_first(shown), (96, 96), "bicubic") / 255
    cut = squares.reshape(8, 3, 12, 8, 12, 8).permute(0, 2, 4, 1, 3, 5)
    assert low <= float(RepeatedPatches(0.06).own(cut).float().mean()) <= high


def test_clips_are_files_that_can_be_asked_about(nano, cli, tmp_path, monkeypatch):
    monkeypatch.setattr("vidcomp.bench.clips._SECONDS", 2)
    assert cli("bench", "clip", "slides", tmp_path / "slides.mp4")[0] == 0
    assert nano.encode(tmp_path / "slides.mp4", frames=4, reuse="auto").ledger.tower_share < 0.9
    with pytest.raises(UsageError, match="talking-head"):
        write_clip("slide", tmp_path / "no.mp4")


def test_the_tower_bench_counts_rows_and_pairs(nano):
    none, most = bench_tower(nano.family, (0.0, 0.75), frames=5, repeats=2)
    assert none.rows == 1 and most.rows == pytest.approx((3 * (1 + 4 * 0.25) / 5 + 1) / 4)
    assert most.ratio.pairs == 2 and most.to_dict()["of_ideal"] == pytest.approx(most.ratio.value * most.rows, abs=1e-3)


def test_a_chunk_may_need_no_row_at_all(nano):
    family = nano.family
    frames = np.random.default_rng(0).integers(0, 256, (4, 96, 96, 3)).astype(np.uint8)
    own = torch.zeros(4, 12, 12, dtype=torch.bool)
    own[0] = True
    shared = SharedRows(family.sharing_tower, Given(own))
    family.encode(frames[:1], shared=shared)
    later = family.encode(frames[1:], shared=shared)
    assert shared.rows == [145] * 3 + [4 * 144]
    torch.testing.assert_close(later.features[2], family.encode(frames[:1]).features[0], rtol=0, atol=1e-5)
