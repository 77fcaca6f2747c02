# SPDX-License-Identifier: Apache-2.0
"""The contract of a method: a frozen dataclass whose fields are its parameters, called with a view and a keep ratio.

To add one: write ``vidcomp/methods/<name>.py`` with such a class, add its line to the table in
``vidcomp/methods/__init__.py`` and its row to the property tests. A package outside this one registers a class under
the entry-point group ``vidcomp.methods``. A class that derives from :class:`Method` inherits what is the same for most
methods; one that does not is read with the same defaults.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields, replace
from functools import wraps
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from vidcomp.core.arguments import expect, typed
from vidcomp.core.budget import token_budget
from vidcomp.core.registry import MethodInfo, Parity, parameters_of
from vidcomp.core.source import Source
from vidcomp.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from vidcomp.core.tokens import Reduction, TokenView

__all__ = [
    "Method",
    "MethodInfo",
    "Parity",
    "check_keep",
    "check_seed",
    "described",
    "exact_unless",
    "for_family",
    "parameters_of",
    "reads",
    "settled",
    "signal",
    "tower_layer",
]


class Method(Protocol):
    """A token-reduction method.

    Attributes:
        name: what the user types.
        summary: one line, what it does.
        source: paper and published code; a class of another package may say it in plain words.
        needs: signals of :class:`~vidcomp.core.tokens.TokenView` that it reads besides ``features``. One that needs
            ``query`` depends on the question.
        wants: signals it reads when the model can give them, and does without otherwise.
        inner: name of the in-LLM schedule that was published with it, None when there is none.
        exact: whether the number of survivors follows from shape and keep ratio alone, and :meth:`count` tells it
            beforehand. A method that decides by thresholds says False; ``blocks/fitted.py`` brings
            its decision to a number.
        rule: what keeps the number of survivors from being the budget, told of the method ("stores static positions
            once"); empty where nothing does.
        frame_encoder: the segmenter that its thresholds on ``frame_features`` were published with, None where means of
            the model's own features do.
        span_rule: of a method that works in spans of frames, the rule that its own are nearest to: ``gain`` where
            they let positions stay as they are, ``fall`` where they are scenes, or windows; empty where it works in
            none. Where the view names spans, it works in these: nothing is merged across them.
        by_family: for the model type of a family, values of the parameters that are None until then; published
            settings that differ between models.
        seed: a method that draws declares a field ``seed: int | None = None``; None takes the seed of the run.
        stage: where it works; ``outer`` is between the vision tower and the language model.
        parity: ``goldens`` when outputs of the published code are reproduced in the tests; ``own reading`` when there
            is no such code, or it could not be run; ``control`` for the yardsticks of this project.
        equal_with: the parameters with which the published outputs are reproduced ("official=true"); empty for the
            defaults.
        differs: what is not as in the published code without them ("meets the budget exactly"); empty where nothing is.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    source: ClassVar[Source | str]
    needs: ClassVar[frozenset[str]] = frozenset()
    wants: ClassVar[frozenset[str]] = frozenset()
    inner: ClassVar[str | None] = None
    exact: ClassVar[bool] = False
    rule: ClassVar[str] = ""
    frame_encoder: ClassVar[str | None] = None
    span_rule: ClassVar[str] = ""
    by_family: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    seed: int | None = None
    stage: ClassVar[str] = "outer"
    parity: ClassVar[Parity] = "own reading"
    equal_with: ClassVar[str] = ""
    differs: ClassVar[str] = ""

    def __init_subclass__(cls, **more: Any) -> None:
        """Calls of every method refuse arguments of a wrong type, and return all tokens at keep = 1."""
        super().__init_subclass__(**more)
        if "__call__" in vars(cls):
            cls.__call__ = _guarded(cls.__call__)  # type: ignore[method-assign]

    def __call__(self, view: TokenView, keep: float) -> Reduction:
        """Decide which of the T * N tokens survive; at keep = 1 all do.

        Args:
            view: features [T, N, D] and the signals named in ``needs``.
            keep: share of the tokens to keep, in (0, 1].

        Raises:
            ValueError: keep outside its range, or a needed signal is missing.
        """
        ...

    @property
    def decides_at_one(self) -> bool:
        """True if a call with keep = 1 removes something: ``official`` asks for what the published code does there."""
        return bool(getattr(self, "official", None))

    def count(self, frames: int, grid: tuple[int, int], keep: float) -> int:
        """Number of survivors of T frames of H * W tokens, known without a video; only exact methods have one.

        Raises:
            ValueError: keep outside (0, 1], or the number depends on the video.
        """
        if not self.exact:
            raise ValueError(f"how many tokens {described(self)} keeps depends on the video")
        return token_budget(frames * grid[0] * grid[1], keep)

    def settled_for(self, keep: float, seed: int = 0) -> Method:
        """The same method with the defaults that follow the request: ``seed`` where it draws and names none."""
        draws = self.seed is None and "seed" in parameters_of(type(self))
        chosen: Method = replace(self, seed=seed) if draws else self  # type: ignore[type-var]
        return chosen


def _guarded(call: Callable[..., Reduction]) -> Callable[..., Reduction]:
    @wraps(call)
    def guarded(self: Method, view: TokenView, keep: float) -> Reduction:
        expect("view", view, hasattr(view, "features") and hasattr(view, "grid"), "a TokenView")
        keep = typed("keep", keep, float)
        if keep != 1 or self.decides_at_one:
            return call(self, view, keep)
        from vidcomp.core.tokens import identity  # reading a class needs no torch

        frames, tokens = view.features.shape[:2]
        return identity(frames, tokens, view.features.device)

    return guarded


def reads(method: Method, available: frozenset[str]) -> frozenset[str]:
    """The signals to collect for a method when a model can give ``available``: all it needs, and what it wants."""
    return frozenset(method.needs) | (frozenset(getattr(method, "wants", ())) & available)


def for_family(method: Method, model_type: str) -> Method:
    """The same method with the defaults that were published for a family of models, where it has such."""
    known = getattr(method, "by_family", {}).get(model_type, {})
    open_ = {name: value for name, value in known.items() if getattr(method, name) is None}
    return replace(method, **open_) if open_ else method  # type: ignore[type-var]


def settled(method: Method, keep: float, seed: int = 0) -> Method:
    """:meth:`Method.settled_for` of a method; one that does not derive from :class:`Method` stays as it is."""
    return method.settled_for(keep, seed) if hasattr(method, "settled_for") else method


class _ExactUnless:
    """Exactness by parameters: what a class says is true of its defaults, an object knows its own."""

    def __init__(self, *names: str) -> None:
        self.names = names

    def __get__(self, method: object | None, kind: type) -> bool:
        return method is None or not any(getattr(method, name) for name in self.names)


def exact_unless(*names: str) -> Any:
    """``exact`` of a method whose count depends on the video once one of these parameters is set."""
    return _ExactUnless(*names)


def described(method: Any) -> str:
    """A method object as the user would type it: its name, and the parameters that differ from their defaults."""
    changed = [f"{item.name}={_typed(getattr(method, item.name))}" for item in fields(method) if _differs(method, item)]
    return f"{method.name}:{','.join(changed)}" if changed else str(method.name)


def _typed(value: Any) -> str:
    """A parameter as it is written on the command line; several numbers are 8/16/24."""
    return "/".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)


def _differs(method: Any, item: Field[Any]) -> bool:
    return item.default is MISSING or getattr(method, item.name) != item.default


def check_keep(keep: float) -> None:
    """Raise ValueError unless ``keep`` is in (0, 1]."""
    if not 0 < keep <= 1:
        raise ValueError(f"keep must be in (0, 1], got {keep}")


def check_seed(seed: int | None) -> None:
    """Raise ValueError unless ``seed`` is None or a whole number that a generator takes."""
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63):
        raise ValueError(f"seed must be an integer from 0 to 2**63 - 1, got {seed!r}")


def signal(view: TokenView, name: str, method: str) -> Tensor:
    """The signal of that name.

    Raises:
        ValueError: the view does not carry it.
    """
    value: Tensor | None = getattr(view, name)
    if value is None:
        raise ValueError(f"method {method!r} needs {name}, which this view does not carry")
    return value.detach()


def tower_layer(method: str, option: str, layer: int, depth: int) -> int:
    """The layer itself.

    Raises:
        UsageError: a vision tower of ``depth`` layers has no such layer.
    """
    if layer >= depth:
        raise UsageError(f"--method {method}:{option}={layer}", why=f"only {depth} layers of the vision tower run",
                         code="bad_option")  # fmt: skip
    return layer
