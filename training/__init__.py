# SPDX-License-Identifier: Apache-2.0
"""Recipes that made the embedded models. Not installed with the package."""
