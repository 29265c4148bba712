"""Tests of EFC-CSI; see tests/README.md for how to run them."""
