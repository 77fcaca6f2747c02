"""caption: one record per video, whatever becomes of it; a second run does what is left."""

from __future__ import annotations

import json
import resource

import pytest
from command_line import SHORT, records

from vidcomp.batch.journal import Journal
from vidcomp.errors import InputError


@pytest.fixture
def folder(clip, tmp_path):
    (tmp_path / "in" / "deeper").mkdir(parents=True)
    for name in ("a.mp4", "deeper/b c.mp4", "deeper/new\nline.mp4"):
        (tmp_path / "in" / name).write_bytes(clip.read_bytes())
    (tmp_path / "in" / "broken.mp4").write_text("no video at all")
    (tmp_path / "in" / "notes.txt").write_text("not a video")
    (tmp_path / "in" / "deeper" / "up").symlink_to(tmp_path / "in")
    return tmp_path / "in"


def test_a_batch_records_failures_and_goes_on(cli, folder, tmp_path):
    output = tmp_path / "captions.jsonl"
    status, out, err = cli("caption", folder, "-o", output, *SHORT)
    assert (status, out) == (5, "")
    assert "failed  " in err
    written = records(output)
    assert [record["status"] for record in written] == ["ok", "failed", "ok", "ok"]
    good, bad = written[0], written[1]
    assert isinstance(good["caption"], str)
    assert good["schema"] == bad["schema"] == 1
    assert "answer" not in good
    assert bad["error"]["code"]
    assert bad["video"]["path"].endswith("broken.mp4")


def test_a_second_run_skips_what_is_done(cli, folder, tmp_path):
    output = tmp_path / "captions.jsonl"
    cli("caption", folder, "-o", output, *SHORT)
    before = output.read_bytes()
    status, _, err = cli("caption", folder, "-o", output, *SHORT)
    assert status == 5
    assert "0 done, 3 done before, 1 failed" in err
    assert output.read_bytes() == before
    (folder / "broken.mp4").write_bytes((folder / "a.mp4").read_bytes())
    status, _, err = cli("caption", folder, "-o", output, *SHORT)
    assert status == 0
    assert "1 done, 3 done before, 0 failed" in err


def test_other_settings_are_other_work(cli, folder, tmp_path):
    output = tmp_path / "captions.jsonl"
    cli("caption", folder / "a.mp4", "-o", output, *SHORT)
    cli("caption", folder / "a.mp4", "-o", output, "--keep", "0.5", *SHORT)
    assert [record["keep"]["requested"] for record in records(output)] == [0.1, 0.5]


def test_a_torn_last_line_is_cut_and_done_again(cli, folder, tmp_path):
    output = tmp_path / "captions.jsonl"
    cli("caption", folder / "a.mp4", "-o", output, *SHORT)
    whole = output.read_bytes()
    output.write_bytes(whole + whole[: len(whole) // 2])
    status, _, _ = cli("caption", folder / "a.mp4", folder / "deeper", "-o", output, *SHORT)
    assert status == 0
    assert len(records(output)) == 3


def test_where_room_runs_out_whole_lines_remain(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(InputError, match=r"cannot write .*") as caught, Journal(tmp_path / "out.jsonl") as journal:
            for number in range(9):
                journal.append({"number": number}, {"status": "ok", "caption": "a" * 300})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.code == "unwritable"
    assert [record["job"]["number"] for record in records(tmp_path / "out.jsonl")] == [0, 1]


@pytest.mark.parametrize("content", [b"dear diary\n", b"dear diary", b"\x00\x00ftyp\n\xff\xfe", b"{}\n"])
def test_a_foreign_file_is_not_touched(cli, folder, tmp_path, content):
    output = tmp_path / "diary.txt"
    output.write_bytes(content)
    assert cli("caption", folder, "-o", output)[0] == 3
    assert output.read_bytes() == content


def test_a_device_is_no_results_file(cli, folder):
    assert cli("caption", folder, "-o", "/dev/full")[0] == 3


def test_captions_without_a_file_go_to_stdout(cli, folder):
    status, out, _ = cli("caption", folder / "a.mp4", *SHORT)
    assert status == 0
    assert out.startswith(f"{folder / 'a.mp4'}: ")
    status, out, _ = cli("caption", folder / "a.mp4", "--json", *SHORT)
    assert json.loads(out)["status"] == "ok"


def test_control_characters_of_names_do_not_reach_the_terminal(cli, clip, tmp_path):
    (tmp_path / "a\x1b[31m.mp4").write_bytes(clip.read_bytes())
    (tmp_path / "b\x1b[31m.mp4").write_text("no video")
    status, out, err = cli("caption", tmp_path, *SHORT)
    assert (status, "\x1b" in out + err) == (5, False)
    assert r"a\x1b[31m.mp4: " in out
    assert "\x1b" not in cli("caption", tmp_path / "b\x1b[31m.mp4", "-o", tmp_path / "b\x1b[31m.mp4")[2]


def test_nothing_to_caption(cli, tmp_path):
    assert cli("caption", tmp_path)[0] == 3
    status, _, err = cli("caption", tmp_path / "nowhere.mp4")
    assert status == 5
    assert "no such file" in err
