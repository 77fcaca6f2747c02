# SPDX-License-Identifier: Apache-2.0
"""Looks of a frame before the vision tower: a feature per region, from luma, DINOv2 or CLIP.

Regions rather than one vector per frame: a small object that appears changes one region a lot and the whole picture
hardly.
"""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor

from vidcomp.core.pixels import RESAMPLE, normalize, resize, to_channels_first
from vidcomp.errors import ModelError
from vidcomp.hub import checkpoint_folder, first_line, pick_device, read_json

__all__ = ["FrameEncoder", "Luma", "VisionNetwork", "frame_encoder"]

_DEFAULT_IDS = {"dinov2": "facebook/dinov2-small", "clip": "openai/clip-vit-base-patch32"}
_FAMILIES = {"dinov2": ("dinov2", "dinov2_with_registers"), "clip": ("clip", "clip_vision_model")}
_CELLS = 8  # a network's patch grid is averaged down to at most 8 x 8 regions

Frames = np.ndarray[Any, np.dtype[np.uint8]]


class FrameEncoder(Protocol):
    """Turns frames into region features and says how alike two frames are.

    Attributes:
        same_frame: similarity from which a frame is not encoded again.
        same_region: similarity from which a region repeats in the next frame.
        same_span: mean similarity of regions below which neighbouring frames are of two scenes.
        describes: whether the features say what a frame shows, so that their cosine means something to a method.
    """

    same_frame: ClassVar[float]
    same_region: ClassVar[float]
    same_span: ClassVar[float]
    describes: ClassVar[bool]

    def __call__(self, frames: Frames) -> Tensor:
        """uint8 [T, h, w, 3] to [T, R, F], R regions."""
        ...

    def similarity(self, one: Tensor, other: Tensor) -> float:
        """Similarity of two frames [R, F] where they differ most; 1 is equal."""
        ...

    def by_region(self, some: Tensor, others: Tensor) -> Tensor:
        """Similarity of the regions of frames [K, R, F] with those of as many others: [K, R]; 1 is equal."""
        ...


class Luma:
    """Mean brightness of 16 x 16 blocks. No network; sees a local change of a few grey levels, blind to equal
    brightness."""

    same_frame: ClassVar[float] = 0.97
    same_region: ClassVar[float] = 0.97
    same_span: ClassVar[float] = 0.95
    describes: ClassVar[bool] = False  # brightness is positive everywhere: all cosines are near one
    side: ClassVar[int] = 16

    def __call__(self, frames: Frames) -> Tensor:
        """uint8 [T, h, w, 3] to [T, 256, 1] in 0..1."""
        weights = torch.tensor([0.299, 0.587, 0.114])
        blocks = [
            F.adaptive_avg_pool2d((torch.from_numpy(frame).float() @ weights)[None], (self.side, self.side))
            for frame in frames
        ]
        return torch.stack(blocks).view(len(frames), -1, 1) / 255

    def similarity(self, one: Tensor, other: Tensor) -> float:
        """1 - the largest difference of a block."""
        return 1 - float((one - other).abs().amax())

    def by_region(self, some: Tensor, others: Tensor) -> Tensor:
        """1 - the difference of each block."""
        return 1 - (some - others).abs()[..., 0]


class VisionNetwork:
    """Patch features of a Dinov2 or CLIP vision checkpoint, averaged over regions.

    The whole frame is squashed to the network's square: a crop would not see what changes at the sides.
    """

    same_frame: ClassVar[float] = 0.90
    same_region: ClassVar[float] = 0.80
    same_span: ClassVar[float] = 0.60
    describes: ClassVar[bool] = True
    chunk: ClassVar[int] = 16

    def __init__(self, model: Any, settings: dict[str, Any]) -> None:
        self.model, self.settings = model, settings

    @torch.no_grad()
    def __call__(self, frames: Frames) -> Tensor:
        """uint8 [T, h, w, 3] to [T, R, F], unit length per region."""
        parts = [self._regions(frames[start : start + self.chunk]) for start in range(0, len(frames), self.chunk)]
        return torch.cat(parts)

    def similarity(self, one: Tensor, other: Tensor) -> float:
        """The smallest cosine of a region."""
        return float((one * other).sum(-1).amin())

    def by_region(self, some: Tensor, others: Tensor) -> Tensor:
        """The cosine of each region."""
        return (some * others).sum(-1)

    def _regions(self, frames: Frames) -> Tensor:
        pixels = self._pixels(frames).to(self.model.device, self.model.dtype)
        patches = self.model(pixels).last_hidden_state.float()
        side = int((patches.shape[1]) ** 0.5)  # leading class and register tokens are what is left over
        grid = patches[:, -side * side :].transpose(1, 2).unflatten(2, (side, side))
        cells = min(side, _CELLS)
        return F.normalize(F.adaptive_avg_pool2d(grid, (cells, cells)).flatten(2).transpose(1, 2), dim=-1)

    def _pixels(self, frames: Frames) -> Tensor:
        rule = self.settings
        edge = int(self.model.config.image_size)
        size = rule.get("crop_size") or {"height": edge, "width": edge}
        square = (int(size["height"]), int(size["width"])) if isinstance(size, dict) else (int(size), int(size))
        squashed = resize(to_channels_first(frames), square, RESAMPLE[int(rule.get("resample", 3))])
        return normalize(squashed, rule["image_mean"], rule["image_std"])


def frame_encoder(name: str, checkpoint: str | None, *, device: str, offline: bool, embedded: bool) -> FrameEncoder:
    """The encoder of that name.

    Args:
        name: ``luma``, ``dinov2`` or ``clip``.
        checkpoint: of a network, None for the usual one.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        offline: never download.
        embedded: use the frame encoder inside the package when no checkpoint is named.

    Raises:
        ModelError: the checkpoint is missing or of another family.
    """
    if name == "luma":
        return Luma()
    default = "embedded" if embedded and name == "dinov2" else _DEFAULT_IDS[name]
    return _load(name, checkpoint or default, device, offline)


def _load(kind: str, name: str, device: str, offline: bool) -> VisionNetwork:
    folder = checkpoint_folder(name, offline=offline)
    found = str(read_json(folder / "config.json").get("model_type"))
    if found not in _FAMILIES[kind]:
        raise ModelError(
            f"--segmenter-model {name} is a {found} checkpoint",
            why=f"--segmenter {kind} takes one of: {', '.join(_FAMILIES[kind])}",
            hint=f"--segmenter-model {_DEFAULT_IDS[kind]}",
        )
    from transformers import AutoModel, CLIPVisionModel

    loader: Any = CLIPVisionModel if kind == "clip" else AutoModel
    try:
        model, info = loader.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"cannot load the frame encoder {name}", why=first_line(error)) from error
    settings = read_json(folder / "preprocessor_config.json")
    if info["missing_keys"] or "image_mean" not in settings:
        raise ModelError(
            f"the frame encoder {name} is incomplete", why="tensors or preprocessor_config.json are missing",
            hint="download it again",
        )  # fmt: skip
    return VisionNetwork(model.to(pick_device(device)).eval(), settings)
