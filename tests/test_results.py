# SPDX-License-Identifier: Apache-2.0
"""Reading results: a file or a folder of parts, of both schemas, whole or damaged."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from vidcomp.batch.results import read_results
from vidcomp.errors import InputError


def line(content):
    return json.dumps(content).encode() + b"\n"


def run(name, **settings):
    return line({"schema": 2, "run": name, "settings": settings, "models": {"model": "f" * 32}})


def record(path, status="ok", name="r", schema=2, **more):
    key = {"run": name} if schema == 2 else {"file": f"/{path}", "settings": {"keep": 0.1, "prompt": "what?"}}
    job = {"name": path, "bytes": 9, "mtime_ns": 1, "content": None if status == "failed" else "c", **key}
    return line({"schema": schema, "status": status, "video": {"path": path}, "question": "what?", **more, "job": job})


def found(path, **options):
    return [(one.record["video"]["path"], one.record["status"]) for one in read_results(path, **options)]


def test_each_record_comes_with_its_settings(tmp_path):
    file = tmp_path / "out.jsonl"
    file.write_bytes(record("0.mp4", schema=1) + run("r", keep=0.1) + run("s", keep=0.5) + record("1.mp4", name="s"))
    file.write_bytes(file.read_bytes() + record("1.mp4", name="r") + record("1.mp4", name="lost"))
    results = list(read_results(file))
    assert [one.settings.get("keep") for one in results] == [0.1, 0.5, 0.1, None]
    assert [one.models for one in results] == [{}, {"model": "f" * 32}, {"model": "f" * 32}, {}]


def test_a_success_counts_before_a_failure_and_the_newest_among_equals(tmp_path):
    for part, content in {
        "part-b-7-20260102T000000.jsonl": record("a", "failed") + record("b", caption="new"),
        "part-z-7-20260101T000000.jsonl": record("a") + record("b", caption="old") + record("c", "failed"),
        "part-a-7-20260103T000000.jsonl": record("c", "degraded"),
        "notes.jsonl": b"not ours\n",
    }.items():
        (tmp_path / part).write_bytes(run("r") + content)
    assert sorted(found(tmp_path)) == [("a", "ok"), ("b", "ok"), ("c", "degraded")]
    assert {one.record.get("caption") for one in read_results(tmp_path)} == {None, "new"}
    assert len(found(tmp_path, every=True)) == 6


def test_what_is_damaged_is_left_out_and_told(tmp_path):
    file, said = tmp_path / "out.jsonl", []
    content = run("r") + record("a") + record("b")[:40] + b"\n" + record("c") + record("d")[:-9] + b"\0" * 99
    file.write_bytes(content)
    assert [name for name, _ in found(file, tell=said.append)] == ["a", "c"]
    assert file.read_bytes() == content
    assert said == [f"{file}: 1 damaged line was left out"]


@pytest.mark.parametrize("content", [None, b"dear diary\n"])
def test_what_holds_no_results_is_refused(tmp_path, content):
    file = tmp_path / "out.jsonl"
    if content is not None:
        file.write_bytes(content)
    for path in (file, tmp_path):
        with pytest.raises(InputError):
            list(read_results(path, tell=lambda _: None))


SCHEMA = json.loads((Path(__file__).parents[1] / "docs" / "results.schema.json").read_text(encoding="utf-8"))


def holds(content):
    return jsonschema.Draft202012Validator(SCHEMA).is_valid(content)


def test_lines_are_as_the_published_schema_says(cli, samples, tmp_path):
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    whole = (samples / "yellow_square_disappears.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "none.mp4").write_bytes(b"")
    results = tmp_path / "out.jsonl"
    videos = [samples / "pink_ring_appears.mp4", *sorted(tmp_path.glob("*.mp4"))]
    assert cli("caption", *videos, "-o", results)[0] == 5
    assert cli("caption", videos[0], "-o", results, "--every", "4s", "--keep", "0.2")[0] == 0
    lines = [json.loads(line) for line in results.read_text().splitlines()]
    assert sorted("run" in line for line in lines).count(True) == 2
    assert {line["status"] for line in lines if "job" in line} >= {"ok", "failed"}
    for line in lines:
        jsonschema.validate(line, SCHEMA)
        for name in ("schema", "run", "settings", "status", "job", "caption", "error"):
            assert name not in line or not holds({key: value for key, value in line.items() if key != name})
        assert not holds({**line, "schema": 1})
