# SPDX-License-Identifier: Apache-2.0
"""docs/accuracy.md: the accuracy of methods at several keep ratios, as one table."""

from __future__ import annotations

from typing import Any

__all__ = ["accuracy_page"]

_CONTROL = "random"
_TOP = """\
# Accuracy of the methods on the embedded model

    {command}

{count} held-out questions on {videos} encoded videos of nano's world (seed {seed}): macro over question types, 95 %
interval over videos, mean number of visual tokens. All tokens give {full:.3f}, answering without seeing {blind:.3f}.
Every method is asked the same questions as it runs by default, with its own stage inside the language model;
[methods.md](methods.md) says under *proof* where the default is not the published code. **v** marks a method below
random tokens at the same ratio.

{equal}nano is tiny and was trained on thinned and averaged tokens. The table ranks methods in its little world and says
nothing about large models or real video ([nano.md](nano.md)); intervals that overlap rank nothing.

"""
_EQUAL = "Every method was brought to the same number of tokens (`--equal-tokens`).\n\n"


def accuracy_page(result: dict[str, Any], command: str) -> str:
    """Markdown from what ``bench accuracy --json`` prints, best methods first.

    Args:
        result: the JSON object.
        command: what printed it.
    """
    cells = {(row["method"], row["keep"]): row for row in result["rows"]}
    keeps = list(dict.fromkeys(row["keep"] for row in result["rows"]))
    names = sorted(
        dict.fromkeys(row["method"] for row in result["rows"]),
        key=lambda name: -sum(cells[name, keep]["accuracy"] for keep in keeps),
    )
    top = _TOP.format(
        command=command, count=result["rows"][0]["n"], videos=result["videos"], seed=result["seed"],
        equal=_EQUAL if result.get("equal_tokens") else "", full=result["full"]["accuracy"],
        blind=result["blind"]["accuracy"],
    )  # fmt: skip
    head = [f"| method | {' | '.join(f'keep {keep:g}' for keep in keeps)} |", f"|---|{'---|' * len(keeps)}"]
    rows = [f"| {name} | {' | '.join(_cell(cells, name, keep) for keep in keeps)} |" for name in names]
    return top + "\n".join([*head, *rows]) + "\n"


def _cell(cells: dict[tuple[str, float], dict[str, Any]], name: str, keep: float) -> str:
    row, control = cells[name, keep], cells.get((_CONTROL, keep))
    mark = " **v**" if control and name != _CONTROL and row["accuracy"] < control["accuracy"] else ""
    return f"{row['accuracy']:.2f} ({row['ci_low']:.2f}-{row['ci_high']:.2f}), {row['tokens']:.0f}{mark}"
