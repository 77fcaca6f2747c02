# SPDX-License-Identifier: Apache-2.0
"""``python -m vidcomp`` is the command line."""

from vidcomp.cli import main

main()
