# SPDX-License-Identifier: Apache-2.0
"""Lists of methods: a table for the terminal, one method in full, and the page docs/methods.md."""

from __future__ import annotations

from collections.abc import Sequence

from vidcomp.core.registry import MethodInfo
from vidcomp.report.sheet import Sheet

__all__ = ["STAGES", "StageRows", "described_method", "methods_page", "methods_table"]

STAGES = {
    "outer": ("before the language model", "--method"),
    "inner": ("inside the language model", "--inner"),
    "encoder": ("inside the vision tower", "--encoder"),
}
StageRows = dict[str, Sequence[MethodInfo]]
"""Stage to its rows, in the order of :data:`STAGES`."""

_PROOF = {
    "goldens": "equal to outputs of the published code",
    "own reading": "own reading of the source; no outputs of published code to compare with",
    "control": "a yardstick of this project",
}
_INTRODUCTION = """\
# Methods

This page is made by `vidcomp methods --markdown`. `vidcomp methods` prints the tables, `vidcomp methods NAME` one
method.

- **budget**: `exact` means that the number of survivors follows from the shape and the request alone; before the
  language model it is the asked share of the tokens, rounded up. `own count` is as certain, by a rule of the method;
  `by content` depends on the video. The report prints the achieved ratio beside the requested one, and a note says so
  where they differ by more than a fifth and by more than four tokens. `--keep-tokens N` brings any method to exactly N.
- **needs**: what it reads besides the features of the tokens, by the names of `vidcomp.TokenView`; in brackets what it
  reads when the model can tell it. A method that needs `query` chooses tokens for one question.
- **proof**: `goldens` are recorded outputs of the published code, which the tests reproduce; `own reading` is tested
  against slow loops written from the formulas, because there is no such code (`no code`), or it could not be run; the
  text of a method says what is not as published. `goldens, official` are equalled with that parameter only; without it
  the method does something better, or something else, which its section names. `goldens, stages` are outputs of the
  parts. `control` is a yardstick of this project.

Not here, because what is public does not define them; a version of ours would be our own method under their name:

- MeToM: no code; six parameters, the rule of its pairs and the restoration of the grid are not given.
- MMG-Vid: no code; the merging of segments, the frame vectors and the constants are not given.
- GSTEP: no code and no formulas.

Any method works with any schedule: `--method divprune --inner fastv:k=2,keep=0.5`. How to add your own:
[own-method.md](own-method.md)."""


def methods_table(stage: str, rows: Sequence[MethodInfo]) -> Sheet:
    """One line per method."""
    where, option = STAGES[stage]
    table = Sheet("name", "budget", "needs", "proof", prose="what it does", title=f"{where}: {option}")
    for row in rows:
        table.add_row(row.name, _budget(row), _needs(row), _proof(row), row.summary)
    return table


def described_method(row: MethodInfo) -> str:
    """Everything about one method, as text."""
    where, option = STAGES[row.stage]
    facts = {
        "use": f"{option} {row.name}, {where}",
        "parameters": _parameters(row) or "none",
        "needs": _needs(row) or "nothing but features",
        "question": "chooses tokens for the question" if row.question_aware else "not read",
        "budget": f"{_budget(row)}: it {row.rule}" if row.rule else _budget(row),
        "spans": f"those of --segmenter (rule {row.span_rule}), or its own" if row.span_rule else "",
        "proof": _proven(row),
        "in the LLM": row.inner,
        "source": _source(row),
    }
    lines = [f"  {name:<11} {text}" for name, text in facts.items() if text]
    return "\n".join([f"{row.name}: {row.summary}", *lines, "", row.text])


def methods_page(stages: StageRows) -> str:
    """The page as Markdown, with a final newline."""
    parts = [_INTRODUCTION]
    for stage, rows in stages.items():
        where, option = STAGES[stage]
        parts += [f"## {where.capitalize()}: `{option}`", "\n".join(_markdown_table(rows))]
    for stage, rows in stages.items():
        parts.append(f"## {STAGES[stage][0].capitalize()}, one by one")
        parts += [_section(row, STAGES[stage][1]) for row in rows]
    return "\n\n".join(parts) + "\n"


def _markdown_table(rows: Sequence[MethodInfo]) -> list[str]:
    head = ["| name | what it does | budget | needs | question | proof |", "|---|---|---|---|---|---|"]
    return head + [
        f"| [{row.name}](#{row.stage}-{row.name}) | {row.summary} | {_budget(row)} | {_needs(row)} "
        f"| {'yes' if row.question_aware else ''} | {_proof(row)} |"
        for row in rows
    ]


def _section(row: MethodInfo, option: str) -> str:
    lines = [f'### <a id="{row.stage}-{row.name}"></a>{row.name}', "", f"`{option} {row.name}`: {row.summary}.", ""]
    lines += [f"- parameters: {_parameters(row)}"] if row.parameters else []
    lines += [f"- budget: {_budget(row)}, it {row.rule}"] if row.rule else []
    lines += [f"- spans: those of `--segmenter` (rule {row.span_rule}), or its own"] if row.span_rule else []
    lines += [f"- published with the inner stage `{row.inner}`"] if row.inner else []
    lines += [f"- source: {_source(row)}", f"- proof: {_proven(row)}", "", "```text", row.text, "```"]
    return "\n".join(lines)


def _source(row: MethodInfo) -> str:
    return str(row.source) if row.code or row.parity == "control" else f"{row.source}; no public code"


def _budget(row: MethodInfo) -> str:
    return "by content" if not row.exact else "own count" if row.rule else "exact"


def _proof(row: MethodInfo) -> str:
    if row.parity == "goldens" and row.differs:
        return "goldens, official" if row.equal_with else "goldens, stages"
    return row.parity if row.code or row.parity == "control" else f"{row.parity}, no code"


def _proven(row: MethodInfo) -> str:
    if row.parity != "goldens" or not row.differs:
        return _PROOF[row.parity]
    if row.equal_with:
        return f"{_PROOF[row.parity]} with {row.equal_with}; by default it {row.differs}"
    return f"its stages are {_PROOF[row.parity]}; as a whole it {row.differs}"


def _needs(row: MethodInfo) -> str:
    wanted = [f"({name})" for name in sorted(row.wants)]
    return ", ".join([*sorted(row.needs), *wanted])


def _parameters(row: MethodInfo) -> str:
    return ", ".join(f"{name}={_literal(value)}" for name, value in row.parameters.items())


def _literal(value: object) -> str:
    """A default as ``--method name:key=value`` takes it."""
    if isinstance(value, (tuple, list)):
        return "/".join(map(str, value))
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)
