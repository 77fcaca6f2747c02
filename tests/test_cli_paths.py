# SPDX-License-Identifier: Apache-2.0
"""Names and rights of files that the system makes difficult."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from command_line import command

from vidcomp.batch.discover import find_videos

LONG = "n" * 300


def unprivileged(*args):
    """A command line without root's right to read everything."""
    if os.geteuid():
        return command(*args)
    if not shutil.which("setpriv"):
        pytest.skip("root reads everything, and there is no setpriv")
    dropped = "-dac_override,-dac_read_search"
    return ["setpriv", "--bounding-set", dropped, "--inh-caps=-all", *command(*args)]


@pytest.mark.parametrize(
    "args",
    [["ask", "CLIP", "what?"], ["chat", "CLIP"], ["caption", "CLIP"], ["report", "CLIP"], ["bench", "ask", "CLIP"]],
)
def test_a_file_that_may_not_be_read_is_no_wrong_usage(cli, clip, monkeypatch, args):
    """The command-line library's own look at it would end a whole batch; what comes first is the wrong method."""
    monkeypatch.setattr(os, "access", lambda *_, **__: False)
    status, _, err = cli(*(clip if arg == "CLIP" else arg for arg in args), "--method", "hollitom")
    assert status == 2
    assert "did you mean 'holitom'?" in err


def test_files_without_permission_and_long_names_are_failed_records(clip, tmp_path):
    locked = tmp_path / "locked"
    locked.mkdir()
    secret = tmp_path / "secret.mp4"
    for path in (secret, locked / "inside.mp4"):
        path.write_bytes(clip.read_bytes())
    secret.chmod(0)
    locked.chmod(0)
    words = unprivileged("probe", locked / "inside.mp4", secret, tmp_path / LONG, clip, "--json")
    folder = unprivileged("probe", tmp_path, "--json")
    alone = unprivileged("frames", secret, "--json")
    written = unprivileged("frames", clip, "-o", locked / "new", "--json")
    try:
        done, folder, alone, written = (
            subprocess.run(line, capture_output=True, text=True) for line in (words, folder, alone, written)
        )
    finally:
        locked.chmod(0o700)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    codes = [record["error"]["code"] if "error" in record else record["status"] for record in found]
    assert (done.returncode, codes) == (5, ["no_permission", "no_permission", "missing", "ok"])
    inside = {
        Path(record["path"]).name: record.get("error", {}).get("code")
        for record in map(json.loads, folder.stdout.splitlines())
    }
    assert inside == {"locked": "no_permission", "secret.mp4": "no_permission"}
    assert (alone.returncode, json.loads(alone.stdout)["error"]["code"]) == (3, "no_permission")
    assert (written.returncode, json.loads(written.stdout)["error"]["code"]) == (3, "unwritable")


def test_long_names(cli, clip, tmp_path):
    status, out, err = cli("frames", clip, "-o", tmp_path / LONG)
    assert (status, out) == (3, "")
    assert "File name too long" in err
    assert find_videos([tmp_path / LONG, clip]).videos == [tmp_path / LONG, clip]
