# SPDX-License-Identifier: Apache-2.0
"""Number formats that this machine's processor computes itself."""

from __future__ import annotations

from functools import cache

__all__ = ["computed_formats", "computes_bfloat16"]

# Instructions by the names that torch gives them, widest first; the last three are those of ARM.
_KNOWN = ("amx_fp16", "amx_bf16", "amx_int8", "avx512_fp16", "avx512_bf16", "avx512_vnni", "avx_vnni", "avx512_f",
          "avx2", "sve", "bf16", "i8mm")  # fmt: skip
# AVX-512 alone only imitates it, which is slower than float32; on ARM nobody has measured it.
_BFLOAT16 = ("amx_bf16", "avx512_bf16")


@cache
def computed_formats() -> tuple[str, ...]:
    """Names of the instruction sets of this processor that matter for a model, as far as torch tells them."""
    import torch

    told = getattr(torch.cpu, "get_capabilities", None)
    if told is not None:
        found = told()
        return tuple(name for name in _KNOWN if found.get(name))
    asked = {
        "amx_bf16": "_is_amx_tile_supported", "avx512_bf16": "_is_avx512_bf16_supported",
        "avx512_vnni": "_is_vnni_supported", "avx512_f": "_is_avx512_supported", "avx2": "_is_avx2_supported",
    }  # fmt: skip
    return tuple(name for name in _KNOWN if name in asked and getattr(torch.cpu, asked[name], bool)())


def computes_bfloat16() -> bool:
    """True if products of bfloat16 numbers are an instruction here, and not imitated."""
    return any(name in computed_formats() for name in _BFLOAT16)
