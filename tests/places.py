# SPDX-License-Identifier: Apache-2.0
"""Several devices on a machine that has one: tensors that say where they live, and operations that refuse to mix them.

Values are computed on the CPU. As on real devices only copies may cross, and indices and numbers may come from the CPU.
"""

from __future__ import annotations

from contextlib import contextmanager

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only

CPU = torch.device("cpu")
_CROSSING = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default}
_INDEXED = {torch.ops.aten.index.Tensor, torch.ops.aten.index_put_.default, torch.ops.aten.index_put.default}


class Elsewhere(Tensor):
    """A tensor on another device, by its own word."""

    @staticmethod
    def __new__(cls, values: Tensor, device: torch.device) -> Elsewhere:
        return Tensor._make_wrapper_subclass(cls, values.shape, strides=values.stride(), dtype=values.dtype,
                                             device="meta")  # fmt: skip

    def __init__(self, values: Tensor, device: torch.device) -> None:
        self.values, self.place = values, device

    @property
    def device(self) -> torch.device:
        """Where it says it lives; torch itself takes it for a tensor without values, and asks no driver."""
        return self.place

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


class Strict(TorchDispatchMode):
    """Makes new tensors where they are asked for, without starting a driver."""

    _mode_key = torch._C._TorchDispatchModeKey.FAKE

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


def _run(func, args, kwargs):
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    if func in _INDEXED:
        tensors = [args[0], *(leaf for leaf in tensors if leaf.device != CPU)]
    places = {leaf.device for leaf in tensors if leaf.dim() or leaf.device != CPU}
    places -= {torch.device("meta")}  # made inside torch, for an Elsewhere that it was given
    if len(places) > 1 and func not in _CROSSING:
        raise RuntimeError(f"{func} over tensors on {', '.join(sorted(map(str, places)))}")
    wanted = kwargs.get("device")
    if wanted is not None and torch.device(wanted).type == "meta" and places:  # torch's own word for Elsewhere
        wanted = None
    place = tensors[0].device if wanted is None and tensors else torch.device(wanted or "cpu")
    place = next(iter(places)) if wanted is None and len(places) == 1 else place
    plain = tree_map_only(Elsewhere, lambda leaf: leaf.values, (args, kwargs))
    out = func(*plain[0], **{**plain[1], **({"device": CPU} if "device" in kwargs else {})})
    if func._schema.is_mutable:
        return args[0]
    if place == CPU:
        return out
    return tree_map(lambda leaf: Elsewhere(leaf, place) if isinstance(leaf, Tensor) else leaf, out)


def move(value, device):
    """Every tensor of arguments on a device."""
    return tree_map_only(Tensor, lambda leaf: leaf if leaf.device == device else leaf.to(device), value)


def place(module, device) -> None:
    """Put a module and all below it on a device, as a device map does: forward brings its arguments over first."""
    for part in module.modules():
        for held in (part._parameters, part._buffers):
            held.update({name: Elsewhere(value.data, device) for name, value in held.items() if value is not None})

        def forward(*args, _own=part.forward, **kwargs):
            return _own(*move(args, device), **move(kwargs, device))

        part.forward = forward


@contextmanager
def strict():
    """Devices are kept apart inside."""
    before = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(1.0, device=...) is a copy that the mode sees
    try:
        with torch.no_grad(), Strict():
            yield
    finally:
        torch._C._set_only_lift_cpu_tensors(before)
