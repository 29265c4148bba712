"""Runs csi-sanity, once per seed: node plugin and controller on their own sockets, a real NAS, real mounts.

Nothing is left out by name. What csi-sanity itself leaves out is accepted for one reason only: the driver does not
advertise the capability that the specs need, as its own answers say. So a capability that is advertised is tested, or
this fails. After each seed nothing may be published and no volume may be left on the NAS.

Environment: SANITY_SEEDS is how many (3), SANITY_FIRST_SEED the first (1).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

from csi._proto import csi_pb2
from tests.support.driver import Driver
from tests.support.leaks import no_leaks, require_sandbox
from tests.support.nas import Nas
from tests.support.paths import RESULTS, TOOLS

SPECS_RUN_MIN = 36
SEED_LIMIT_S = 300

# csi-sanity's reason for skipping -> what would have to be advertised. A reason that is not here is a failure.
NEEDS = {
    "GetCapacity not supported": "GET_CAPACITY",
    "ListVolumes not supported": "LIST_VOLUMES",
    "CreateVolume not supported": "CREATE_DELETE_VOLUME",
    "DeleteVolume not supported": "CREATE_DELETE_VOLUME",
    "Snapshot not supported": "CREATE_DELETE_SNAPSHOT",
    "CreateSnapshot not supported": "CREATE_DELETE_SNAPSHOT",
    "DeleteSnapshot not supported": "CREATE_DELETE_SNAPSHOT",
    "ListSnapshots not supported": "LIST_SNAPSHOTS",
    "GetSnapshot not supported": "GET_SNAPSHOT",
    "SNAPSHOT_ACCESSIBILITY_CONSTRAINTS not supported": "SNAPSHOT_ACCESSIBILITY_CONSTRAINTS",
    "Volume Cloning not supported": "CLONE_VOLUME",
    "Modify volume not supported": "MODIFY_VOLUME",
    "Modify Volume not supported": "MODIFY_VOLUME",
    "ControllerModifyVolume not supported": "MODIFY_VOLUME",
    "ControllerExpandVolume not supported": "EXPAND_VOLUME",
    "ControllerPublishVolume not supported": "PUBLISH_UNPUBLISH_VOLUME",
    "ControllerUnpublishVolume not supported": "PUBLISH_UNPUBLISH_VOLUME",
    "Controller Publish, UnpublishVolume not supported": "PUBLISH_UNPUBLISH_VOLUME",
    "ControllerPublishVolume.readonly field not supported": "PUBLISH_READONLY",
    "testnodevolumeattachlimit not enabled": "PUBLISH_UNPUBLISH_VOLUME",
    "ControllerGetVolumeHealth not supported": "GET_VOLUME_HEALTH",
    "ControllerListVolumeHealth not supported": "LIST_VOLUME_HEALTH",
    "GroupControllerService not supported": "GROUP_CONTROLLER_SERVICE",
    "VolumeGroupSnapshots not supported": "GROUP_CONTROLLER_SERVICE",
    "NodeStageVolume not supported": "node STAGE_UNSTAGE_VOLUME",
    "NodeUnstageVolume not supported": "node STAGE_UNSTAGE_VOLUME",
    "NodeGetVolume not supported": "node GET_VOLUME_STATS",
    "NodeExpandVolume not supported": "node EXPAND_VOLUME",
    "NodeGetVolumeHealth not supported": "node GET_VOLUME_HEALTH",
    "NodeGetStorageHealth not supported": "node GET_STORAGE_HEALTH",
    "Service does not have single node multi writer capability": "node SINGLE_NODE_MULTI_WRITER",
    "node does not report accessible topology": "VOLUME_ACCESSIBILITY_CONSTRAINTS",
}


@dataclass(kw_only=True)
class Outcome:
    """What one seed gave."""

    seed: int
    passed: int = 0
    failures: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)  # spec -> reason


def advertised(driver: Driver) -> set[str]:
    """Names of all capabilities that the running driver advertises; those of the node service after "node "."""
    plugin = driver.call("controller", "GetPluginCapabilities", csi_pb2.GetPluginCapabilitiesRequest())
    controller = driver.call("controller", "ControllerGetCapabilities", csi_pb2.ControllerGetCapabilitiesRequest())
    node = driver.call("node", "NodeGetCapabilities", csi_pb2.NodeGetCapabilitiesRequest())
    of_plugin = csi_pb2.PluginCapability.Service.Type.Name
    of_controller = csi_pb2.ControllerServiceCapability.RPC.Type.Name
    of_node = csi_pb2.NodeServiceCapability.RPC.Type.Name
    return (
        {of_plugin(item.service.type) for item in plugin.capabilities}
        | {of_controller(item.rpc.type) for item in controller.capabilities}
        | {f"node {of_node(item.rpc.type)}" for item in node.capabilities}
    )


def run_seed(seed: int, *, nas: Nas, driver: Driver) -> Outcome:
    """One run of all specs in the order of `seed`."""
    report = RESULTS / f"sanity.seed-{seed}.xml"
    report.unlink(missing_ok=True)
    pod = driver.kubelet_root / "pods" / f"sanity-{seed}"
    pod.mkdir(parents=True)
    secrets = driver.folder / "secrets.yaml"
    calls = (
        "CreateVolume",
        "DeleteVolume",
        "ControllerValidateVolumeCapabilities",
        "NodePublishVolume",
        "NodeStageVolume",
    )
    secrets.write_text("".join(f"{call}Secret:\n  key: sanity-secret-{seed}\n" for call in calls))
    command = [
        str(TOOLS / "csi-sanity"), f"--csi.endpoint=unix://{driver.socket('node')}",
        f"--csi.controllerendpoint=unix://{driver.socket('controller')}", f"--csi.mountdir={pod / 'mount'}",
        f"--csi.stagingdir={pod / 'staging'}", f"--csi.secrets={secrets}", f"--ginkgo.seed={seed}",
        "--ginkgo.randomize-all", "--ginkgo.no-color", f"--ginkgo.junit-report={report}",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=SEED_LIMIT_S)
    outcome = Outcome(seed=seed)
    if not report.exists():
        outcome.failures.append(
            f"csi-sanity ended with status {done.returncode}: {(done.stdout + done.stderr)[-2000:]}"
        )
        return outcome
    _read(report, outcome)
    if done.returncode != 0 and not outcome.failures:
        outcome.failures.append(f"csi-sanity ended with status {done.returncode}")
    _check_leftovers(nas, driver, outcome)
    return outcome


def _read(report: Path, outcome: Outcome) -> None:
    for case in ElementTree.parse(report).iter("testcase"):
        name, status = case.get("name", ""), case.get("status", "")
        if not name.startswith("[It]") or status == "pending":
            continue
        if status == "skipped":
            skip = case.find("skipped")
            message = skip.get("message", "") if skip is not None else ""
            outcome.skipped[name] = message.removeprefix("skipped - ")
        elif status == "passed":
            outcome.passed += 1
        else:
            failure = case.find("failure")
            text = (failure.text or failure.get("message", "")) if failure is not None else status
            outcome.failures.append(f"{name}\n    {text.strip()[:1500]}")


def _check_leftovers(nas: Nas, driver: Driver, outcome: Outcome) -> None:
    if published := driver.published():
        outcome.failures.append(f"still mounted: {[str(mount.target) for mount in published]}")
    left = [path.name for path in nas.export_folder().iterdir() if not path.name.startswith(".")]
    records = list(nas.export_folder().glob(".efc/volumes/*.json"))
    if left or records:
        outcome.failures.append(f"left on the NAS: {left} {[record.name for record in records]}")


def unjustified(outcome: Outcome, capabilities: set[str]) -> list[str]:
    """Skipped specs whose capability is advertised, or whose reason is not known here."""
    return [
        f"{name} was skipped ({reason})"
        for name, reason in outcome.skipped.items()
        if NEEDS.get(reason) is None or NEEDS[reason] in capabilities
    ]


def main() -> int:
    """Runs all seeds, prints their figures and writes results/sanity.details.json."""
    require_sandbox()
    RESULTS.mkdir(exist_ok=True)
    first, count = int(os.environ.get("SANITY_FIRST_SEED", "1")), int(os.environ.get("SANITY_SEEDS", "3"))
    passed = failed = skipped = 0
    details = []
    with no_leaks(), Nas() as nas, Driver(source=nas.url) as driver:
        capabilities = advertised(driver)
        for seed in range(first, first + count):
            outcome = run_seed(seed, nas=nas, driver=driver)
            outcome.failures += unjustified(outcome, capabilities)
            ran = outcome.passed + len(outcome.failures)
            if ran < SPECS_RUN_MIN:
                outcome.failures.append(f"only {ran} specs ran, at least {SPECS_RUN_MIN} must")
            for failure in outcome.failures:
                print(f"FAILED {failure}")
            print(f"seed {seed}: {ran} ran, {outcome.passed} passed, {len(outcome.failures)} failed, "
                  f"{len(outcome.skipped)} not advertised", flush=True)  # fmt: skip
            passed, failed, skipped = (passed + outcome.passed, failed + len(outcome.failures), len(outcome.skipped))
            details.append({"seed": seed, "passed": outcome.passed, "failures": outcome.failures})
        if failed:
            print(driver.logs()[-4000:])
        reasons = sorted({f"{NEEDS.get(reason)}: {reason}" for reason in outcome.skipped.values()})
    print("specs that need what is not advertised:", *reasons, sep="\n  ")
    report = {"advertised": sorted(capabilities), "skipped_per_seed": skipped, "seeds": details}
    (RESULTS / "sanity.details.json").write_text(json.dumps(report, indent=2) + "\n")
    print(f"{passed} passed, {failed} failed over {count} seeds", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
