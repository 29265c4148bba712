"""Paths for property tests."""

from hypothesis import strategies as st

#: Texts that are likelier than random ones to be near a path.
PATHS = st.lists(
    st.sampled_from(["..", ".", "", "a", "/", "\\", "..\\", "\\..", "\n", "\0", "…", "a b", "x" * 300]), max_size=8
).map("/".join) | st.text(max_size=60)
