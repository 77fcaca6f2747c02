# SPDX-License-Identifier: Apache-2.0
"""A results file after kills, losses of power and editors: whole records stay, the door stays open."""

from __future__ import annotations

import json
import os

import pytest
from command_line import records
from hypothesis import given, settings
from hypothesis import strategies as st

from vidcomp.batch.journal import Journal
from vidcomp.batch.salvage import sort_out
from vidcomp.errors import InputError, UsageError


def lines(count):
    return [
        json.dumps(
            {
                "schema": 1,
                "status": "ok",
                "video": {"path": f"{n}.mp4"},
                "caption": 'é \\ {"',
                "job": {"file": str(n), "bytes": n},
            }
        ).encode()
        + b"\n"
        for n in range(count)
    ]


def damages(content):
    """Prefixes, zeros, single bytes, blocks and lost line breaks: where each begins and ends, and what is left."""
    place = st.integers(0, len(content))
    cut = place.map(lambda at: (at, len(content), content[:at]))
    zeros = st.tuples(place, st.integers(1, 50)).map(lambda p: (p[0], len(content), content[: p[0]] + b"\0" * p[1]))
    flip = st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255)).map(
        lambda p: (p[0], p[0] + 1, content[: p[0]] + bytes([p[1]]) + content[p[0] + 1 :])
    )
    block = st.tuples(place, st.binary(min_size=1, max_size=60)).map(
        lambda p: (p[0], p[0] + len(p[1]), content[: p[0]] + p[1] + content[p[0] + len(p[1]) :])
    )
    return st.one_of(cut, zeros, flip, block)


@given(st.data())
@settings(deadline=None, max_examples=300)
def test_no_damage_loses_whole_records_or_locks_the_door(tmp_path_factory, data):
    written = lines(data.draw(st.integers(1, 4)))
    content = b"".join(written)
    begin, end, left = data.draw(damages(content))
    path = tmp_path_factory.mktemp("journal") / "out.jsonl"
    path.write_bytes(left)
    at, whole = 0, []
    for line in written:
        if at + len(line) - 1 <= begin or at >= end:  # its break may be gone, it may not
            whole.append(json.loads(line)["job"])
        at += len(line)
    said = []
    with Journal(path, said.append) as journal:
        assert all(journal.find(key) for key in whole)
        journal.append({"file": "new"}, {"status": "ok"})
    found = records(path)
    assert [each["job"] for each in found if each["job"] in whole] == whole
    assert found[-1]["job"] == {"file": "new"}
    aside = path.with_name("out.jsonl.bad")
    assert aside.exists() == any(aside.name in line for line in said)
    before = path.read_bytes()
    with Journal(path, said.append):
        assert path.read_bytes() == before  # once healed, nothing is left to do


def test_what_is_damaged_is_kept_beside_and_told(tmp_path):
    one, two, three = lines(3)
    path = tmp_path / "out.jsonl"
    path.write_bytes(one + two[:20] + b"\xff" + two[20:] + three + b"\0" * 4096)
    path.chmod(0o640)
    said = []
    with Journal(path, said.append) as journal:
        assert journal.find({"file": "0", "bytes": 0}) and journal.find({"file": "2", "bytes": 2})
        assert journal.find({"file": "1", "bytes": 1}) is None
        with pytest.raises(UsageError, match="in use"):
            Journal(path)
    assert path.read_bytes() == one + three
    assert path.stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "out.jsonl.bad").read_bytes() == two[:20] + b"\xff" + two[20:]
    assert said == [f"1 damaged line was moved from {path} to out.jsonl.bad; what it held is done again"]
    assert sorted(os.listdir(tmp_path)) == ["out.jsonl", "out.jsonl.bad"]


def test_a_linked_results_file_stays_linked(tmp_path):
    (tmp_path / "there").mkdir()
    real = tmp_path / "there" / "out.jsonl"
    real.write_bytes(lines(1)[0] + b"broken\n")
    (tmp_path / "link.jsonl").symlink_to(real)
    with Journal(tmp_path / "link.jsonl", lambda _: None):
        pass
    assert (tmp_path / "link.jsonl").is_symlink()
    assert real.read_bytes() == lines(1)[0]


@pytest.mark.parametrize("content", [b"dear diary\n", b"{}\n", b'{"a": 1}\n{"job": 2}\n', b"\x00\x00ftyp\n\xff"])
def test_what_never_was_a_results_file_is_refused_and_left_alone(tmp_path, content):
    path = tmp_path / "diary"
    path.write_bytes(content)
    with pytest.raises(InputError, match="not a results file"):
        Journal(path)
    assert path.read_bytes() == content
    assert os.listdir(tmp_path) == ["diary"]


def test_two_records_on_one_line_are_two_records():
    one, two = lines(2)
    assert sort_out(one[:-1] + two).records == [one[:-1], two[:-1]]


def test_every_record_is_synced_before_it_counts(tmp_path, monkeypatch):
    synced = []
    real = os.fsync
    monkeypatch.setattr("os.fsync", lambda fd: (synced.append((tmp_path / "out.jsonl").stat().st_size), real(fd)))
    with Journal(tmp_path / "out.jsonl") as journal:
        for number in range(3):
            journal.append({"number": number}, {"status": "ok"})
            assert len(synced) == number + 1
            assert synced[-1] == (tmp_path / "out.jsonl").stat().st_size
