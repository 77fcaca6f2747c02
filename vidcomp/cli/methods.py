"""vidcomp methods: every token-reduction method, with needs and source."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from vidcomp.cli.console import Ui, data
from vidcomp.cli.options import with_ui

if TYPE_CHECKING:
    from vidcomp.methods import MethodInfo

__all__ = ["methods"]


@with_ui
def methods(*, ui: Ui) -> None:
    """List the methods, their parameters, what they need and where they come from."""
    from vidcomp.methods import methods as known

    listed = known()
    if ui.json:
        data([{**asdict(info), "needs": sorted(info.needs)} for info in listed])
        return
    for info in listed:
        data(_described(info))


def _described(info: MethodInfo) -> str:
    parameters = ", ".join(f"{key}={value}" for key, value in info.parameters.items())
    facts = {
        "parameters": parameters,
        "needs": ", ".join(sorted(info.needs)),
        "in the LLM": info.inner,
        "source": info.source,
    }
    lines = [f"  {name:<11} {text}" for name, text in facts.items() if text]
    return "\n".join([f"{info.name}: {info.summary}", *lines])
