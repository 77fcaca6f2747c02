# SPDX-License-Identifier: Apache-2.0
"""Pictures of what was kept: their figures are those of the record and of the forward pass."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import numpy as np
import pytest
from browser import CHROMIUM, Browser
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console

from vidcomp.core.trace import Fate
from vidcomp.engine.trace import trace_of, traced
from vidcomp.report import make_report
from vidcomp.report.page import write_page, write_picture
from vidcomp.report.page.contact import FATES, MOST_FRAMES, shown_frames
from vidcomp.report.timeline import Timeline

CLIP = "yellow_square_turns_green_then_blue_cross_moves_left.mp4"
QUESTION = "what happens at the end?"
RUNS = {
    "default": {"keep": 0.1},
    "no inner stage": {"keep": 0.1, "method": "visionzip", "inner": "none"},
    "links": {"keep": 0.2, "method": "fastvid", "inner": "none"},
    "pyramid": {"keep": 0.5, "method": "divprune", "inner": "pyramiddrop"},
    "repeats": {"keep": 0.1, "frames": 24, "segmenter": "luma", "skip_repeats": "auto"},
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
    assert len(trace.encoded) == answer.ledger.frames_encoded
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


class _Elements(HTMLParser):
    """Tags with their attributes, and the text of the page outside scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.words, self.data, self._inside = [], [], "", ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self._inside = tag if tag in ("script", "style") else ""
        self._json = dict(attributes).get("type") == "application/json"

    def handle_data(self, data):
        if self._inside == "script" and self._json:
            self.data += data
        elif not self._inside:
            self.words.append(data)

    def handle_endtag(self, tag):
        self._inside = ""


def _page(nano, run, file):
    answer, trace = run
    write_page(answer, trace, make_report(answer.ledger, nano.family.shape), file)
    return _Elements(file.read_text())


def test_page_tells_what_the_record_tells(nano, run, tmp_path):
    answer, trace = run
    page = _page(nano, run, tmp_path / "page.html")
    data, words = json.loads(page.data), " ".join(" ".join(page.words).split())
    assert {name: data[name] for name in answer.to_dict()} == json.loads(json.dumps(answer.to_dict()))
    assert data["tokens_by_fate"]["counts"] == trace.counts()
    assert f"read {answer.ledger.tokens.kept} of {answer.ledger.tokens.uncompressed} visual tokens" in words
    paths = {fate.name.lower(): 0 for fate in Fate}
    for tag, attributes in page.tags:
        if tag == "path" and attributes["class"] in paths:
            paths[attributes["class"]] += attributes["d"].count("M")
    assert paths == trace.counts()
    for stage in answer.ledger.stages:
        assert f"{stage.out} {stage.unit}" in words


def test_page_stands_alone_and_is_small(nano, samples, tmp_path):
    answer, trace = traced(nano, samples / CLIP, QUESTION, frames=64, keep=0.2, positions="compact")
    noise = np.random.default_rng(0).integers(0, 256, (64, 480, 640, 3), np.uint8)  # which JPEG cannot make small
    answer = dataclasses.replace(answer, frames=dataclasses.replace(answer.frames, pixels=noise))
    page = _page(nano, (answer, trace), tmp_path / "page.html")
    assert (tmp_path / "page.html").stat().st_size < 8 << 20
    addresses = [found for _, found in page.tags for found in [found.get("src") or found.get("href")] if found]
    assert all(found.startswith(("data:", "#")) for found in addresses)
    pictures = [found for tag, found in page.tags if tag == "img"]
    assert len(pictures) == 64 and all(found["alt"] for found in pictures)


@settings(max_examples=20, deadline=None)
@given(text=st.text(max_size=60))
@example(text="</script><script>alert(1)</script>")
@example(text="a --> b <i>&amp; \u202e\ud800 \x00")
def test_no_answer_escapes_its_place(nano, plain_run, tmp_path_factory, text):
    answer, trace = plain_run
    said = dataclasses.replace(answer, text=text, question=text)
    page = _page(nano, (said, trace), tmp_path_factory.mktemp("page") / "page.html")
    assert [tag for tag, _ in page.tags].count("script") == 2 and [tag for tag, _ in page.tags].count("i") == 0
    assert json.loads(page.data)["answer"] == text.encode("utf-8", "replace").decode()


@pytest.fixture(scope="module")
def plain_run(nano, samples):
    return traced(nano, samples / CLIP, QUESTION, keep=0.1)


@pytest.fixture
def browser(tmp_path):
    if CHROMIUM is None:
        pytest.skip("no chromium is installed")
    tab = Browser(tmp_path / "profile")
    yield tab
    tab.close()


def _lit(browser, kind):
    """How many patches are drawn as members, survivor or cursor, over all frames."""
    return browser.run(
        f"[...document.querySelectorAll('path.{kind}')].reduce("
        "(sum, path) => sum + (path.getAttribute('d').match(/M/g) || []).length, 0)"
    )


def test_page_in_a_browser(nano, plain_run, browser, tmp_path):
    _, trace = plain_run
    _page(nano, plain_run, tmp_path / "page.html")
    browser.open(tmp_path / "page.html")

    token = int(np.flatnonzero(trace.fates.ravel() == Fate.MERGED)[0])
    members = int((trace.owner == trace.owner[token]).sum())
    frame, cell = divmod(token, trace.tokens)
    row, column = divmod(cell, trace.grid[1])
    box = browser.run(
        f"(() => {{ const p = document.querySelectorAll('.picture')[{frame}]; p.scrollIntoView();"
        "const b = p.getBoundingClientRect(); return [b.left, b.top, b.width, b.height] })()"
    )
    x, y = box[0] + (column + 0.5) / trace.grid[1] * box[2], box[1] + (row + 0.5) / trace.grid[0] * box[3]
    browser.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    assert (_lit(browser, "members"), _lit(browser, "survivor"), _lit(browser, "cursor")) == (members, 1, 1)
    told = browser.run("document.getElementById('told').textContent")
    assert told.startswith(f"row {row + 1}, column {column + 1} at {trace.times[frame]:.2f} s: merged into ")
    assert f"stands for {members} patches" in told
    browser.send("Input.dispatchMouseEvent", type="mouseMoved", x=1, y=1)
    assert _lit(browser, "members") == 0

    for _ in range(12):
        browser.key("Tab")
        if browser.run("document.activeElement.className") == "picture":
            break
    assert browser.run("document.activeElement.className") == "picture"
    seen = {browser.run("document.getElementById('told').textContent")}
    for step in ("ArrowRight", "ArrowDown", "ArrowLeft"):
        browser.key(step)
        seen.add(browser.run("document.getElementById('told').textContent"))
        assert _lit(browser, "cursor") == 1
    assert len(seen) == 4 and "row 2, column 1" in browser.run("document.getElementById('told').textContent")
    browser.key("Escape")
    assert _lit(browser, "cursor") == 0

    browser.send("Emulation.setDeviceMetricsOverride", width=390, height=800, deviceScaleFactor=1, mobile=True)
    assert browser.run("document.documentElement.scrollWidth") <= 390
    faults = ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled")
    assert not [event for event in browser.events if event.get("method") in faults]
    asked = {event["params"]["request"]["url"] for event in browser.events
             if event.get("method") == "Network.requestWillBeSent"}  # fmt: skip
    assert all(url.startswith(("file:", "data:")) for url in asked) and len(asked - {
        url for url in asked if url.startswith("data:")}) == 1  # fmt: skip


def test_page_by_command(cli, samples, tmp_path):
    file = tmp_path / "page.html"
    status, out, err = cli("report", samples / CLIP, QUESTION, "--json", "--keep", "0.1", "--html", file)
    assert status == 0 and "page: " in err
    data, record = json.loads(_Elements(file.read_text()).data), json.loads(out)
    assert data["settings"]["keep"] == 0.1
    assert data["report"] == record["report"] and data["tokens"] == record["tokens"]


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
@pytest.mark.parametrize("width", [200, 14])
def test_timeline_in_the_terminal(run, encoding, width):
    _, trace = run
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    Console(file=file, width=width).print(Timeline(trace))
    file.flush()
    lines = file.buffer.getvalue().decode(encoding).splitlines()
    bars = lines[1].removeprefix("kept").strip()
    assert len(bars) == min(trace.slices, width - 10)
    if width == 200:
        kept = (trace.fates <= Fate.LEFT).mean(1)
        levels = "▁▂▃▄▅▆▇█" if encoding == "utf-8" else "01234567"
        assert [levels.index(bar) for bar in bars] == [min(7, int(8 * share)) for share in kept]
