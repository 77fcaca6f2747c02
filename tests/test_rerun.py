# SPDX-License-Identifier: Apache-2.0
"""A result is repeated from its record, and what differs is told."""

from __future__ import annotations

import io
import json

import pytest

from vidcomp.report.rerun import differences

CLIP, QUESTION = "pink_ring_appears.mp4", "what happens at the end?"


@pytest.fixture
def record(cli, samples, tmp_path):
    more = ("--method", "fastvid", "--keep-tokens", "50", "--frames", "6", "--inner", "fastv:k=2")
    status, out, _ = cli("ask", samples / CLIP, QUESTION, *more, "--json")
    assert status == 0
    file = tmp_path / "result.json"
    file.write_text(json.dumps(json.loads(out), indent=2))
    return file


def changed(file, **values):
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))
    return file


def test_the_same_again(cli, record):
    status, out, _ = cli("rerun", record)
    assert status == 0 and "the same answer from as many tokens; nothing differs" in out
    status, out, _ = cli("rerun", record, "--json")
    found = json.loads(out)
    assert status == 0 and found["same"] and found["differences"] == []
    assert found["now"]["tokens"]["kept"] == found["recorded"]["tokens"]["kept"] == 50


def test_another_answer_is_told(cli, record):
    versions = {**json.loads(record.read_text())["versions"], "torch": "1.0"}
    status, out, _ = cli("rerun", changed(record, answer="nothing", versions=versions), "--json")
    found = json.loads(out)
    assert status == 5 and not found["same"]
    assert {(one["field"], one["kind"], one["recorded"]) for one in found["differences"]} == {
        ("answer", "result", "nothing"), ("versions.torch", "version", "1.0")
    }  # fmt: skip


def test_another_version_alone_is_no_failure(cli, record):
    status, out, _ = cli("rerun", changed(record, versions={"vidcomp": "0.0.1"}))
    assert status == 0 and 'versions.vidcomp was "0.0.1"' in out


def test_from_standard_input(cli, record, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(record.read_text()))
    assert cli("rerun", "-")[0] == 0


def test_a_video_that_moved(cli, record, samples, tmp_path):
    status, _, err = cli("rerun", changed(record, video={"path": "gone.mp4"}))
    assert status == 3 and "--video FILE" in err
    (tmp_path / "here.mp4").write_bytes((samples / CLIP).read_bytes())
    status, out, _ = cli("rerun", record, "--video", tmp_path / "here.mp4")
    assert status == 0 and "input: video.frames_total was null, is 207" in out


def test_a_line_of_a_batch(cli, samples, tmp_path):
    results = tmp_path / "captions.jsonl"
    videos = (samples / CLIP, samples / "yellow_square_disappears.mp4")
    assert cli("caption", *videos, "-o", results, "--keep", "0.2", "--prompt", QUESTION)[0] == 0
    status, _, err = cli("rerun", results)
    assert status == 2 and "--line 1" in err
    for line, words in ((1, "pink ring"), (2, "yellow square")):
        status, out, _ = cli("rerun", results, "--line", line)
        assert status == 0 and words in out and "nothing differs" in out
    assert cli("rerun", results, "--line", 3)[0] == 2


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", 3),
        (b"[1]", 3),
        (b'{"a": 1}', 3),
        (b"\xff\xfe", 3),
        (b'{"status": "failed", "video": {}, "question": ""}', 3),
    ],
)
def test_what_is_no_result(cli, tmp_path, content, status):
    file = tmp_path / "x.json"
    file.write_bytes(content)
    assert cli("rerun", file)[0] == status


def test_settings_of_another_version(cli, record):
    content = json.loads(record.read_text())
    content["settings"]["speed_of_light"] = 1
    record.write_text(json.dumps(content))
    status, _, err = cli("rerun", record)
    assert status == 2 and "speed_of_light" in err
    del content["settings"]
    record.write_text(json.dumps(content))
    status, _, err = cli("rerun", record)
    assert status == 3 and "does not say its settings" in err


def test_equal_records_do_not_differ():
    one = {"answer": "a", "tokens": {"kept": 1}, "versions": {"x": "1"}, "seconds": {"total": 1}}
    assert differences(one, {**one, "seconds": {"total": 2}}) == []
    assert [d.field for d in differences({"caption": "a"}, {"answer": "b"})] == ["answer"]
