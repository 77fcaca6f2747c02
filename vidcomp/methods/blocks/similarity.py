# SPDX-License-Identifier: Apache-2.0
"""Cosine similarity: between tokens at the same position of two frames, and products that tie when they should."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

__all__ = ["block_bytes", "cosines", "frame_cosine", "neighbour_cosine", "products", "widest_float"]


def block_bytes(device: torch.device) -> int:
    """Size of a float32 temporary: small enough for the cache of a CPU, large enough to fill an accelerator."""
    return 4 << 20 if device.type == "cpu" else 256 << 20


def widest_float(device: torch.device) -> torch.dtype:
    """float64, where the device has it."""
    return torch.float32 if device.type == "mps" else torch.float64


def products(rows: Tensor, others: Tensor) -> Tensor:
    """All products of rows [..., P, D] with others [..., Q, D]: [..., P, Q] float32, rounded from float64.

    Products that are equal in exact arithmetic then are equal, in whatever order they were summed up: ties are ties on
    any number of threads.
    """
    wide = widest_float(rows.device)
    return (rows.to(wide) @ others.to(wide).transpose(-1, -2)).float()


def cosines(rows: Tensor, others: Tensor) -> Tensor:
    """Cosines of rows [..., P, D] with others [..., Q, D] of any float dtype: [..., P, Q] float32, as :func:`products`.

    Rounded from float64, 0 for a zero row; the lengths are divided out of the products, so no row is scaled first.
    """
    wide = widest_float(rows.device)
    two = others.to(wide)
    length = torch.linalg.vector_norm(two, dim=-1).unsqueeze(-2)
    step = max(1, block_bytes(rows.device) // (8 * rows.shape[-1]))
    found = []
    for part in torch.split(rows, step, dim=-2):
        one = part.to(wide)
        both = torch.linalg.vector_norm(one, dim=-1).unsqueeze(-1) * length
        found.append(torch.where(both > 0, (one @ two.transpose(-1, -2)) / both, 0.0).float())
    return torch.cat(found, dim=-2).clamp(-1, 1)


def frame_cosine(features: Tensor, frame: Tensor, other: Tensor) -> Tensor:
    """Similarity of tokens at the same position of pairs of frames.

    Args:
        features: [T, N, D] any float dtype.
        frame, other: [P] int64, the pairs.

    Returns:
        [P, N] float32 in [-1, 1]; 0 where a token is the zero vector; equal for equal pairs of tokens.
    """
    wide = widest_float(features.device)
    found = torch.empty(frame.numel(), features.shape[1], dtype=torch.float32, device=features.device)
    for i, (one, two) in enumerate(zip(frame.tolist(), other.tolist(), strict=True)):
        a, b = features[one].to(wide), features[two].to(wide)
        both = a.square().sum(-1) * b.square().sum(-1)
        found[i] = torch.where(both > 0, (a * b).sum(-1) * both.rsqrt(), 0.0).clamp(-1, 1)
    return found


def neighbour_cosine(features: Tensor) -> Tensor:
    """Similarity of each token to the one at its position in the next frame.

    Features are read once from memory. On a CPU float32 features are not copied; elsewhere, and for other dtypes, a
    block of frames is widened and multiplied at a time.

    Args:
        features: [T, N, D] any float dtype; the arithmetic is float32.

    Returns:
        [T - 1, N] float32 in [-1, 1]; 0 where a token is the zero vector; exactly 1 for equal tokens.
    """
    frames, tokens, width = features.shape
    on_cpu = features.device.type == "cpu"
    in_place = on_cpu and features.dtype == torch.float32
    step = max(1, frames - 1 if in_place else block_bytes(features.device) // (4 * tokens * width))
    products = _sampled_products if on_cpu else _block_products
    squares, dots = [], []
    for start in range(0, max(1, frames - 1), step):
        square, dot = products(features[start : start + step + 1].float())
        squares.append(square[: dot.shape[0]])
        dots.append(dot)
    squares.append(square[-1:])
    length = torch.cat(squares).to(
        widest_float(features.device)
    )  # wide, so that the product of two lengths neither over- nor underflows
    both = length[:-1] * length[1:]
    return torch.where(both > 0, torch.cat(dots) * both.rsqrt(), 0.0).clamp(-1, 1).float()


def _block_products(block: Tensor) -> tuple[Tensor, Tensor]:
    """Squared lengths [t, N] and products with the next frame [t - 1, N] of a block [t, N, D] float32."""
    return block.square().sum(dim=-1), (block[:-1] * block[1:]).sum(dim=-1)


def _sampled_products(block: Tensor) -> tuple[Tensor, Tensor]:
    """:func:`_block_products` as two diagonals of the table of all products, the only ones computed.

    One call that reads each token where it lies: no table of products in memory, and one wait for all threads instead
    of three per block, which matters when they share their cores with others.
    """
    frames, tokens, width = block.shape
    rows = block.reshape(-1, width)
    total, paired = rows.shape[0], rows.shape[0] - tokens
    index = torch.arange(total)
    column = torch.cat([torch.stack([index[:paired], index[tokens:]], dim=1).reshape(-1), index[paired:]])
    first = torch.cat([2 * index[:paired], paired + torch.arange(paired, total + 1)])  # two products per row, then one
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # says once per process that CSR tensors are new
        pattern = torch.sparse_csr_tensor(
            first, column, rows.new_zeros(column.numel()), (total, total), check_invariants=False
        )
    values = torch.sparse.sampled_addmm(pattern, rows, rows.t(), beta=0.0).values()
    pairs, last = values[: 2 * paired].reshape(-1, 2), values[2 * paired :]
    return torch.cat([pairs[:, 0], last]).reshape(frames, tokens), pairs[:, 1].reshape(-1, tokens)
