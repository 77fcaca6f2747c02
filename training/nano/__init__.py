# SPDX-License-Identifier: Apache-2.0
"""How nano was trained, from scratch, on rendered shapes. Start: ``python -m training.nano.train --help``."""
