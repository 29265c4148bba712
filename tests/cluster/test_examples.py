"""deploy/examples as a user applies them: nothing is changed but the NAS."""

from __future__ import annotations

from tests.cluster.cluster import Namespace
from tests.support.paths import ROOT
from tests.support.processes import wait_until

_EXAMPLES = ROOT / "deploy" / "examples"


def apply(namespace: Namespace, *names: str) -> None:
    """Applies examples in the test's namespace. A volume's claim is there named together with its namespace."""
    for name in names:
        text = (_EXAMPLES / name).read_text()
        for before, after in (
            ("nfs://nas.example.com/data", namespace.cluster.nas_url),
            ("nfs://nas.example.com/datasets", namespace.cluster.nas_url),
            ("namespace: default", f"namespace: {namespace.name}"),
            ("path: images", f"path: {namespace.name}/images"),
        ):
            text = text.replace(before, after)
        namespace.cluster.kubectl("-n", namespace.name, "apply", "-f", "-", stdin=text)


def test_claims_of_a_stateful_set(namespace: Namespace) -> None:
    apply(namespace, "storageclass.yaml", "statefulset.yaml")
    try:
        wait_until(
            lambda: len(namespace.cluster.objects("pods", namespace=namespace.name, selector="app=web")) == 2,
            what="both pods", limit_s=60,
        )  # fmt: skip
        namespace.await_pods("web-0", "web-1")
        for name in ("web-0", "web-1"):
            namespace.run(name, f"echo {name} >/data/file")
            assert (namespace.cluster.nas_folder / namespace.name / f"data-{name}" / "file").read_text() == f"{name}\n"
    finally:
        namespace.delete("statefulset", "web")
        namespace.delete("persistentvolumeclaims", "--all")
        namespace.cluster.kubectl("delete", "storageclass", "nas")
