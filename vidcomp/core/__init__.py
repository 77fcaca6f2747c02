"""Words and arithmetic that know nothing of videos, models or commands: tokens, budgets, names, the ledger."""
