# SPDX-License-Identifier: Apache-2.0
"""Methods by name: what is listed, what is refused and how it is said, and methods of other packages."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from typing import ClassVar

import pytest

from vidcomp.core import registry
from vidcomp.core.source import Source
from vidcomp.core.tokens import Reduction, TokenView, identity
from vidcomp.errors import UsageError
from vidcomp.methods import get_method, list_methods, method_names
from vidcomp.methods.holitom import Holitom
from vidcomp.schedules import list_schedules
from vidcomp.tower import list_mergers


@dataclass(frozen=True)
class Plugin:
    """A method of another package."""

    strength: float = 0.5

    name: ClassVar[str] = "plug-in"
    summary: ClassVar[str] = "for the tests"
    source: ClassVar[str] = "nowhere"
    needs: ClassVar[frozenset[str]] = frozenset()
    inner: ClassVar[str | None] = None

    def __call__(self, view: TokenView, keep: float) -> Reduction:
        return identity(*view.features.shape[:2])


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [
        EntryPoint("plug-in", f"{__name__}:Plugin", "vidcomp.methods"),
        EntryPoint("broken", "no_such_package:Method", "vidcomp.methods"),
        EntryPoint("holitom", f"{__name__}:Plugin", "vidcomp.methods"),
    ]
    monkeypatch.setattr(registry, "entry_points", lambda group: points)


def test_every_method_describes_itself() -> None:
    rows = {row.name: row for row in list_methods()}
    assert {"holitom", "none", "random", "uniform"} <= set(rows)
    holitom = rows["holitom"]
    assert holitom.needs == {"salience"} and holitom.inner == "holitom" and holitom.source.arxiv == "2505.21334"
    assert holitom.parameters == {"tau": None, "beta": 0.6, "k": 7, "contextual": 0.0, "max_span": 1024}
    assert all(row.summary and "\n" not in row.summary and str(row.source) for row in rows.values())
    read = [row for row in rows.values() if row.parity == "own reading"]
    assert len(read) > 10 and all("our reading" in row.text.lower() for row in read)
    assert rows["evs"].code and rows["todre"].code is None and rows["mmtok"].question_aware


def test_a_source_is_given_once_and_in_parts() -> None:
    rows = [*list_methods(fresh=True), *list_schedules(fresh=True), *list_mergers(fresh=True)]
    assert all(isinstance(row.source, Source) and row.source.name for row in rows)
    for row in rows:
        assert row.parity == "control" or row.source.arxiv or row.source.code, row.name
        assert row.parity != "goldens" or row.code, row.name
        for fact in filter(None, (row.source.arxiv, row.source.code)):
            assert fact not in row.text, f"{row.name}: {fact} stands in the docstring too"


def test_a_source_in_plain_words_is_taken_as_it_is() -> None:
    words = "Ours, 2026, https://example.org/ours, under MIT"
    assert str(Source.of(words)) == words and Source.of(words).code == "https://example.org/ours"
    given = Source("A", "B 2026", "2601.00001", "https://example.org/a", licence="MIT", note="v1")
    assert Source.of(given) is given
    assert str(given) == "A, B 2026, arXiv 2601.00001, https://example.org/a (MIT), v1"


def test_parameters_reach_the_method() -> None:
    assert get_method("holitom", tau=0.8, k=5) == Holitom(tau=0.8, k=5)


@pytest.mark.parametrize(
    ("name", "parameters", "what", "hint"),
    [
        ("holitm", {}, "no method named 'holitm'", "did you mean 'holitom'?"),
        ("zzz", {}, "no method named 'zzz'", "see: vidcomp methods"),
        ("holitom", {"taw": 0.8}, "method 'holitom' has no parameter 'taw'", "did you mean 'tau'?"),
        ("none", {"tau": 0.8}, "method 'none' has no parameter 'tau'", ""),
        ("holitom", {"beta": 1.5}, "method 'holitom' refuses its parameters", ""),
        ("holitom", {"tau": "high"}, "method 'holitom': tau must be a number or None", ""),
        ("holitom", {"tau": float("nan")}, "method 'holitom' refuses its parameters", ""),
        ("holitom", {"k": 0}, "method 'holitom' refuses its parameters", ""),
        ("holitom", {"k": 2.5}, "method 'holitom': k must be a whole number", ""),
        ("holitom", {"contextual": -1}, "method 'holitom' refuses its parameters", ""),
        ("random", {"seed": -1}, "method 'random' refuses its parameters", ""),
    ],
)
def test_wrong_names_and_values(name: str, parameters: dict[str, object], what: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        get_method(name, **parameters)
    assert caught.value.what == what and caught.value.hint == hint and caught.value.why


@pytest.mark.usefixtures("plugins")
def test_other_packages_can_add_methods(caplog: pytest.LogCaptureFixture) -> None:
    assert "plug-in" in method_names()
    assert get_method("plug-in", strength=1.0) == Plugin(1.0)
    assert isinstance(get_method("holitom"), Holitom)  # a built-in name cannot be taken over
    assert {"plug-in", "holitom"} <= {row.name for row in list_methods()}
    assert "broken" not in {row.name for row in list_methods()}
    assert "broken" in caplog.text
    with pytest.raises(UsageError, match="cannot be loaded"):
        get_method("broken")


def test_listing_names_does_not_import_torch() -> None:
    code = "import sys; from vidcomp.methods import method_names; method_names(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
