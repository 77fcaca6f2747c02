# SPDX-License-Identifier: Apache-2.0
"""Command-line options made from the fields of the config dataclasses, so that each is written down once."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Annotated, Any, get_type_hints

import typer

from vidcomp.cli.console import Ui
from vidcomp.config import GenerateConfig, ModelConfig, OuterConfig, RunConfig, SpanConfig, VideoConfig
from vidcomp.core.options import Option, option_of
from vidcomp.video.names import local_path

__all__ = ["ALL_GROUPS", "given_config", "method_list", "path_argument", "with_config", "with_ui"]

ALL_GROUPS: tuple[type, ...] = (OuterConfig, VideoConfig, SpanConfig, ModelConfig, GenerateConfig)
_PANELS = {
    OuterConfig: "Compression",
    VideoConfig: "Video",
    SpanConfig: "Spans and repeated frames",
    ModelConfig: "Model",
    GenerateConfig: "Answer",
}
_UI_HELP = {
    "json": "print JSON (schema 1) instead of text",
    "quiet": "nothing on stderr but errors",
    "verbose": "say more: settings, warnings of the libraries",
    "debug": "show tracebacks",
}


def path_argument(text: str) -> Any:
    """Files as an argument. The library's own look at them would end a whole batch, and know no reasons."""
    return typer.Argument(help=text, show_default=False, readable=False, parser=local_path)


def method_list(text: str) -> list[str]:
    """Split at commas, but not at those between the parameters of one method: a:x=1,y=2,b are two methods."""
    names: list[str] = []
    for part in text.split(","):
        if "=" in part and ":" not in part and names:
            names[-1] += f",{part}"
        else:
            names.append(part)
    return names


def with_config(
    *groups: type, only: Mapping[type, Sequence[str]] | None = None
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command the options of these config groups; it receives them as ``config: RunConfig``.

    Args:
        groups: config dataclasses.
        only: further ones, and which of their fields.
    """
    named = {**{group: [item.name for item in fields(group)] for group in groups}, **(only or {})}

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        added = [_parameter(group, name) for group, names in named.items() for name in names]
        context = inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)

        @functools.wraps(command)
        def wrapper(*, context: typer.Context, **values: Any) -> Any:
            chosen = {parameter.name: values.pop(parameter.name) for parameter in added}
            given = {name: value for name, value in chosen.items() if _typed(context, name)}
            return command(**values, config=RunConfig.from_flat(**given))

        return _resign(wrapper, command, "config", [*added, context])

    return decorate


def given_config(context: typer.Context) -> RunConfig:
    """The settings that a parsed command line asks for.

    Raises:
        UsageError: as :meth:`RunConfig.from_flat`.
    """
    values = {name: context.params[name] for name in RunConfig().flat() if name in context.params}
    return RunConfig.from_flat(**{name: value for name, value in values.items() if _typed(context, name)})


def with_ui(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command ``--json --quiet --verbose --debug``; it receives them as ``ui: Ui``."""
    added = [_flag(name, text) for name, text in _UI_HELP.items()]

    @functools.wraps(command)
    def wrapper(**values: Any) -> Any:
        ui = Ui(**{parameter.name: values.pop(parameter.name) for parameter in added})
        ui.logging()
        return command(**values, ui=ui)

    return _resign(wrapper, command, "ui", added)


def _typed(context: typer.Context, name: str) -> bool:
    """True if the user gave this option, rather than its default."""
    source = context.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


def _resign(
    wrapper: Callable[..., Any], command: Callable[..., Any], replaced: str, added: list[inspect.Parameter]
) -> Callable[..., Any]:
    signature = inspect.signature(command, eval_str=True)
    kept = [parameter for parameter in signature.parameters.values() if parameter.name != replaced]
    parameters = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in (*kept, *added)]
    wrapper.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    wrapper.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return wrapper


def _parameter(group: type, name: str) -> inspect.Parameter:
    item = next(item for item in fields(group) if item.name == name)
    face = option_of(item)
    kind = get_type_hints(group)[name]
    option = typer.Option(
        face.flag,
        help=_help(face),
        metavar=_metavar(face, kind),
        rich_help_panel=_PANELS[group],
        show_default=item.default is not None,
        callback=_lister(face.listing) if face.listing else None,
        is_eager=bool(face.listing),
        parser=_number if kind in (float, float | None) else None,
    )
    annotation = Annotated[kind, option]  # type: ignore[valid-type]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=item.default, annotation=annotation)


def _number(text: str) -> float:
    """A number; a percentage is a share of a hundred."""
    try:
        return float(text)
    except ValueError:
        share = text.removesuffix("%")
        with contextlib.suppress(ValueError):
            raise typer.BadParameter(f"{text!r} is not a share; did you mean {float(share) / 100:g}?") from None
        raise typer.BadParameter(f"{text!r} is not a number") from None


def _lister(stage: str) -> Callable[[str], str]:
    """Print the names of a stage in place of a value ``help``, before anything else is asked for."""

    def callback(value: str) -> str:
        if value == "help":
            from vidcomp.cli.methods import show_names

            show_names(stage)
            raise typer.Exit
        return value

    return callback


def _flag(name: str, text: str) -> inspect.Parameter:
    option = typer.Option(f"--{name}", help=text, rich_help_panel="Output")
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Annotated[bool, option])


def _help(face: Option) -> str:
    limits = face.range_text()
    return f"{face.help} ({limits})" if limits else face.help


def _metavar(face: Option, kind: Any) -> str | None:
    if face.choices:
        return "|".join(face.choices)
    return (
        None if kind is bool else "N" if kind in (int, int | None) else "X" if kind in (float, float | None) else "TEXT"
    )
