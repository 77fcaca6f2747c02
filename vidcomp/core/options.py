# SPDX-License-Identifier: Apache-2.0
"""Settings as dataclass fields: each one with its option on the command line, its range, and the check of its value."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field, fields
from typing import Any

from vidcomp.core.arguments import kinds_of, typed
from vidcomp.errors import UsageError

__all__ = ["Checked", "Option", "check_limit", "option", "option_of"]


@dataclass(frozen=True)
class Option:
    """One field as it appears on the command line.

    Attributes:
        flag: the long option, such as ``--keep``.
        help: one line; the default and the range are added by whoever prints it.
        choices: the allowed values of a text option.
        numbered: the one among them that may carry a number, as in ``cuda:1``.
        low, high: inclusive range of a number.
        above: exclusive lower limit of a number.
        listing: stage whose methods the word ``help`` prints instead of a value.
        shapes: whether another value makes it another answer; finished work with another one is done again.
    """

    flag: str
    help: str
    choices: tuple[str, ...] = ()
    numbered: str | None = None
    low: float | None = None
    high: float | None = None
    above: float | None = None
    listing: str = ""
    shapes: bool = True

    def check(self, value: Any) -> None:
        """Raise UsageError when the value is outside the range or the choices."""
        if value is None:
            return
        name, colon, number = str(value).partition(":")
        numbered = bool(colon) and name == self.numbered and number.isdecimal()
        if self.choices and value not in self.choices and not numbered:
            raise UsageError(
                f"{self.flag} {value}", why=f"it must be one of {', '.join(self.choices)}", code="bad_option"
            )
        if isinstance(value, (int, float)) and not isinstance(value, bool) and not self._inside(value):
            meant = f"did you mean {self.flag} {value / 100:g}?" if self._a_share and 1 < value <= 100 else ""
            raise UsageError(
                f"{self.flag} {value:g}", why=f"it must be {self.range_text()}", hint=meant, code="bad_option"
            )

    @property
    def _a_share(self) -> bool:
        return (self.above, self.high) == (0, 1)

    def _inside(self, value: float) -> bool:
        return (
            (self.low is None or value >= self.low)
            and (self.high is None or value <= self.high)
            and (self.above is None or value > self.above)
        )

    def range_text(self) -> str:
        """The range in words, empty when there is none."""
        parts = []
        if self.above is not None:
            parts.append(f"above {_plain(self.above)}")
        if self.low is not None:
            parts.append(f"at least {_plain(self.low)}")
        if self.high is not None:
            parts.append(f"at most {_plain(self.high)}")
        return " and ".join(parts)


def _plain(number: float) -> str:
    return str(number) if isinstance(number, int) else f"{number:g}"


def option(default: Any, flag: str, help: str, **limits: Any) -> Any:
    """A dataclass field with its command-line face."""
    return field(default=default, metadata={"option": Option(flag, help, **limits)})


def option_of(item: dataclasses.Field[Any]) -> Option:
    """The command-line face of a config field."""
    found: Option = item.metadata["option"]
    return found


def check_limit(flag: str, value: str, low: float) -> None:
    """Raise UsageError unless a value is off, auto, or a number from ``low`` to 1."""
    if value in ("off", "auto"):
        return
    try:
        good = low <= float(value) <= 1
    except ValueError:
        good = False
    if not good:
        raise UsageError(f"{flag} {value}", why=f"it must be off, auto, or a number from {low:g} to 1",
                         code="bad_option")  # fmt: skip


class Checked:
    """Checks every field against its type and its Option; numbers of numpy become plain ones."""

    def __post_init__(self) -> None:
        for item in fields(self):  # type: ignore[arg-type]
            kind: Any = type(self)
            plain = typed(item.name, getattr(self, item.name), kinds_of(kind)[item.name])
            object.__setattr__(self, item.name, plain)
            option_of(item).check(plain)
