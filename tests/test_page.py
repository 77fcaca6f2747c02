# SPDX-License-Identifier: Apache-2.0
"""Pictures of what was kept: their figures are those of the record and of the forward pass."""

from __future__ import annotations

import io
import json
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from PIL import Image

from vidcomp.core.trace import Fate
from vidcomp.engine.trace import trace_of, traced
from vidcomp.report.page import write_picture
from vidcomp.report.page.contact import FATES, MOST_FRAMES, shown_frames

CLIP = "yellow_square_turns_green_then_blue_cross_moves_left.mp4"
QUESTION = "what happens at the end?"
RUNS = {
    "default": {"keep": 0.1},
    "no inner stage": {"keep": 0.1, "method": "visionzip", "inner": "none"},
    "links": {"keep": 0.2, "method": "fastvid", "inner": "none"},
    "pyramid": {"keep": 0.5, "method": "divprune", "inner": "pyramiddrop"},
    "duplicates": {"keep": 0.1, "frames": 24, "segmenter": "luma"},
    "keep 1": {"keep": 1.0},
    "one frame": {"keep": 0.5, "frames": 1},
}


@pytest.fixture(scope="module", params=RUNS, ids=list(RUNS))
def run(request, nano, samples):
    return traced(nano, samples / CLIP, QUESTION, **RUNS[request.param])


def test_fates_are_those_of_the_ledger(run):
    answer, trace = run
    tokens, counts = answer.ledger.tokens, trace.counts()
    assert sum(counts.values()) == tokens.uncompressed
    assert counts["kept"] + counts["left"] == tokens.kept
    assert counts["kept"] == tokens.after_llm_layer
    assert {stage.out for stage in answer.ledger.stages if stage.name.startswith("llm layer")} == {
        len(kept) for kept in trace.inner.values()
    }
    assert len(trace.encoded) * trace.tokens == answer.ledger.find("encode").out
    for span in answer.ledger.spans:  # one slice is one frame here
        assert int((trace.fates[span.start : span.end + 1] <= Fate.LEFT).sum()) == span.kept


def test_the_drawing_has_the_patches_of_the_trace(run, tmp_path):
    answer, trace = run
    write_picture(answer, trace, tmp_path / "out.svg")
    root = ET.fromstring((tmp_path / "out.svg").read_bytes())
    drawn = {fate.name.lower(): 0 for fate in Fate}
    for path in root.iter("{http://www.w3.org/2000/svg}path"):
        if path.get("class") in drawn:
            drawn[path.get("class")] += path.get("d").count("M")
    assert drawn == trace.counts()
    words = " ".join(text.text for text in root.iter("{http://www.w3.org/2000/svg}text"))
    assert answer.text in words and f"{answer.ledger.tokens.kept} enter the model" in words
    assert all(f"{time:.2f} s" in words for time in trace.times)
    for fate, count in trace.counts().items():
        assert count == 0 or f"{FATES[Fate[fate.upper()]][0]}: {count}" in words


@pytest.mark.parametrize("name", ["default", "pyramid"])
def test_survivors_of_a_layer_are_the_rows_that_it_read(nano, samples, name):
    """Position ids that reach each layer of the stock model, looked up in the uncompressed sequence."""
    places, read, layers = [], [], nano.family.model.get_decoder().layers
    hooks = [
        layer.self_attn.register_forward_pre_hook(
            lambda module, args, kwargs: places.append(kwargs["position_embeddings"][0][0].tolist()), with_kwargs=True
        )
        for layer in layers
    ]
    try:
        nano.ask(samples / CLIP, QUESTION, trace=lambda *seen: read.extend(seen), **RUNS[name])
    finally:
        for hook in hooks:
            hook.remove()
    encoded, prefill = read
    trace = trace_of(encoded, prefill)
    place = {tuple(row): index for index, row in enumerate(places[0])}
    token = {row: index for index, row in enumerate(prefill.is_token.nonzero()[:, 0].tolist())}
    alive = np.arange(len(trace.anchors))
    for layer, table in enumerate(places[: len(layers)]):
        alive = trace.inner.get(layer, alive)
        rows = [place[tuple(row)] for row in table]
        assert [int(prefill.survivor[token[row]]) for row in rows if row in token] == alive.tolist()


def test_png_shows_the_pictures(run, tmp_path):
    answer, trace = run
    write_picture(answer, trace, tmp_path / "out.png")
    picture = np.asarray(Image.open(io.BytesIO((tmp_path / "out.png").read_bytes())).convert("RGB"))
    assert picture.shape[1] == 1280
    assert (picture == (255, 176, 0)).all(-1).any() == bool(trace.counts()["kept"])


def test_many_frames_are_thinned():
    assert list(shown_frames(5)) == [0, 1, 2, 3, 4]
    chosen = shown_frames(512)
    assert len(set(chosen)) == MOST_FRAMES and chosen[0] == 0 and chosen[-1] == 511


def test_picture_by_command(cli, samples, tmp_path):
    file = tmp_path / "out.svg"
    status, out, err = cli("report", samples / CLIP, QUESTION, "--json", "--keep", "0.1", "--picture", file)
    record = json.loads(out)
    assert status == 0 and "picture: " in err
    text = file.read_text()
    assert f">kept: {record['tokens']['after_llm_layer']}<" in text
    assert not re.search(r'(href|src)="(?!data:)', text)
    status, _, err = cli("report", samples / CLIP, QUESTION, "--picture", tmp_path / "out.gif")
    assert status == 2 and "a picture is .svg or .png" in err
    status, _, err = cli("report", samples / CLIP, QUESTION, "--picture", tmp_path / "none" / "out.svg")
    assert status == 3 and "cannot write" in err
