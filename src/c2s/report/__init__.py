"""Reports: one self-contained HTML page from results; no logic of their own."""

from c2s.report.demo import DemoResults, demo_overview, render, write_report

__all__ = ["DemoResults", "demo_overview", "render", "write_report"]
