"""Metrics, events, console, report, and what the hardware can do."""
