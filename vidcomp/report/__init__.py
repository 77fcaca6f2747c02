# SPDX-License-Identifier: Apache-2.0
"""Ledger to report: FLOPs and KV accounting, terminal tables, JSON. What this package imports needs no torch."""

from vidcomp.report.accounting import Cost, prefill_cost
from vidcomp.report.lines import Report, ReportLine, make_report
from vidcomp.report.table import render_report

__all__ = [
    "Cost",
    "Report",
    "ReportLine",
    "make_report",
    "prefill_cost",
    "render_report",
]
