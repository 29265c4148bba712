"""POSIX conformance of a mount: two public suites and tests of our own, each compared with native ext4 in the same run."""
