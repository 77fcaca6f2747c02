"""Building blocks that several schedules share."""
