# SPDX-License-Identifier: Apache-2.0
"""What was kept, to look at: the picture of the patches, and the page that is one file. Needs no torch."""

from vidcomp.report.page.contact import require_picture, write_picture

__all__ = ["require_picture", "write_picture"]
