"""Tests on real Linux kernels, in an emulated machine on this machine's own programs: `make kernels`.

`python -m tests.kernels VERSION` boots a kernel and has pytest run this folder's tests in there; on the host they say
nothing of any kernel but the host's own.
"""
