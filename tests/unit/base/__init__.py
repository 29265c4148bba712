"""Unit tests of csi.base."""
