# SPDX-License-Identifier: Apache-2.0
"""Pictures of what was kept: the picture of the patches, and the page that is one file. Needs no torch."""

from vidcomp.report.page.compared import write_comparison
from vidcomp.report.page.contact import require_picture, write_bytes, write_picture
from vidcomp.report.page.html import page_data, write_page

__all__ = ["page_data", "require_picture", "write_bytes", "write_comparison", "write_page", "write_picture"]
