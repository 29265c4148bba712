"""An API server with its controllers and a NAS, without a node: nodes are played."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.cluster import Cluster
from tests.support.leaks import no_leaks, require_sandbox


@pytest.fixture(scope="module", autouse=True)
def nothing_left() -> None:
    """Instead of the check of each module: the one around the whole cluster."""


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The cluster, or the one in EFC_CLUSTER_DIR, for those who work on the tests.

    Kubernetes' own limits of 20 requests a second of each controller would be what is measured.
    """
    if running := os.environ.get("EFC_CLUSTER_DIR"):
        yield Cluster(folder=Path(running))
        return
    require_sandbox()
    with no_leaks(), pytest.MonkeyPatch.context() as patch:
        patch.setenv("EFC_CLUSTER_REQUESTS_PER_SECOND", os.environ.get("EFC_CLUSTER_REQUESTS_PER_SECOND", "2000"))
        folder = Path(tempfile.mkdtemp(prefix="cluster-"))
        cluster = Cluster(folder=folder)
        cluster.boot(nodes=0)
        try:
            yield cluster
        finally:
            cluster.end()
            shutil.rmtree(folder, ignore_errors=True)
