"""An API server with its controllers and a NAS, without a node: nodes are played."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.cluster.cluster import Cluster, cluster_of_session
from tests.support.leaks import no_leaks


@pytest.fixture(scope="module", autouse=True)
def nothing_left() -> None:
    """Instead of the check of each module: the one around the whole cluster."""


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The cluster, or the one in EFC_CLUSTER_DIR, for those who work on the tests.

    Kubernetes' own limits of 20 requests a second of each controller would be what is measured.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EFC_CLUSTER_REQUESTS_PER_SECOND", os.environ.get("EFC_CLUSTER_REQUESTS_PER_SECOND", "2000"))
        with cluster_of_session(nodes=0, within=no_leaks()) as cluster:
            yield cluster
