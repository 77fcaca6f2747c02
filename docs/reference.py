# SPDX-License-Identifier: Apache-2.0
"""Writes docs/reference.md, one entry for every public name, from signatures and docstrings.

python -m docs.reference
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import griffe

PAGE = Path(__file__).parent / "reference.md"

PARTS = {
    "Load and ask": ("load", "VideoLM", "EncodedVideo", "CompressedVideo", "Answer", "VidcompError"),
    "Your own model object": ("attach",),
    "Films, window by window": ("segments", "find", "Segment"),
    "Videos": ("FrameSequence", "path_from_record"),
    "Methods": ("list_methods", "get_method", "TokenView", "Reduction", "Span", "apply_reduction", "CompressedTokens"),
    "What a run did": ("StageLedger",),
}
"""Every name in ``vidcomp.__all__``, in the order of the page."""

_STARS = {griffe.ParameterKind.var_positional: "*", griffe.ParameterKind.var_keyword: "**"}
_TITLE = (
    "# API reference\n\nMade by `python -m docs.reference` from signatures and docstrings. Guide: [api.md](api.md).\n"
)


def page() -> str:
    """The whole page.

    Raises:
        KeyError: a public name that no part of the page has.
    """
    package = griffe.load("vidcomp", docstring_parser="google", resolve_aliases=True)
    public = set(package.exports or ()) - {"__version__"}
    if missing := public - {name for names in PARTS.values() for name in names}:
        raise KeyError(f"public, but in no part of the reference: {', '.join(sorted(map(str, missing)))}")
    blocks = [_TITLE]
    for title, names in PARTS.items():
        blocks.append(f"## {title}\n")
        for name in names:
            blocks += _entry(package[name].final_target if package[name].is_alias else package[name], "vidcomp.")
    return "\n".join(blocks)


def _entry(item: griffe.Object, owner: str) -> Iterator[str]:
    """Heading, signature and docstring of a class or function, then of the public methods of a class."""
    if isinstance(item, griffe.Function) and "property" in item.labels:
        return
    if isinstance(item, (griffe.Class, griffe.Function)):
        yield f"{'###' if owner == 'vidcomp.' else '####'} `{owner}{item.name}`\n"
        if isinstance(item, griffe.Function) or item.parameters:
            yield f"```python\n{_signature(item)}\n```\n"
        yield from _docstring(item)
    if isinstance(item, griffe.Class):
        for member in item.members.values():
            if isinstance(member, griffe.Function) and not member.name.startswith("_") and member.docstring:
                yield from _entry(member, f"{item.name}.")


def _signature(item: griffe.Class | griffe.Function) -> str:
    """The call as a user writes it, one parameter a line where it is long."""
    shown, star = [], False
    for parameter in item.parameters:
        if parameter.name == "self":
            continue
        if parameter.kind is griffe.ParameterKind.keyword_only and not star:
            star = True
            shown.append("*")
        prefix = _STARS.get(parameter.kind, "")
        star = star or prefix == "*"
        note = f": {parameter.annotation}" if parameter.annotation is not None else ""
        default = parameter.default if not prefix else None
        value = f"{' = ' if note else '='}{default}" if default is not None else ""
        shown.append(f"{prefix}{parameter.name}{note}{value}")
    returns = f" -> {item.returns}" if isinstance(item, griffe.Function) and item.returns is not None else ""
    line = f"{item.name}({', '.join(shown)}){returns}"
    if len(line) <= 100:
        return line
    return f"{item.name}(\n" + "".join(f"    {part},\n" for part in shown) + f"){returns}"


def _docstring(item: griffe.Object) -> Iterator[str]:
    """Text and tables of a docstring."""
    for section in item.docstring.parsed if item.docstring else ():
        if section.kind is griffe.DocstringSectionKind.text:
            yield _plain(section.value) + "\n"
        elif section.kind is griffe.DocstringSectionKind.examples:
            yield "".join(f"```python\n{text}\n```\n" for _, text in section.value)
        elif section.kind in (griffe.DocstringSectionKind.parameters, griffe.DocstringSectionKind.attributes):
            yield "".join(f"- `{row.name}`: {_line(row.description)}\n" for row in section.value)
        elif section.kind is griffe.DocstringSectionKind.raises:
            rows = (f"{str(row.annotation).strip('()')}: {_line(row.description)}" for row in section.value)
            yield re.sub(r"\b([A-Z]\w+)(?=(, \w+)?: )", r"`\1`", f"Raises {' '.join(rows)}\n")
        elif section.kind in (griffe.DocstringSectionKind.returns, griffe.DocstringSectionKind.yields):
            yield f"Returns {'; '.join(_line(row.description) for row in section.value)}\n"


def _plain(text: str) -> str:
    """Markdown for the marks that docstrings use: ``code`` and roles that name an object."""
    text = re.sub(r":\w+:`~?(?:[\w.]*\.)?(\w+)`", r"`\1`", text)
    return re.sub(r"``(.+?)``", r"`\1`", text)


def _line(text: str) -> str:
    return " ".join(_plain(text).split())


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
