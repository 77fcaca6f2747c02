"""Ledger to report: FLOPs and KV accounting, terminal tables, JSON."""

from vidcomp.report.accounting import Cost, prefill_cost
from vidcomp.report.attention import attention_record, render_attention
from vidcomp.report.lines import Report, ReportLine, make_report
from vidcomp.report.table import render_report

__all__ = [
    "Cost",
    "Report",
    "ReportLine",
    "attention_record",
    "make_report",
    "prefill_cost",
    "render_attention",
    "render_report",
]
