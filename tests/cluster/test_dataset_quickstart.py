"""A Dataset and its EFCRuntime as docs/QUICKSTART.md shows them: every command, and every line that it prints."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import pytest

from tests.cluster.cluster import Namespace, pod
from tests.support.paths import ROOT
from tests.support.processes import TimeLimitError, wait_until

EXAMPLES = ROOT / "deploy" / "examples"
FILE_MIB = 256
_READINGS_MAX = 8
#: Figures of an object's status follow what happens within this long.
FIGURES_LIMIT_S = 5.0
READY_LIMIT_S = 60
DELETED_LIMIT_S = 30.0
#: A little more than the ten seconds for which a file must have been at rest, and what is added for clocks.
_REST_S = 12
_NAME = "efc-demo"


@pytest.fixture
def data(namespace: Namespace) -> str:
    """A directory of the NAS with one file that nobody has changed for long, as the quick start writes it."""
    folder = namespace.cluster.nas_folder / namespace.name
    folder.mkdir(mode=0o755)
    with (folder / "allzero-demo").open("wb") as file:
        file.truncate(FILE_MIB << 20)
    old(folder / "allzero-demo")
    return f"nfs://{namespace.cluster.nas_address}:/export/{namespace.name}"


def old(path: Path) -> None:
    """What has changed a moment ago is not shared between nodes."""
    os.utime(path, (time.time() - 3600,) * 2)


def await_rest(namespace: Namespace, pod: str, path: str) -> None:
    """Returns when the node of a pod knows that a file has not been changed for so long that it is shared.

    Its ctime is of today, so that only the NAS's clock counts: of that a node knows no more than what it has seen.
    """
    namespace.run(pod, f"ls -l {path}")
    time.sleep(_REST_S)


def example(name: str, *, source: str | None = None) -> str:
    """A file of deploy/examples, with a NAS that is there."""
    text = (EXAMPLES / name).read_text()
    return text if source is None else text.replace("nfs://nas.example.com:/data", source)


def kubectl(namespace: Namespace, command: str, *, stdin: str = "", limit_s: float = 90) -> str:
    """What a command line of the quick start prints, in the namespace of the test."""
    return namespace.cluster.kubectl("-n", namespace.name, *command.split(), stdin=stdin, limit_s=limit_s)


def row(namespace: Namespace, command: str) -> list[str]:
    """The one line below the heading, by columns."""
    heading, line = kubectl(namespace, command).splitlines()
    # A column begins where its heading does; headings of several words have one space between them.
    starts = [match.start() for match in re.finditer(r"\S+(?: \S+)*", heading)]
    return [line[begin:end].strip() for begin, end in zip(starts, [*starts[1:], None], strict=True)]


def await_row(namespace: Namespace, command: str, *expected: str, limit_s: float = FIGURES_LIMIT_S) -> float:
    """Seconds until the line is `expected`, by regular expressions, but for the age, its last column."""
    began, found = time.monotonic(), list[str]()

    def is_there() -> bool:
        nonlocal found
        found = row(namespace, command)
        return len(found) == len(expected) + 1 and all(map(re.fullmatch, expected, found))

    try:
        wait_until(is_there, what=f"{command} to print {expected}", limit_s=limit_s, interval_s=0.3)
    except TimeLimitError as error:
        raise AssertionError(f"{error}; it prints {found}") from None
    return time.monotonic() - began


def seconds(output: str) -> float:
    """What `time` says of the real time."""
    found = re.search(r"real\s+(\d+)m([\d.]+)s", output)
    assert found is not None, output
    return int(found[1]) * 60 + float(found[2])


def left(namespace: Namespace) -> list[str]:
    """What is there of Datasets in the namespace, and volumes that point to it."""
    kinds = "datasets,efcruntimes,pods,statefulsets,services,secrets,persistentvolumeclaims"
    found = kubectl(namespace, f"get {kinds} -o name").split()
    for volume in namespace.cluster.objects("persistentvolumes"):
        if (volume["spec"].get("claimRef") or {}).get("namespace") == namespace.name:
            found.append(f"persistentvolume/{volume['metadata']['name']}")
    return found


def await_cached(namespace: Namespace, total: str) -> None:
    """Returns when all of the file is cached, as the columns say, within two per cent.

    Nobody waits for a worker that is slower than the NAS for a moment: what it has missed comes with the next reading.
    """
    cached = rf"(?:{'|'.join(str(FILE_MIB - missing) for missing in range(6))})\.\d\dMiB"
    columns = (_NAME, total, cached, "45\\.00GiB", r"(?:9[89]\.\d|100\.0)%", "Bound")
    for _ in range(_READINGS_MAX):
        try:
            await_row(namespace, f"get dataset {_NAME}", *columns)
        except AssertionError:
            script = "dd if=/data/allzero-demo iflag=nocache count=0 2>&1 && cat /data/allzero-demo >/dev/null"
            namespace.run("efc-app-0", script, limit_s=120)
        else:
            return
    await_row(namespace, f"get dataset {_NAME}", *columns)


def check_objects(namespace: Namespace) -> None:
    """No pod per mount, no DaemonSet; the claim is there."""
    cluster = namespace.cluster
    pods = sorted(kubectl(namespace, "get pods -o name").split())
    assert pods == [f"pod/{_NAME}-master-0", *(f"pod/{_NAME}-worker-{number}" for number in range(3))]
    assert not cluster.objects("daemonsets", namespace=namespace.name)
    claim = cluster.get("persistentvolumeclaim", _NAME, namespace=namespace.name)
    assert claim is not None
    assert claim["status"]["phase"] == "Bound"
    assert claim["spec"]["accessModes"] == ["ReadOnlyMany"]
    assert claim["spec"]["storageClassName"] == "fluid"
    assert claim["status"]["capacity"] == {"storage": "100Pi"}


@pytest.mark.short
@pytest.mark.timeout(600)
def test_quick_start(namespace: Namespace, data: str, figures: dict[str, object]) -> None:
    cluster = namespace.cluster
    manifest, app = example("dataset.yaml", source=data), example("dataset-app.yaml")
    began = time.monotonic()
    created = kubectl(namespace, "create -f -", stdin=manifest)
    assert created.splitlines() == [
        f"dataset.data.fluid.io/{_NAME} created", f"efcruntime.data.fluid.io/{_NAME} created",
    ]  # fmt: skip
    said = kubectl(namespace, f"wait --for=condition=Ready dataset/{_NAME} --timeout={READY_LIMIT_S}s")
    assert said == f"dataset.data.fluid.io/{_NAME} condition met\n"
    bound_s = time.monotonic() - began

    # The columns, once the workers are there.
    get = f"get dataset {_NAME}"
    heading = kubectl(namespace, get).splitlines()[0]
    assert re.split(r"\s{2,}", heading) == [
        "NAME", "UFS TOTAL SIZE", "CACHED", "CACHE CAPACITY", "CACHED PERCENTAGE", "PHASE", "AGE",
    ]  # fmt: skip
    total = f"{FILE_MIB}\\.00MiB"
    await_row(namespace, get, _NAME, total, "0\\.00B", "45\\.00GiB", "0\\.0%", "Bound", limit_s=2 * READY_LIMIT_S)
    ready_s = time.monotonic() - began
    await_row(namespace, f"get efc {_NAME}", _NAME, "Ready", "Ready", "Ready")
    heading = kubectl(namespace, f"get efc {_NAME}").splitlines()[0]
    assert re.split(r"\s{2,}", heading) == ["NAME", "MASTER PHASE", "WORKER PHASE", "FUSE PHASE", "AGE"]
    check_objects(namespace)

    # The application: two pods on two nodes.
    kubectl(namespace, "create -f -", stdin=app)
    wait_until(
        lambda: len(kubectl(namespace, "get pods -l app=nginx -o name").split()) == 2, what="both pods", limit_s=60
    )
    namespace.await_pods("efc-app-0", "efc-app-1")
    nodes = {pod["spec"]["nodeName"] for pod in cluster.objects("pods", namespace=namespace.name, selector="app=nginx")}
    assert len(nodes) == 2, "the reads are on different nodes"
    figures["dataset_first_byte_s"] = round(time.monotonic() - began, 1)
    assert namespace.run("efc-app-0", "du -h --apparent-size /data/allzero-demo").split()[0] == f"{FILE_MIB}M"
    await_row(namespace, f"get efc {_NAME} -o wide", _NAME, "1", "1", "Ready", "3", "3", "Ready", "2", "2", "Ready")
    times = []
    for name in ("efc-app-0", "efc-app-1"):
        script = 'bash -c "time cat /data/allzero-demo > /dev/null" 2>&1'
        times.append(seconds(namespace.run(name, script, limit_s=120)))
    figures |= {
        "dataset_bound_s": round(bound_s, 1), "dataset_ready_s": round(ready_s, 1), "dataset_read_s": times,
    }  # fmt: skip
    await_cached(namespace, total)
    assert namespace.run("efc-app-1", f"head -c {FILE_MIB}M /dev/zero | cmp - /data/allzero-demo", limit_s=120) == ""

    # Scaled while both pods run.
    kubectl(namespace, f"scale efc {_NAME} --replicas=1")
    wait_until(
        lambda: len(kubectl(namespace, "get pods -l role=efc-worker -o name").split()) == 1,
        what="the end of two workers", limit_s=60,
    )  # fmt: skip
    await_row(namespace, get, _NAME, total, r"[\d.]+MiB", "15\\.00GiB", r"[\d.]+%", "Bound")
    listing = kubectl(namespace, "get fluid")
    assert f"dataset.data.fluid.io/{_NAME}" in listing
    assert f"efcruntime.data.fluid.io/{_NAME}" in listing

    began = time.monotonic()
    kubectl(namespace, "delete -f -", stdin=f"{app}---\n{manifest}", limit_s=120)
    wait_until(lambda: not left(namespace), what="everything to be gone", limit_s=60, interval_s=0.5)
    figures["dataset_deleted_s"] = took = round(time.monotonic() - began, 1)
    assert took < DELETED_LIMIT_S
    assert (cluster.nas_folder / namespace.name / "allzero-demo").stat().st_size == FILE_MIB << 20


_BOTH = """
apiVersion: data.fluid.io/v1alpha1
kind: Dataset
metadata:
  name: {name}
spec:
  mounts:
    - mountPoint: "{source}"
---
apiVersion: data.fluid.io/v1alpha1
kind: EFCRuntime
metadata:
  name: {name}
"""
#: As in Fluid's repository, samples/efc: nothing is changed but the NAS.
_FLUIDS_SAMPLE = (
    _BOTH
    + """spec:
  replicas: 1
  tieredstore:
    levels:
      - mediumtype: MEM
        volumeType: emptyDir
        path: /mnt/efc-worker-cache-path
        quota: 2Gi
  fuse:
    properties: null
"""
)
_EMPTY = _BOTH + "spec: {{}}\n"


def reads(namespace: Namespace, name: str) -> None:
    """A pod reads the file by the claim of the Dataset's name, and both end."""
    namespace.apply(pod("reader", claims={"/data": name}))
    namespace.await_pods("reader")
    assert int(namespace.run("reader", "wc -c </data/allzero-demo", limit_s=120)) == FILE_MIB << 20
    namespace.delete("pod", "reader")
    kubectl(namespace, f"delete dataset {name}")
    wait_until(lambda: not left(namespace), what="everything to be gone", limit_s=60, interval_s=0.5)


@pytest.mark.parametrize(
    ("manifest", "capacity"), [(_FLUIDS_SAMPLE, "2.00GiB"), (_EMPTY, "0.00B")], ids=["fluids-sample", "empty-spec"]
)
def test_samples(namespace: Namespace, data: str, manifest: str, capacity: str) -> None:
    kubectl(namespace, "create -f -", stdin=manifest.format(name="demo", source=data))
    kubectl(namespace, f"wait --for=condition=Ready dataset/demo --timeout={READY_LIMIT_S}s")
    found = re.escape(capacity)
    columns = ("demo", rf"{FILE_MIB}\.00MiB", r"[\d.]+\w*B", found, r"[\d.]+%", "Bound")
    await_row(namespace, "get dataset demo", *columns, limit_s=READY_LIMIT_S)
    reads(namespace, "demo")


@pytest.mark.parametrize("first", [0, 1], ids=["dataset-first", "runtime-first"])
def test_either_comes_before_the_other(namespace: Namespace, data: str, first: int) -> None:
    manifests = _FLUIDS_SAMPLE.format(name="demo", source=data).split("---")
    kubectl(namespace, "create -f -", stdin=manifests[first])
    namespace.await_message("demo", "create one", limit_s=30)
    assert not namespace.cluster.objects("statefulsets", namespace=namespace.name)
    assert not namespace.cluster.objects("persistentvolumeclaims", namespace=namespace.name)
    kubectl(namespace, "create -f -", stdin=manifests[1 - first])
    kubectl(namespace, f"wait --for=condition=Ready dataset/demo --timeout={READY_LIMIT_S}s")
    reads(namespace, "demo")
