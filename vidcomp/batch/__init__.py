# SPDX-License-Identifier: Apache-2.0
"""Many videos: the job list (discover), the journal, the loop (captions). Finding files imports no model."""
