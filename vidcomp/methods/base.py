"""What a method is: a frozen dataclass whose fields are its parameters, called with a view and a keep ratio.

To add one: write ``vidcomp/methods/<name>.py`` with such a class, add its line to the table in
``vidcomp/methods/__init__.py`` and its row to the property tests. A package outside this one registers a class under
the entry-point group ``vidcomp.methods``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from vidcomp.tokens import Reduction, TokenView

__all__ = ["Method", "MethodInfo", "check_keep", "described", "signal"]


class Method(Protocol):
    """A token-reduction method.

    Attributes:
        name: what the user types.
        summary: one line, what it does.
        source: paper and repository in words, with a URL or arXiv id.
        needs: names of the :class:`~vidcomp.tokens.TokenView` signals it reads besides ``features``.
        inner: name of the in-LLM schedule that was published with it, None when there is none.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    source: ClassVar[str]
    needs: ClassVar[frozenset[str]]
    inner: ClassVar[str | None]

    def __call__(self, view: TokenView, keep: float) -> Reduction:
        """Decide which of the T * N tokens survive.

        Args:
            view: features [T, N, D] and the signals named in ``needs``.
            keep: share of the tokens to keep, in (0, 1].

        Raises:
            ValueError: keep outside its range, or a needed signal is missing.
        """
        ...


@dataclass(frozen=True)
class MethodInfo:
    """One row of the list of methods; ``parameters`` maps each parameter to its default."""

    name: str
    summary: str
    source: str
    needs: frozenset[str]
    parameters: Mapping[str, Any]
    inner: str | None


def described(method: Any) -> str:
    """A method object as the user would type it: its name, and the parameters that differ from their defaults."""
    changed = [f"{item.name}={getattr(method, item.name)}" for item in fields(method) if _differs(method, item)]
    return f"{method.name}:{','.join(changed)}" if changed else str(method.name)


def _differs(method: Any, item: Field[Any]) -> bool:
    return item.default is MISSING or getattr(method, item.name) != item.default


def check_keep(keep: float) -> None:
    """Raise ValueError unless ``keep`` is in (0, 1]."""
    if not 0 < keep <= 1:
        raise ValueError(f"keep must be in (0, 1], got {keep}")


def signal(view: TokenView, name: str, method: str) -> Tensor:
    """The signal of that name.

    Raises:
        ValueError: the view does not carry it.
    """
    value: Tensor | None = getattr(view, name)
    if value is None:
        raise ValueError(f"method {method!r} needs {name}, which this view does not carry")
    return value.detach()
