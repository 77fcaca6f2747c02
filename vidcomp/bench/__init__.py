# SPDX-License-Identifier: Apache-2.0
"""Speed, always beside the uncompressed model, in one process."""

from vidcomp.bench.ask import AskBench, bench_ask
from vidcomp.bench.timing import Timing

__all__ = ["AskBench", "Timing", "bench_ask"]
