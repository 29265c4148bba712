"""Tests of csi.master."""
