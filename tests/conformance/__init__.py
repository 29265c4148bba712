"""Conformance to public contracts, checked by their own suites where there are any."""
