# SPDX-License-Identifier: Apache-2.0
"""The benches: their statistics against known values, their runs on a few questions."""

from __future__ import annotations

import csv
import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import cv2
import numpy as np
import pytest
from clips import make_clip
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.read import main as time_reading
from vidcomp.bench import Timing
from vidcomp.bench.accuracy import bench_accuracy
from vidcomp.bench.ask import StagePair
from vidcomp.bench.plot import plot_accuracy
from vidcomp.bench.statistics import Marks, bootstrap, mcnemar
from vidcomp.cli.app import run
from vidcomp.errors import UsageError
from vidcomp.video import Sampling, read_frames

pytest.importorskip("av", reason="writing the held-out videos needs av")


def marks(right, kind, video):
    return Marks(np.array(right, bool), np.array(kind), np.array(video))


def test_macro_is_the_mean_over_types():
    assert marks([1, 1, 1, 0], [0, 0, 0, 1], [0, 0, 1, 1]).macro == 0.5


def test_mcnemar_against_the_binomial():
    one, other = np.array([1] * 8 + [0] * 2 + [1] * 5, bool), np.array([0] * 8 + [1] * 2 + [1] * 5, bool)
    assert mcnemar(one, other) == pytest.approx(2 * (1 + 10 + 45) / 2**10)
    assert mcnemar(one, one) == 1.0
    assert mcnemar(one, other) == mcnemar(other, one)


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 2), st.integers(0, 5)), min_size=3, max_size=40))
def test_intervals_hold_their_value(rows):
    rows = [*rows, (True, True, 0, 0), (False, True, 0, 1)]
    one, other, kind, video = (np.array(column) for column in zip(*rows, strict=True))
    score = bootstrap(marks(one, kind, video))
    assert 0 <= score.low <= score.high <= 1
    gap = bootstrap(marks(one, kind, video), marks(other, kind, video))
    assert gap.value == pytest.approx(marks(one, kind, video).macro - marks(other, kind, video).macro)
    assert bootstrap(marks(one, kind, video), marks(one, kind, video)).high == 0


def test_a_bootstrap_covers_like_the_binomial():
    rng = np.random.default_rng(0)
    right = rng.random(400) < 0.8
    interval = bootstrap(marks(right, np.zeros(400, int), np.arange(400)))
    expected = 1.96 * np.sqrt(0.8 * 0.2 / 400)
    assert (interval.high - interval.low) / 2 == pytest.approx(expected, rel=0.15)


def test_timings_and_ratios():
    timing = Timing.of([3.0, 1.0, 2.0])
    assert (timing.median, timing.repeats) == (2.0, 3)
    with pytest.raises(ValueError, match="no measurements"):
        Timing.of([])
    assert StagePair.of("x", [4.0] * 9, [2.0] * 9).words == "2.00x faster (2.00-2.00)"
    assert StagePair.of("x", [2.0] * 9, [4.0] * 8 + [5.0]).words == "2.00x SLOWER (2.00-2.50)"
    assert StagePair.of("x", [1.0] * 9, [0.9, 1.1] * 4 + [1.0]).words.startswith("no difference found (")
    assert StagePair.of("x", [1.0] * 9, [0.0] * 9).words == "not comparable"


@pytest.fixture(scope="module")
def small(nano, tmp_path_factory):
    journal = tmp_path_factory.mktemp("bench") / "journal.jsonl"
    return bench_accuracy(nano, ["holitom", "random"], [1.0, 0.1], questions=16, resume=journal), journal


def test_rows_are_paired_with_the_full_run(small):
    bench, _ = small
    assert [(row.method, row.keep) for row in bench.rows] == [
        ("holitom", 1.0), ("holitom", 0.1), ("random", 1.0), ("random", 0.1),
    ]  # fmt: skip
    whole, tenth = bench.rows[0], bench.rows[3]
    assert whole.accuracy == bench.full.accuracy
    assert whole.difference.value == 0 and whole.of_full == 1
    assert tenth.of_full == pytest.approx(tenth.accuracy.value / bench.full.accuracy.value)
    assert (whole.kl, whole.tokens, whole.p_value) == (0, 288, 1)
    assert tenth.kl > 0
    assert tenth.tokens == 29
    assert all(row.n == 16 for row in bench.rows)
    assert 0 <= bench.blind <= 1


def test_methods_are_compared_at_equal_tokens(nano):
    bench = bench_accuracy(nano, ["holitom", "longvu", "dycoke", "none"], [0.1, 1.0], questions=2, equal_tokens=True)
    assert [row.tokens for row in bench.rows] == [29, 288] * 4 and bench.to_dict()["equal_tokens"]


def test_an_interrupted_run_continues(nano, small, monkeypatch):
    bench, journal = small
    monkeypatch.setattr(nano, "encode", None)  # asking again would fail
    again = bench_accuracy(nano, ["holitom", "random"], [1.0, 0.1], questions=16, resume=journal)
    assert again.to_dict() == bench.to_dict()


def test_answers_read_off_are_those_of_generation(nano, tmp_path):
    """An answer counts as right exactly when greedy generation writes it."""
    from vidcomp.bench.accuracy import _compare, _papers, _read_answer
    from vidcomp.bench.world.files import write_mp4
    from vidcomp.bench.world.seeds import TEST

    paper = _papers(8, TEST.start + 7)[0]
    write_mp4(paper.video, tmp_path / "v.mp4")
    for keep in (1.0, 0.1):
        encoded = nano.compress(tmp_path / "v.mp4", keep=keep)
        answers = [_read_answer(nano, encoded, question) for question in paper.questions]
        marked = _compare(answers, answers, 0)["right"]
        written = [nano.ask(encoded, question.text).text == question.answer for question in paper.questions]
        assert marked == written


def test_a_method_that_reads_the_question_is_asked_for_each(nano):
    """Signals of all methods are collected in one pass; a question-aware one encodes the video per question."""
    bench = bench_accuracy(nano, ["longvu", "flowcut"], [0.3], questions=4)
    assert [(row.method, row.n) for row in bench.rows] == [("longvu", 4), ("flowcut", 4)]
    longvu, flowcut = bench.rows
    assert 1 <= longvu.tokens <= flowcut.tokens == 87  # the ceiling of 0.3 * 288


def test_plots_open(small, tmp_path):
    bench, _ = small
    plot_accuracy(bench.to_dict(), tmp_path / "a.svg")
    assert ElementTree.parse(tmp_path / "a.svg").getroot().tag.endswith("svg")
    plot_accuracy(bench.to_dict(), tmp_path / "a.png")
    assert cv2.imread(str(tmp_path / "a.png")).shape == (460, 720, 3)
    with pytest.raises(UsageError, match=r"\.svg"):
        plot_accuracy(bench.to_dict(), tmp_path / "a.gif")


def test_parameters_stay_with_their_method():
    from vidcomp.cli.options import method_list

    assert method_list("holitom:tau=0.8,beta=0.5,random,pool") == ["holitom:tau=0.8,beta=0.5", "random", "pool"]


def test_the_command(small, tmp_path, capfd):
    _, journal = small
    args = "bench accuracy --method holitom,random --keep 1.0,0.1 --questions 16 --quiet".split()
    table, picture = tmp_path / "a.csv", tmp_path / "a.svg"
    assert run([*args, "--json", "--resume", str(journal), "--csv", str(table), "--plot", str(picture)]) == 0
    record = json.loads(capfd.readouterr().out)
    assert set(record["rows"][0]) >= {"method", "keep", "accuracy", "ci_low", "ci_high", "n", "by_type"}
    assert set(record["blind"]) == {"accuracy", "by_type"}
    with open(table, encoding="utf-8") as file:
        assert [row["method"] for row in csv.DictReader(file)] == ["holitom", "holitom", "random", "random"]
    assert picture.stat().st_size > 1000
    assert run([*args, "--resume", str(journal)]) == 0
    assert "blind floor" in capfd.readouterr().out
    for bad in (["--keep", "2"], ["--keep", "x"], ["--method", "hollitom"], ["--plot", "a.gif"]):
        assert run(["bench", "accuracy", *bad]) == 2


def test_the_page_marks_what_chance_beats(small):
    from vidcomp.bench.page import accuracy_page

    record = small[0].to_dict()
    control = next(row for row in record["rows"] if row["method"] == "random" and row["keep"] == 0.1)
    record["rows"] = [control, {**control, "method": "worse", "accuracy": control["accuracy"] - 0.1}]
    page = accuracy_page(record, "the command")
    assert "    the command\n" in page
    lines = {line.split(" | ")[0].strip("| "): line for line in page.splitlines() if line.startswith("| ")}
    assert "**v**" in lines["worse"] and "**v**" not in lines["random"]


def test_a_pair_names_its_own_inner_schedule(nano, small):
    from vidcomp.engine.outer import split_pair

    assert split_pair("holitom:tau=0.7+fastv:k=1,keep=0.5") == ("holitom:tau=0.7", "fastv:k=1,keep=0.5")
    assert split_pair("holitom") == ("holitom", "auto")
    pairs = bench_accuracy(nano, ["holitom+none", "holitom+fastv:k=1,keep=0.1"], [0.1], questions=16)
    alone = next(row for row in small[0].rows if row.method == "holitom" and row.keep == 0.1)
    assert [row.tokens for row in pairs.rows] == [alone.tokens] * 2
    assert pairs.rows[0].kl < pairs.rows[1].kl


def test_reading_beside_raw_calls(tmp_path, capfd):
    clip = make_clip(tmp_path / "clip.mp4", 48, options={"g": "24", "sc_threshold": "0"})
    assert time_reading([str(clip), "--frames", "8", "--repeats", "1", "--json"]) == 0
    record = json.loads(capfd.readouterr().out)
    assert record["reader"] == "pyav" and all(ratio > 0 for ratio in record["ratios"].values())
    assert set(record["seconds"]) == {
        "vidcomp", "vidcomp, --seek fast", "vidcomp, inspection",
        "vidcomp, decord", "vidcomp, pyav", "vidcomp, opencv",
        "decord, get_batch", "decord, skip and next", "pyav, decode through", "opencv, grab through",
    }  # fmt: skip
    assert record["fast_gain"] > 0
    if Path("/proc/self/statm").exists():
        assert record["peak_bytes"] > read_frames(clip, Sampling(8)).pixels.nbytes
    assert time_reading([str(clip), "--alone", "--seek", "fast", "--repeats", "1"]) == 0
    told = capfd.readouterr().out
    assert "times faster" not in told and "raw call" not in told and "memory above" in told
