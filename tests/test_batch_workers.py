# SPDX-License-Identifier: Apache-2.0
"""Worker processes of a batch: each task has one record, whatever dies when."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from command_line import ROOT, SHORT, records

import vidcomp.batch.workers as workers
from vidcomp.batch.tasks import FailureLimit, Task
from vidcomp.batch.workers import Crew, Plan, planned
from vidcomp.config import RunConfig
from vidcomp.errors import ModelError, UsageError

FAKE = workers.BOOT.replace("vidcomp.batch.worker", "fake_worker")


@pytest.fixture(autouse=True)
def fake(request, monkeypatch):
    if "cli" not in request.fixturenames:
        monkeypatch.setattr(workers, "BOOT", FAKE)


def tasks(*names):
    return [Task(number, Path(name), "what?") for number, name in enumerate(names)]


def answered(crew, given):
    return {task.number: record for task, record in crew.all(given)}


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_every_task_is_answered_once_by_several(ahead):
    with Crew(RunConfig(), Plan(("cpu", "cpu"), ahead), ["what?"]) as crew:
        found = list(crew.all(tasks(*map(str, range(20)))))
    assert sorted(task.number for task, _ in found) == list(range(20))
    assert len({record["pid"] for _, record in found}) == 2


@pytest.mark.parametrize("seed", range(3))
def test_workers_killed_at_random_moments_lose_nothing(seed):
    draw = random.Random(seed)
    found: list[int] = []
    with Crew(RunConfig(), Plan(("cpu",) * 3), ["what?"]) as crew:
        for task, record in crew.all(tasks(*map(str, range(30)))):
            found.append(task.number)
            assert record["status"] == "ok"
            if len(found) % 9 == 0 and len(found) < 28:
                time.sleep(draw.random() * 0.03)
                os.kill(draw.choice(crew._workers).process.pid, signal.SIGKILL)
    assert sorted(found) == list(range(30))


@pytest.mark.parametrize("fatal", ["die", "hang"])
def test_a_video_that_ends_two_workers_is_a_failed_record(fatal):
    given = tasks("a", fatal, "b", "c", fatal, "d")
    with Crew(RunConfig(), Plan(("cpu", "cpu"), patience=0.5), ["what?"]) as crew:
        found = answered(crew, given)
    assert Counter(record["status"] for record in found.values()) == {"ok": 4, "failed": 2}
    assert {found[number]["error"]["code"] for number in (1, 4)} == {"worker_died"}
    assert found[1]["error"]["why"].startswith("signal 9" if fatal == "die" else "no answer within 0.5 s")
    assert set(list(found)[-2:]) == {1, 4}  # alone, after all others


@pytest.mark.parametrize(("question", "words"), [("no model", "no such model"), ("no start", "while they load")])
def test_what_is_wrong_with_every_worker_ends_the_batch(question, words):
    with pytest.raises(ModelError, match=words), Crew(RunConfig(), Plan(("cpu",) * 2), [question]) as crew:
        answered(crew, tasks("a"))


def test_workers_end_with_their_parent():
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import test_batch_workers as t\n"
        "t.workers.BOOT = t.FAKE\n"
        "crew = t.Crew(t.RunConfig(), t.Plan(('cpu',) * 2), ['what?'])\n"
        "for _, record in crew.all(t.tasks(*map(str, range(100000)))): print(record['pid'], flush=True)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(ROOT / "tests")], stdout=subprocess.PIPE, cwd=ROOT)
    pids = {int(parent.stdout.readline()) for _ in range(12)}
    parent.kill()
    parent.communicate()
    for _ in range(500):
        if not any(_lives(pid) for pid in pids):
            return
        time.sleep(0.02)
    pytest.fail("a worker outlived its parent")


def _lives(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_devices_are_shared_out(monkeypatch):
    config = RunConfig()
    assert planned("1", None, 1, config) == ("auto",)
    assert planned("1", "cuda:0,cuda:1", 2, config) == ("cuda:0", "cuda:1") * 2
    assert planned("3", "cuda:0,cuda:1", 1, config) == ("cuda:0", "cuda:1", "cuda:0")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    assert planned("auto", None, 2, config) == ("cuda:0", "cuda:1") * 2
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert planned("auto", None, 1, config) == ("auto", "auto")
    for wrong in (("0", None, 1), ("many", None, 1), ("1", "gpu", 1), ("1", None, 0)):
        with pytest.raises(UsageError):
            planned(*wrong, config)


@pytest.mark.parametrize(
    ("text", "failed", "total", "too_many"),
    [(None, 99, 99, False), ("0", 1, 9, True), ("2", 2, 9, False), ("10%", 1, 10, False), ("10%", 2, 10, True)],
)
def test_a_limit_of_failures(text, failed, total, too_many):
    assert FailureLimit.parse(text).exceeded(failed, total) is too_many


@pytest.mark.parametrize("text", ["-1", "1.5", "101%", "many", ""])
def test_no_limit_of_failures(text):
    with pytest.raises(UsageError):
        FailureLimit.parse(text)


def test_a_hopeless_batch_stops(cli, tmp_path):
    for number in range(6):
        (tmp_path / f"{number}.mp4").write_text("no video")
    status, _, err = cli("caption", tmp_path, "-o", tmp_path / "out.jsonl", "--max-failures", "2", *SHORT)
    assert status == 5 and "stopped: 3 of 3 videos failed" in err
    assert len(records(tmp_path / "out.jsonl")) == 3


def test_two_workers_answer_what_one_does_and_their_parent_loads_no_torch(cli, clip, samples, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "z.mp4").write_bytes(clip.read_bytes())
    (folder / "bad.mp4").write_text("no video")
    for sample in sorted(samples.glob("*.mp4"))[:4]:
        (folder / sample.name).write_bytes(sample.read_bytes())
    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    assert cli("caption", folder, "-o", one, *SHORT)[0] == 5
    code = "import sys; from vidcomp.cli.app import run; run(sys.argv[1:]); sys.exit('torch' in sys.modules)"
    line = [sys.executable, "-c", code, "caption", str(folder), "-o", str(two), "--workers", "2", *SHORT]
    done = subprocess.run(line, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr

    def content(path):
        return {
            record["video"]["path"]: json.dumps([record.get(name) for name in ("status", "caption", "frames", "job")])
            for record in records(path)
        }

    assert content(one) == content(two)


def test_where_memory_runs_out_smaller_chunks_and_then_fewer_frames_are_tried(clip, tmp_path, monkeypatch):
    import torch

    import vidcomp
    from vidcomp.batch.answering import Answerer

    with vidcomp.load("nano", device="cpu", frames=8, max_new_tokens=2) as lm, Answerer(lm, 1) as answerer:
        real, most = type(lm.family).encode_chunk, 8

        def starved(self, pixels, *args):
            if len(pixels) > most:
                raise torch.OutOfMemoryError("no room")
            return real(self, pixels, *args)

        monkeypatch.setattr(type(lm.family), "encode_chunk", starved)
        said = {}
        for most in (8, 4, 2, 0):
            [(_, record)] = answerer.all([Task(0, clip, "what?")])
            said[most] = (record["status"], record.get("frames", {}).get("sampled"), record.get("notes", [""])[-1])
        assert said[8][:2] == ("ok", 8) and "memory" not in said[8][2]
        assert said[4] == ("ok", 8, "memory ran out with 8 frames: fewer at a time")
        assert said[2] == ("ok", 2, "memory ran out with 8 frames: 2 of them were read")
        assert said[0][0] == "failed" and record["error"]["code"] == "out_of_memory"
        assert "chunk" not in vars(lm.family)
