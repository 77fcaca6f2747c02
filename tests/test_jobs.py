# SPDX-License-Identifier: Apache-2.0
"""Finished work is known again wherever it lies, and nothing else is taken for it."""

from __future__ import annotations

import json
import os
import shutil
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vidcomp.batch.jobs import SAMPLE_BYTES, Job, Run, content_sample, jobs_of, names_below
from vidcomp.batch.journal import Journal
from vidcomp.config import RunConfig
from vidcomp.hub import EMBEDDED
from vidcomp.hub.fingerprint import fingerprint
from vidcomp.video.names import recorded_name

FLAT = RunConfig().flat()


def job(path, question="what?", models=None, name=None, **changed):
    return Job.of(path, name or path.name, question, Run.of({**FLAT, **changed}, models or {}))


def record(path, status="ok", question="what?"):
    return {"schema": 1, "status": status, "video": {"path": recorded_name(path)}, "question": question}


def known(journal, *jobs):
    return [any(journal.records_of(each)) for each in jobs]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "in" / "a.mp4"
    path.parent.mkdir()
    path.write_bytes(b"one" * 99)
    return path


@pytest.fixture
def done(file, tmp_path):
    """A results file in which one job is done."""
    with Journal(tmp_path / "out.jsonl") as journal:
        journal.append(job(file), record(file))
    return tmp_path / "out.jsonl"


def test_settings_that_shape_nothing_are_no_part_of_the_key(done, file):
    free = {"deadline": 99.0, "strict": True, "device": "cpu", "attn": "eager", "offline": True, "option_to_come": None}
    shaping = {"keep": 0.2, "method": "random", "frames": 3, "seed": 1, "dtype": "float32", "model": "other"}
    with Journal(done) as journal:
        assert known(journal, job(file)) == [True]
        assert all(known(journal, *(job(file, **{name: value}) for name, value in free.items())))
        assert not any(known(journal, *(job(file, **{name: value}) for name, value in shaping.items())))
        assert known(journal, job(file, question="who?")) == [False]


def test_a_model_is_known_by_its_content_not_its_name(file, tmp_path):
    with Journal(tmp_path / "out.jsonl") as journal:
        journal.append(job(file, models={"model": "f"}, model="/here/nano"), record(file))
        assert known(journal, job(file, models={"model": "f"}, model="/there/nano")) == [True]
        assert known(journal, job(file, models={"model": "e"}, model="/here/nano")) == [False]


def test_a_moved_folder_and_a_copied_file_are_known_and_a_changed_one_is_not(done, file, tmp_path):
    moved = tmp_path / "there" / "a.mp4"
    shutil.copytree(file.parent, moved.parent)
    os.utime(moved, ns=(0, 5))
    with Journal(done) as journal:
        assert known(journal, job(moved)) == [True]  # by its content, being younger
        moved.write_bytes(b"two" * 99)
        assert known(journal, job(moved)) == [False]
        moved.write_bytes(b"one" * 98)
        assert known(journal, job(moved)) == [False]
        assert known(journal, job(tmp_path / "there" / "gone.mp4", name="a.mp4")) == [False]


def test_what_failed_is_known_by_its_age_alone(file, tmp_path):
    with Journal(tmp_path / "out.jsonl") as journal:
        journal.append(job(file), record(file, "failed"))
        assert known(journal, job(file)) == [True]
        os.utime(file, ns=(0, 5))
        assert known(journal, job(file)) == [False]


def test_files_of_one_name_below_several_arguments_are_told_apart(tmp_path):
    files = [tmp_path / folder / "x.mp4" for folder in "ab"]
    for path in files:
        path.parent.mkdir()
        path.write_bytes(b"same")
        os.utime(path, ns=(0, 5))
    names = names_below(files, [path.parent for path in files])
    assert names == ["x.mp4", "x.mp4"]
    first, second = jobs_of(files, names, "what?", Run.of(FLAT, {}))
    with Journal(tmp_path / "out.jsonl") as journal:
        journal.append(second, record(files[1]))
        assert known(journal, first, second) == [False, True]
        assert known(journal, job(files[0])) == [True]  # alone, it is the same video


def test_records_of_schema_1_count_by_place_age_and_settings(file, tmp_path):
    facts, earlier = file.stat(), {name: value for name, value in FLAT.items() if name not in ("reuse", "deadline")}
    key = {"file": recorded_name(file), "bytes": facts.st_size, "mtime_ns": facts.st_mtime_ns}
    line = {**record(file), "job": {**key, "settings": {**earlier, "prompt": "what?", "deadline": 9}}}
    (tmp_path / "out.jsonl").write_text(json.dumps(line) + "\n")
    with Journal(tmp_path / "out.jsonl") as journal:
        assert known(journal, job(file, models={"model": "f"})) == [True]
        assert journal.finished.others(Run.of(FLAT, {"model": "f"})) == ""
        assert known(journal, job(file, question="who?"), job(file, keep=0.5), job(file, reuse="auto")) == [False] * 3
        journal.append(job(file, keep=0.5), record(file))
    written = (tmp_path / "out.jsonl").read_text().splitlines()
    assert json.loads(written[0]) == line
    assert [json.loads(each)["schema"] for each in written[1:]] == [2, 2]


def test_settings_stand_once_and_others_are_told(tmp_path, file):
    with Journal(tmp_path / "out.jsonl") as journal:
        for number in range(5):
            journal.append(job(file, question=str(number)), record(file, question=str(number)))
    with Journal(tmp_path / "out.jsonl") as journal:
        for number in range(5):
            journal.append(job(file, question=str(number), keep=0.5, frames=3), record(file, question=str(number)))
        assert known(journal, job(file, question="4"), job(file, question="4", keep=0.5, frames=3)) == [True, True]
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [number for number, line in enumerate(lines) if "settings" in line] == [0, 6]
    assert max(len(json.dumps(line["job"])) for line in lines if "job" in line) < 200
    with Journal(tmp_path / "out.jsonl") as journal:
        told = journal.finished.others(Run.of(FLAT, {}))
        assert told == "5 records made with other settings (frames, keep)"


def test_an_option_that_came_later_is_no_other_work(done, file):
    lines = done.read_text().splitlines()
    first = json.loads(lines[0])
    del first["settings"]["reuse"]  # as an earlier version wrote it, under another name
    text = json.dumps({**first, "run": "0ld"}) + "\n" + lines[1].replace(first["run"], "0ld") + "\n"
    done.write_text(text)
    with Journal(done) as journal:
        assert known(journal, job(file), job(file, reuse="auto")) == [True, False]
        assert journal.finished.others(Run.of(FLAT, {})) == ""


def test_names_are_relative_to_the_outermost_argument(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a" / "b").mkdir(parents=True)
    there = ["a/x.mp4", "a/b/x.mp4", "y.mp4"]
    from pathlib import Path

    paths = [Path(name) for name in there]
    assert names_below(paths, [Path("a/b"), Path("a")]) == ["x.mp4", "b/x.mp4", "y.mp4"]
    assert names_below(paths, [Path(".")]) == there
    assert names_below([tmp_path / name for name in there], [tmp_path]) == there
    assert names_below([tmp_path / "ab" / "x.mp4"], [tmp_path / "a"]) == ["x.mp4"]


@given(st.binary(max_size=3), st.integers(0, 3 * SAMPLE_BYTES))
@settings(deadline=None, max_examples=30)
def test_content_is_known_by_both_ends(tmp_path_factory, ends, size):
    folder = tmp_path_factory.mktemp("content")
    one, other = folder / "one", folder / "other"
    one.write_bytes(ends + bytes(size) + ends)
    other.write_bytes(ends + bytes(size) + ends)
    assert content_sample(one) == content_sample(other) is not None
    other.write_bytes(b"!" + ends + bytes(size) + ends)
    assert content_sample(one) != content_sample(other)
    other.write_bytes(ends + bytes(size) + ends + b"!")
    assert content_sample(one) != content_sample(other)


def test_no_pipe_is_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert content_sample(tmp_path / "pipe") is None


def test_fingerprints_tell_weights_apart(tmp_path, monkeypatch):
    import vidcomp.hub.fingerprint as module

    copy = shutil.copytree(EMBEDDED["nano"], tmp_path / "copy")
    assert fingerprint(copy) == fingerprint(EMBEDDED["nano"])
    assert fingerprint(EMBEDDED["embedded"]) != fingerprint(copy)
    (copy / "README.md").write_text("other words")
    assert fingerprint(copy) == fingerprint(EMBEDDED["nano"])
    weights = bytearray((copy / "model.safetensors").read_bytes())
    for whole in (module.WHOLE_BYTES, 1000):
        monkeypatch.setattr(module, "WHOLE_BYTES", whole)
        (copy / "model.safetensors").write_bytes(weights)
        before = fingerprint(copy)
        (copy / "model.safetensors").write_bytes(weights[:-100] + bytes(100))  # as many bytes
        assert fingerprint(copy) != before


def test_a_finished_record_takes_little_memory(tmp_path, file):
    one = job(file)
    lines = [json.dumps(one.run.line())]
    for number in range(5000):
        content = {**record(file), "caption": "a" * 1000, "job": {**one.key(read=True), "name": f"{number}.mp4"}}
        lines.append(json.dumps(content))
    (tmp_path / "out.jsonl").write_text("\n".join(lines) + "\n")
    del lines
    tracemalloc.start()
    try:
        with Journal(tmp_path / "out.jsonl") as journal:
            assert tracemalloc.get_traced_memory()[0] < 200 * 5000
            found = next(journal.records_of(job(file, name="4999.mp4")))
            assert found["caption"] == "a" * 1000
            assert known(journal, job(file, name="5000.mp4")) == [False]
    finally:
        tracemalloc.stop()
