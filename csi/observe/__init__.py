"""Metrics: the table of all of them, a process's counters, Prometheus' text format, the HTTP server for scrapes."""
