"""Cosine similarity between tokens at the same position of neighbouring frames."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

__all__ = ["block_bytes", "neighbour_cosine"]


def block_bytes(device: torch.device) -> int:
    """Size of a float32 temporary: small enough for the cache of a CPU, large enough to fill an accelerator."""
    return 4 << 20 if device.type == "cpu" else 256 << 20


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
    wide = torch.float32 if features.device.type == "mps" else torch.float64  # mps has no float64
    length = torch.cat(squares).to(wide)  # wide, so that the product of two lengths neither over- nor underflows
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
