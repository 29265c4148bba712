"""Examples that run: see quickstart."""
