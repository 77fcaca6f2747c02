# SPDX-License-Identifier: Apache-2.0
"""How the folder goldens was made: of every method and stage a few small cases of the full set.

    python tests/data/select_goldens.py FULL OUT

FULL holds index.json and the tensors of some five hundred cases (27 MB): outputs of the published implementations, on
inputs that this project made up. Cases that hinge on a tie or in which the published code fails are left to it, and so
is what needs large inputs.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file

Case = dict[str, Any]
WIDTHS = {"float32": 4, "int32": 4, "uint8": 1, "bool": 1}
STAGE_BYTES = 64 << 10  # of what one stage has for itself; inputs that several stages read come on top
INPUTS = ("struct_small_s0", "struct_small_s1", "gauss_small_s0", "two_frames", "tiny_n4", "onehot")
MOST = 6
FILE = "published.safetensors"
LATER = (
    "surge",
    "echoprune",
    "gprune",
    "forestprune",
    "ott_vid",
    "aot",
    "flashvid",
    "st_simdiff",
    "dart",
    "fitprune",
)  # FULL/frontier/<name>.json
LATER_BYTES, LATER_MOST = 24 << 10, 4
SURE = ("required", "zero_noise", "own_reading")


def full_index(full: Path) -> dict[str, Any]:
    """The index of the full set, the cases of LATER behind the others, files named from FULL."""
    index: dict[str, Any] = json.loads((full / "index.json").read_text())
    for name in LATER:
        more = json.loads((full / "frontier" / f"{name}.json").read_text())
        index["methods"].update(more["methods"])
        for case in more["cases"]:
            for entry in entries(case):
                entry["file"] = _from_full(entry["file"])
            index["cases"].append({"stability": {}, **case})
    return index


def _from_full(file: str) -> str:
    name = Path(file).name
    return name if name == "inputs.safetensors" else f"frontier/{name}"


def entries(case: Case) -> Iterator[dict[str, Any]]:
    """What of a case is stored as a tensor."""
    yield from (entry for part in ("inputs", "outputs") for entry in case[part].values() if "tensor" in entry)


def own_bytes(case: Case) -> int:
    """Shared inputs left out."""
    own = [entry for entry in entries(case) if entry["file"] != "inputs.safetensors"]
    return sum(math.prod(entry["shape"]) * WIDTHS.get(entry["dtype"], 8) for entry in own)


def chosen(cases: list[Case]) -> list[Case]:
    """Small and unlike: in turns one case of every input, as far as the bytes allow."""
    left, most = (LATER_BYTES, LATER_MOST) if cases[0]["method"] in LATER else (STAGE_BYTES, MOST)
    sure = sorted((case for case in cases if case["parity"] in SURE), key=own_bytes, reverse=True)
    heaps: dict[str, list[Case]] = {}
    for case in sure:
        read = {entry["tensor"].split("/")[0] for entry in entries(case) if entry["file"] == "inputs.safetensors"}
        if read <= set(INPUTS):
            heaps.setdefault(min(read, default=case["id"]), []).append(case)
    order = sorted(heaps, key=lambda name: INPUTS.index(name) if name in INPUTS else len(INPUTS))
    taken: list[Case] = []
    while any(heaps.values()) and len(taken) < most:
        for name in order:
            if heaps[name] and len(taken) < most:
                case = heaps[name].pop(len(heaps[name]) // 2)  # neither the least nor the most is kept
                if own_bytes(case) <= left:
                    left -= own_bytes(case)
                    taken.append(case)
    return taken


def main(full: Path, out: Path) -> None:
    """Write index.json and one file of tensors."""
    index = full_index(full)
    stages: dict[tuple[str, str], list[Case]] = {}
    for case in index["cases"]:
        stages.setdefault((case["method"], case["stage"]), []).append(case)
    cases = [case for of in stages.values() for case in chosen(of)]
    tensors = {}
    for entry in (entry for case in cases for entry in entries(case)):
        with safe_open(full / entry["file"], framework="pt") as file:
            name = f"{Path(entry['file']).stem}/{entry['tensor']}"
            tensors[name] = file.get_tensor(entry["tensor"]).contiguous()
        entry.update(file=FILE, tensor=name)
    out.mkdir(parents=True, exist_ok=True)
    save_file(dict(sorted(tensors.items())), out / FILE)
    head = {name: index[name] for name in ("what", "how_to_use", "determinism", "environment")}
    official = {name: method["official"] for name, method in index["methods"].items()}
    lines = ",\n".join(json.dumps(case) for case in cases)
    (out / "index.json").write_text(
        f'{json.dumps({**head, "official": official}, indent=1)[:-2]},\n "cases": [\n{lines}\n]}}\n'
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
