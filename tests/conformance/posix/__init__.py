"""POSIX conformance of a mount: two public suites and tests of our own, all compared with native ext4 as they run."""
