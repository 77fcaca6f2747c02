# SPDX-License-Identifier: Apache-2.0
"""Building blocks that several schedules share."""
