# SPDX-License-Identifier: Apache-2.0
"""Methods side by side: each figure is that of the method alone, and the video is encoded once."""

from __future__ import annotations

import json
import re

import pytest
from browser import CHROMIUM, Browser

from vidcomp.report.compare import PLAIN, compare
from vidcomp.report.page import write_comparison

CLIP, QUESTION = "pink_ring_appears.mp4", "what happens at the end?"
METHODS = ["holitom", "fastvid", "visionzip:official=true", "holitom+fastv:k=1", "uniform"]


@pytest.fixture(scope="module")
def comparison(nano, samples):
    return compare(nano, samples / CLIP, QUESTION, METHODS, keep=0.2)


def test_each_row_is_that_of_the_method_alone(nano, samples, comparison):
    for run in comparison.runs:
        outer, _, inner = run.name.partition("+")
        alone = nano.ask(samples / CLIP, QUESTION, keep=0.2, method=outer, inner=inner or "auto")
        row = run.to_dict()
        assert row["answer"] == alone.text
        assert row["tokens"] == alone.ledger.tokens.to_dict()
        assert run.report.to_dict()["layer_rows"] == alone.ledger.layer_rows
        assert comparison.agrees(run) == (alone.text == comparison.plain.answer.text)
    plain = nano.ask(samples / CLIP, QUESTION, keep=1.0)
    assert comparison.plain.name == PLAIN and comparison.plain.answer.text == plain.text


def test_the_tower_runs_once(nano, samples):
    frames = []
    tower = nano.family.model.get_submodule("model.vision_tower")
    hook = tower.register_forward_hook(lambda module, args, kwargs, out: frames.append(1), with_kwargs=True)
    try:
        compare(nano, samples / CLIP, QUESTION, ["uniform"], keep=0.2)
        once = len(frames)
        compare(nano, samples / CLIP, QUESTION, METHODS, keep=0.2)
    finally:
        hook.remove()
    assert once and len(frames) == 2 * once


def test_what_a_method_cannot_do_stands_in_its_place(nano, samples, monkeypatch):
    monkeypatch.setattr(type(nano.family), "signals", frozenset())
    found = compare(nano, samples / CLIP, QUESTION, ["visionzip", "uniform"], keep=0.2)
    failed, good = found.to_dict()["methods"]
    assert failed["status"] == "failed" and "needs" in json.dumps(failed["error"]) and failed["same_answer"] is None
    assert good["status"] == "ok"


def test_the_page_holds_the_same_figures(comparison, tmp_path):
    page = tmp_path / "page.html"
    write_comparison(comparison, {"keep": 0.2}, page)
    text = page.read_text(encoding="utf-8")
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.S)[1])
    assert data == json.loads(json.dumps({**comparison.to_dict(), "settings": {"keep": 0.2}}))
    for fate in ("kept", "left", "merged", "dropped"):
        drawn = sum(path.count("M") for path in re.findall(rf'<path class="{fate}" d="([^"]*)"', text))
        assert drawn == sum(run.trace.counts()[fate] for run in comparison.runs)
    assert len(re.findall(r'<image href="data:image/jpeg', text)) == len(comparison.encoded.frames)


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed")
def test_the_page_in_a_browser(comparison, tmp_path):
    write_comparison(comparison, {"keep": 0.2}, tmp_path / "page.html")
    tab = Browser(tmp_path / "profile")
    try:
        tab.open(tmp_path / "page.html")
        assert tab.run("document.querySelectorAll('.matrix td svg').length") == len(METHODS) * 8
        assert tab.run("document.querySelector('.matrix td svg').getBoundingClientRect().height") > 50
        tab.send("Emulation.setDeviceMetricsOverride", width=390, height=800, deviceScaleFactor=1, mobile=True)
        assert tab.run("document.documentElement.scrollWidth") <= 390
        kinds = [event.get("method") for event in tab.events]
        requests = [event["params"]["request"]["url"] for event in tab.events
                    if event.get("method") == "Network.requestWillBeSent"]  # fmt: skip
        assert all(url.startswith(("file:", "data:")) for url in requests)
        assert "Runtime.exceptionThrown" not in kinds and "Log.entryAdded" not in kinds
    finally:
        tab.close()


def test_by_command(cli, samples, tmp_path):
    page = tmp_path / "page.html"
    command = ("compare", samples / CLIP, QUESTION, "--methods", "holitom:tau=0.7,beta=0.5,uniform", "--keep", "0.2")
    status, out, err = cli(*command, "--html", page)
    assert status == 0 and "page: " in err and page.exists()
    assert "all tokens" in out and "holitom:tau=0.7,beta=0.5" in out and "uniform" in out
    status, out, _ = cli(*command, "--json")
    assert [run["name"] for run in json.loads(out)["methods"]] == ["holitom:tau=0.7,beta=0.5", "uniform"]


def test_wrong_names_end_it_before_the_video(cli, samples):
    status, _, err = cli("compare", samples / CLIP, QUESTION, "--methods", "holitom,nosuch")
    assert status == 2 and "nosuch" in err
    status, _, err = cli("compare", samples / CLIP, QUESTION, "--methods", "holitom,")
    assert status == 2 and "empty name" in err
