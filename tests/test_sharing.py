# SPDX-License-Identifier: Apache-2.0
"""A folder of results that several processes share: each video once, and no work is lost with its process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from waiting import PATIENCE_SECONDS, until

from vidcomp.batch.results import read_results
from vidcomp.batch.shards import Shard
from vidcomp.errors import UsageError

SHARER = Path(__file__).with_name("sharer.py")


@pytest.fixture
def videos(tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    for number in range(24):
        (folder / f"{number:02}.mp4").write_bytes(b"%d" % number)
    return folder


def begin(videos, results, work=0.02, takeover=1.0):
    command = [sys.executable, str(SHARER), str(videos), str(results), str(work), str(takeover)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def end(process):
    out, err = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, err
    return out


def lines(results):
    """All records of all parts, as they lie there."""
    found = [
        json.loads(line) for part in sorted(results.glob("part-*.jsonl")) for line in part.read_text().splitlines()
    ]
    return [line for line in found if "job" in line]


def test_eight_processes_do_each_video_once(videos, tmp_path):
    results = tmp_path / "out"
    together = [begin(videos, results) for _ in range(8)]
    printed = [end(process) for process in together]
    made = Counter(record["job"]["name"] for record in lines(results))
    assert made == dict.fromkeys((file.name for file in videos.iterdir()), 1)
    assert {result.record["job"]["name"] for result in read_results(results)} == set(made)
    for out in printed:  # everyone hears of every video, whoever did it
        assert len([line for line in out.splitlines() if line.startswith(("done", "before"))]) == 24
    assert not (results / "claims").exists()
    again = end(begin(videos, results))
    assert "begins" not in again and again.count("before") == 24


def test_the_work_of_a_killed_process_is_taken_over(videos, tmp_path):
    results = tmp_path / "out"
    slow = begin(videos, results, work=600)
    assert slow.stdout.readline().startswith("begins")
    other = begin(videos, results)
    until(lambda: len(lines(results)) == 23)
    slow.send_signal(signal.SIGKILL)
    slow.communicate()
    out = end(other)
    assert len([line for line in out.splitlines() if line.startswith("done")]) == 24
    assert Counter(record["job"]["name"] for record in lines(results)).most_common(1)[0][1] == 1


def test_a_process_that_is_stopped_keeps_what_it_has_until_it_is_silent_for_long(videos, tmp_path):
    """As on another machine: the lock cannot be asked, only the signs of life."""
    results = tmp_path / "out"
    slow = begin(videos, results, work=600, takeover=0.5)
    assert slow.stdout.readline().startswith("begins")
    for claim in (results / "claims").iterdir():  # as if it were of another machine
        claim.write_text(json.dumps({**json.loads(claim.read_text()), "boot": "elsewhere"}))
    other = begin(videos, results, takeover=0.5)
    until(lambda: len(lines(results)) == 23)
    slow.send_signal(signal.SIGSTOP)
    try:
        assert len([line for line in end(other).splitlines() if line.startswith("done")]) == 24
    finally:
        slow.kill()
        slow.communicate()


def test_damage_in_a_part_is_left_where_it_is_and_done_again(videos, tmp_path):
    results = tmp_path / "out"
    end(begin(videos, results))
    (part,) = results.glob("part-*.jsonl")
    whole = part.read_bytes().splitlines(keepends=True)
    part.write_bytes(b"".join(whole[:5]) + b"\0\0\0 nonsense\n" + b"".join(whole[6:-1]) + whole[-1][:40])
    damaged = part.read_bytes()
    again = begin(videos, results)
    out, err = again.communicate(timeout=PATIENCE_SECONDS)
    assert again.returncode == 0 and "1 damaged line left out" in err
    assert len([line for line in out.splitlines() if line.startswith("done")]) == 2
    assert part.read_bytes() == damaged
    assert len({result.record["job"]["name"] for result in read_results(results)}) == 24


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_told(videos, tmp_path):
    results = tmp_path / "out"
    results.mkdir(0o500)
    process = begin(videos, results)
    _, err = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode and "cannot write" in err


def test_a_file_in_the_place_of_the_folder_is_told(cli, samples, tmp_path):
    (tmp_path / "out").write_text("mine")
    status, _, err = cli("caption", samples, "-o", f"{tmp_path / 'out'}/")
    assert status == 3 and "out" in err
    assert (tmp_path / "out").read_text() == "mine"


def test_by_command(cli, samples, tmp_path):
    results, two = f"{tmp_path}/out/", [samples / "pink_ring_appears.mp4", samples / "yellow_square_disappears.mp4"]
    status, _, err = cli("caption", two[0], "-o", results, "--keep", "0.2")
    assert status == 0 and "1 done, 0 done before" in err
    status, _, err = cli("caption", *two, "-o", results, "--keep", "0.2")
    assert status == 0 and "1 done, 1 done before" in err
    found = {result.record["video"]["path"]: result.settings["keep"] for result in read_results(tmp_path / "out")}
    assert found == {str(path): 0.2 for path in two}
    assert len(list((tmp_path / "out").glob("part-*.jsonl"))) == 2


@given(st.lists(st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1), unique=True),
       st.integers(1, 9))  # fmt: skip
def test_shards_divide_without_rest(names, count):
    held = [[shard.holds(name) for shard in (Shard(number, count) for number in range(1, count + 1))] for name in names]
    assert all(sum(row) == 1 for row in held)


def test_shards_are_of_like_size():
    names = [f"video {number}.mp4" for number in range(4000)]
    sizes = [sum(Shard(number, 8).holds(name) for name in names) for number in range(1, 9)]
    assert min(sizes) > 400 and max(sizes) < 600


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "a/b", "1/0", "-1/4", "1/4/2", ""])
def test_what_is_no_shard(text):
    with pytest.raises(UsageError):
        Shard.parse(text)


def test_a_shard_is_the_same_below_any_folder(tmp_path):
    for root in ("one", "two/deep"):
        for name in ("a.mp4", "b/c.mp4", "d.mp4"):
            (tmp_path / root / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / root / name).write_bytes(b"")
    found = []
    for root in ("one", "two/deep"):
        files = sorted((tmp_path / root).rglob("*.mp4"))
        found.append([sorted(Shard(number, 3).of(files, [tmp_path / root]).values()) for number in (1, 2, 3)])
    assert found[0] == found[1] and sum(map(len, found[0])) == 3
