# SPDX-License-Identifier: Apache-2.0
"""Names of files in records lead back to the files; folders say what they leave out."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import pytest
from command_line import SHORT, records
from hypothesis import example, given, settings
from hypothesis import strategies as st

import vidcomp
from vidcomp.batch.discover import find_videos
from vidcomp.batch.jobs import names_below
from vidcomp.errors import InputError
from vidcomp.video.files import open_video
from vidcomp.video.names import display_name, local_path, path_from_record, recorded_name

PIECES = st.sampled_from([b"\\", b"x", b"\\x", b"5c", b"e9", b"\xe9", b"\xc3\xa9", b"\xed\xa0\x80", b"\n", b" ", b"a"])
NAMES = st.one_of(st.lists(PIECES, min_size=1, max_size=9).map(b"".join), st.binary(min_size=1, max_size=12)).map(
    lambda name: name.replace(b"\0", b"0")
)


@given(NAMES)
@settings(deadline=None)
@example(rb"a\xe9.mp4")
@example(b"a\xe9.mp4")
def test_a_recorded_name_leads_back_to_the_file(name):
    text = recorded_name(os.fsdecode(name))
    text.encode("utf-8")
    assert json.loads(json.dumps(text)) == text
    assert os.fsencode(path_from_record(text)) == os.fsencode(local_path_of(name))


def local_path_of(name):
    """Paths drop slashes that say nothing; what is left has to come back."""
    return Path(os.fsdecode(name))


@given(NAMES, NAMES)
@settings(deadline=None)
def test_other_files_have_other_names(one, other):
    texts = recorded_name(os.fsdecode(one)), recorded_name(os.fsdecode(other))
    assert (one == other) == (texts[0] == texts[1])


@pytest.mark.parametrize("name", ["a.mp4", "映画 é.mp4", "C:\\new\\xyz.mp4", "a\nb", "\\x", "\\xG1", "\\xE9"])
def test_ordinary_names_stay_as_they_are(name):
    assert recorded_name(name) == name


def test_records_name_files_that_can_be_opened(cli, clip, tmp_path):
    (tmp_path / "in").mkdir()
    names = [b"a\xe9.mp4", b"a\xe8.mp4", rb"a\xe9.mp4", "é.mp4".encode()]
    for name in names:
        (tmp_path / "in" / os.fsdecode(name)).write_bytes(clip.read_bytes())
    (tmp_path / "in" / os.fsdecode(b"bad\xff.mp4")).write_text("no video")
    assert cli("caption", tmp_path / "in", "-o", tmp_path / "out.jsonl", *SHORT)[0] == 5
    written = records(tmp_path / "out.jsonl")
    for texts in (
        [each["video"]["path"] for each in written],
        [f"{tmp_path}/in/{each['job']['name']}" for each in written],
    ):
        found = {os.path.basename(os.fsencode(vidcomp.path_from_record(text))) for text in texts}
        assert found == {*names, b"bad\xff.mp4"}
        assert all(vidcomp.path_from_record(text).is_file() for text in texts)


def test_probe_and_frames_name_files_as_records_do(cli, clip, tmp_path):
    odd = tmp_path / os.fsdecode(b"\xff.mp4")
    odd.write_bytes(clip.read_bytes())
    for args in (["probe", odd, "--json"], ["frames", odd, "--json", "-o", tmp_path / os.fsdecode(b"\xfe")]):
        found = json.loads(cli(*args)[1])
        text = found["video"]["path"] if "video" in found else found["path"]
        assert path_from_record(text) == odd
        assert all(path_from_record(file).is_file() for file in found.get("files", ()))


def test_a_key_tells_odd_names_apart(tmp_path):
    keys = set(names_below([tmp_path / os.fsdecode(name) for name in (b"\xe9", rb"\xe9", b"\xc3\xa9")], [tmp_path]))
    assert len(keys) == 3


@pytest.mark.parametrize("begin", ["file://", "file://localhost", "FILE://", "file:"])
def test_the_address_of_a_local_file_is_its_path(cli, clip, tmp_path, begin):
    odd = tmp_path / os.fsdecode(b"a b%20\xff.mp4")
    odd.write_bytes(clip.read_bytes())
    address = begin + str(tmp_path) + "/a%20b%2520%FF.mp4"
    assert local_path(address) == odd
    assert cli("frames", address, "--frames", 2)[0] == 0


@pytest.mark.parametrize("scheme", ["http", "https", "rtsp", "s3", "gs"])
def test_an_address_is_refused_as_one(cli, scheme):
    status, _, err = cli("ask", f"{scheme}://example.com/a.mp4", "what?")
    assert status == 3
    assert f"{scheme}://example.com/a.mp4 is an address" in err and "download it first" in err


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("-", "standard input"),
        ("*.mp4", "without quotes"),
        ("no/such/a.mp4", "there is no folder"),
        ("x.mp4", "nothing in"),
    ],
)
def test_a_missing_file_is_explained(given, words):
    with pytest.raises(InputError) as caught:
        open_video(given)
    told = caught.value
    assert words in told.why + told.hint and told.why not in told.what


def test_names_on_the_screen_tell_bytes_from_backslashes():
    assert display_name(os.fsdecode(b"\xe9")) != display_name(r"\xe9")


def test_folders_say_what_they_leave_out(tmp_path):
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "deep").mkdir()
    for name in (
        "a.mp4",
        "b.H264",
        "deep/c.dv",
        "deep/d.avif",
        "e.txt",
        "f.TXT",
        "g.webp",
        ".h.mp4",
        "i",
        ".hidden/j.mp4",
    ):
        (tmp_path / name).touch()
    (tmp_path / "deep" / "up").symlink_to(tmp_path)
    (tmp_path / "again.mp4").symlink_to(tmp_path / "a.mp4")
    found = find_videos([tmp_path])
    assert [path.name for path in found.videos] == ["a.mp4", "b.H264", "c.dv", "d.avif"]
    assert found.files == Counter({".txt": 2, ".webp": 1, "hidden": 1, "without suffix": 1, "linked twice": 1})
    words = (
        "left out: 6 files (2 .txt, 1 .webp, 1 hidden, 1 linked twice, 1 without suffix), 2 folders (1 hidden, 1 link)"
    )
    assert found.left_out == words
    assert find_videos([tmp_path / "again.mp4", tmp_path / "e.txt"]).left_out == ""


def test_what_is_left_out_is_told(cli, clip, tmp_path):
    (tmp_path / "a.mp4").write_bytes(clip.read_bytes())
    (tmp_path / "notes.txt").touch()
    assert "left out: 1 file (1 .txt)" in cli("probe", tmp_path)[2]
    (tmp_path / "a.mp4").unlink()
    assert "left out: 1 file (1 .txt)" in cli("caption", tmp_path)[2]
