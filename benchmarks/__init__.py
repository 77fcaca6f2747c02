# SPDX-License-Identifier: Apache-2.0
"""Measurements that stand behind the docs; run from a clone, not installed."""
