"""Metrics: the table of all of them, what a process counts, Prometheus' text format, the HTTP server for scrapes."""
