"""The report of a run, built only from the files of its directory."""

from dam.report.build import ReportResult, build_report
from dam.report.terminal import table_lines

__all__ = ["ReportResult", "build_report", "table_lines"]
