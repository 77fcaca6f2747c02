"""Model families: one adapter per file, found by the ``model_type`` of the checkpoint."""

from __future__ import annotations

from vidcomp.config import ModelConfig
from vidcomp.errors import ModelError
from vidcomp.hub import checkpoint_folder, read_json
from vidcomp.models.architectures import ARCHITECTURES, random_family
from vidcomp.models.base import Encoded, Family, ModelShape, Prompt
from vidcomp.models.checkpoint import Checkpoint, load_checkpoint
from vidcomp.models.llava_onevision import LlavaOnevision

__all__ = [
    "ARCHITECTURES",
    "FAMILIES",
    "Checkpoint",
    "Encoded",
    "Family",
    "ModelShape",
    "Prompt",
    "family_class",
    "load_family",
    "random_family",
]

FAMILIES: dict[str, type[Family]] = {kind.model_type: kind for kind in (LlavaOnevision,)}


def load_family(config: ModelConfig) -> Family:
    """Load the checkpoint and wrap it in its family's adapter; the family is checked before any weight is read.

    Raises:
        ModelError: the model cannot be loaded, or its family is not supported.
    """
    folder = checkpoint_folder(config.model, offline=config.offline)
    kind = family_class(str(read_json(folder / "config.json").get("model_type")), config.model)
    return kind(load_checkpoint(config, folder))


def family_class(model_type: str, name: str) -> type[Family]:
    """The adapter class for a ``model_type``; ``name`` is for the error message."""
    kind = FAMILIES.get(model_type)
    if kind is None:
        raise ModelError(
            f"{name} is of the family {model_type!r}",
            why=f"supported families: {', '.join(sorted(FAMILIES))}",
            hint="--model nano, or a checkpoint of a supported family",
            code="unknown_family",
        )
    return kind
