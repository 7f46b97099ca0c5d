"""report.html: a run on one page that needs nothing but itself."""

from lumina.observe.report.write import write_report

__all__ = ["write_report"]
