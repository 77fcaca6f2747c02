# SPDX-License-Identifier: Apache-2.0
"""frames and probe: what is looked at without a model."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import numpy as np
from clips import read_numbers
from command_line import QUESTION, SHORT

from vidcomp.core import index
from vidcomp.core.published import PUBLISHED
from vidcomp.core.stock_rules import StockRule
from vidcomp.families import FAMILIES
from vidcomp.hub.processor import sampling_facts
from vidcomp.video import Sampling, read_frames
from vidcomp.video.probe import probe


def test_a_picture_of_unknown_size_has_no_price_and_the_rest_goes_on(cli, clip, tmp_path, monkeypatch):
    unknown = tmp_path / "unknown.mp4"
    unknown.write_bytes(clip.read_bytes())

    def look(path, *args):
        found = probe(path, *args)
        return replace(found, width=0, stored=(0, 0)) if path == unknown else found

    monkeypatch.setattr("vidcomp.video.probe.probe", look)
    status, out, _ = cli("probe", unknown, clip, "--json")
    first, second = map(json.loads, out.splitlines())
    assert (status, first["status"], first["models"]) == (0, "ok", None)
    assert second["models"]
    status, out, _ = cli("probe", unknown, clip)
    assert status == 0
    assert "size not known" in out and "cost        -" in out and "qwen3-vl-8b" in out


def test_frames_lists_what_ask_reads(cli, clip):
    status, out, _ = cli("frames", clip, "--frames", 4, "--json")
    found = json.loads(out)
    assert (status, found["status"]) == (0, "ok")
    assert found["frames"]["indices"] == [0, 9, 19, 29]
    assert found["frames"]["exact_times"] == ["0", "9/25", "19/25", "29/25"]
    asked = json.loads(cli("ask", clip, QUESTION, "--frames", 4, "--json", *SHORT)[1])
    assert {**asked["frames"], **found["frames"]} == asked["frames"]
    assert asked["video"] == found["video"]
    assert cli("frames", clip, "--frames", 2)[1] == "0\t0.000000\t0\n29\t1.160000\t29/25\n"


def test_frames_are_written_whole_or_not_at_all(cli, clip, tmp_path):
    import av

    folder = tmp_path / "new" / "pictures"
    status, out, _ = cli("frames", clip, "--frames", 3, "-o", folder, "--json")
    files = json.loads(out)["files"]
    assert (status, files) == (0, [str(folder / name) for name in sorted(os.listdir(folder))])
    pictures = [next(av.open(file).decode(video=0)).to_ndarray(format="rgb24") for file in files]
    assert np.array_equal(pictures, read_frames(clip, Sampling(3)).pixels)
    assert read_numbers(np.stack(pictures)) == [0, 14, 29]
    status, _, err = cli("frames", clip, "-o", folder)
    assert status == 2
    assert "exists" in err
    (tmp_path / "file").touch()
    assert cli("frames", clip, "-o", tmp_path / "file" / "inside")[0] == 3
    assert sorted(os.listdir(tmp_path)) == ["file", "new"]
    assert os.listdir(tmp_path / "new") == ["pictures"]


def test_frames_are_those_of_the_model(cli, clip, tmp_path):
    asked = json.loads(cli("ask", clip, QUESTION, "--json", *SHORT)[1])["frames"]["indices"]
    assert json.loads(cli("frames", clip, "--json")[1])["frames"]["indices"] == asked
    for rule in (["--sample", "model"], ["--fps", "3"]):
        asked = json.loads(cli("ask", clip, QUESTION, "--json", *rule, *SHORT)[1])["frames"]["indices"]
        assert json.loads(cli("frames", clip, "--json", *rule)[1])["frames"]["indices"] == asked
    (tmp_path / "config.json").write_text('{"model_type": "smolvlm"}')
    (tmp_path / "video_preprocessor_config.json").write_text('{"num_frames": 5}')
    assert len(cli("frames", clip, "--model", tmp_path)[1].splitlines()) == 5
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    assert cli("frames", clip, "--model", tmp_path)[0] == 4


def test_the_facts_of_published_models_are_those_of_their_families():
    for row in index.stored(index.FAMILIES):
        stock = FAMILIES[row["model_type"]].stock
        assert StockRule(**row["stock"]) == stock
    for name in PUBLISHED:
        assert sampling_facts(name) == sampling_facts(PUBLISHED[name].checkpoint)


def test_a_rate_that_is_not_kept_is_told(cli, clip):
    _, out, err = cli("frames", clip, "--fps", "10", "--max-frames", "6")
    assert len(out.splitlines()) == 6 and "would be 12 frames: 6 are read" in err
    notes = json.loads(cli("ask", clip, QUESTION, "--json", "--fps", "10", "--max-frames", "6", *SHORT)[1])["notes"]
    assert any("6 are read" in note for note in notes)
    assert "are read" not in cli("frames", clip, "--fps", "5", "--max-frames", "6")[2]
