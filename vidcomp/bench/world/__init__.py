# SPDX-License-Identifier: Apache-2.0
"""The rendered world that nano was trained on: videos, questions about them, and how answers are scored."""
