# SPDX-License-Identifier: Apache-2.0
"""Words and arithmetic that know nothing of videos, models or commands: tokens, budgets, names, the ledger."""
