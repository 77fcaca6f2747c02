# SPDX-License-Identifier: Apache-2.0
"""Write replicas into a folder: all, or those that are named."""

import sys
from pathlib import Path

from replicas import FAMILIES, make

for name in sys.argv[2:] or FAMILIES:
    print(make(Path(sys.argv[1]), name))
