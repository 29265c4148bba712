"""What an attacker may try: secrets in logs, paths that lead out, values that smuggle options in."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import grpc
import pytest

from csi._proto import csi_pb2
from tests.support.driver import Driver, capability, refused, static_volume
from tests.support.mounts import mounts_below, remove_mounts
from tests.support.nas import Nas

INVALID = grpc.StatusCode.INVALID_ARGUMENT
PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION
_SWAPS = 100
TOKENS = "csi.storage.k8s.io/serviceAccount.tokens"
# Each is tried wherever a path beneath something is expected.
TRAVERSALS = [
    "..",
    "../x",
    "x/..",
    "x/../..",
    "x/../../etc",
    "/etc",
    "//etc",
    "x//y",
    "./x",
    "x/./y",
    "x\\..\\..\\y",
    "..\\x",
    "x\n../y",
    "x\0y",
]
# Each is tried wherever one value of an option is expected.
INJECTIONS = [
    "1s,ro",
    "1s,suid",
    "1s\nsuid",
    "1s=2s",
    "1s,source=nfs://evil/x",
    "..",
    "1s ",
    " 1s",
    "-1s",
    "١s",
    "1s\0",
]


@contextmanager
def nothing_published(driver: Driver) -> Iterator[None]:
    before = driver.published()
    yield
    assert driver.published() == before
    empty = {mount.target for mount in before}
    left = [path for path in driver.kubelet_root.rglob("mount") if path.is_dir() and not path.is_symlink()]
    assert set(left) <= empty


def test_no_secret_in_any_log(nas: Nas) -> None:
    secret = f"planted-{uuid.uuid4().hex}"
    secrets = {"password": secret, secret: "a key may be one too"}
    context = {TOKENS: f'{{"audience":{{"token":"{secret}"}}}}'}
    with Driver(source=nas.url) as driver:
        volume = driver.create("with-secrets", secrets=secrets)
        call = driver.call
        call("controller", "ValidateVolumeCapabilities", csi_pb2.ValidateVolumeCapabilitiesRequest(
            volume_id=volume.volume_id, volume_capabilities=[capability()], secrets=secrets))  # fmt: skip
        target = driver.target()
        driver.publish(volume, target, secrets=secrets, volume_context={**volume.volume_context, **context})
        driver.unpublish(volume, target)
        # What fails is logged most eagerly.
        for attributes in (
            {"source": f"nfs://user:{secret}@127.0.0.1:1/x"},
            {"source": "nfs://127.0.0.1:1/x", "no-such": "x"},
        ):
            with suppress(grpc.RpcError):
                driver.publish(
                    static_volume("bad", ""),
                    target,
                    secrets=secrets,
                    volume_context={**attributes, **context},
                    limit_s=20,
                )
        for name, method, request in _requests_with_secrets(volume.volume_id, str(target), secrets):
            with suppress(grpc.RpcError):
                call(name, method, request)
        driver.delete(volume.volume_id, secrets=secrets)
        assert "NodePublishVolume" in driver.log("node").read_text(), "the calls are not logged, so this proves nothing"
        assert "CreateVolume" in driver.log("controller").read_text()
        for line in driver.logs().splitlines():
            assert secret not in line


def _requests_with_secrets(volume_id: str, path: str, secrets: dict[str, str]) -> Iterator[tuple[str, str, object]]:
    """Every request of the protocol that has a field for secrets, served by us or not."""
    for service, name in (("Controller", "controller"), ("Node", "node")):
        for method in csi_pb2.DESCRIPTOR.services_by_name[service].methods:
            fields = method.input_type.fields_by_name
            if "secrets" in fields:
                given = {
                    "secrets": secrets,
                    "volume_id": volume_id,
                    "volume_path": path,
                    "target_path": path,
                    "name": "x",
                }
                kind = getattr(csi_pb2, method.input_type.name)
                yield name, method.name, kind(**{key: value for key, value in given.items() if key in fields})


@pytest.mark.parametrize("path", TRAVERSALS, ids=repr)
def test_traversal_in_a_volumes_path(driver: Driver, nas: Nas, path: str) -> None:
    with nothing_published(driver), refused(INVALID):
        driver.publish(static_volume("traversal", nas.url, path=path), driver.target())


@pytest.mark.parametrize("path", [*TRAVERSALS, ".efc", ".efc/volumes", "${pvc.name}", "${HOME}", "$(id)"], ids=repr)
def test_traversal_in_a_path_pattern(driver: Driver, nas: Nas, path: str) -> None:
    before = sorted(nas.export_folder().rglob("*"))
    with refused(INVALID):
        driver.create("traversal", parameters={"pathPattern": path})
    assert sorted(nas.export_folder().rglob("*")) == before


@pytest.mark.parametrize("name", ["..", "../x", "a/b", "a..b/..", "${pvc.name}", "a\nb"], ids=repr)
def test_traversal_in_a_claims_name(driver: Driver, name: str) -> None:
    parameters = {"pathPattern": "${pvc.namespace}/x", "csi.storage.k8s.io/pvc/namespace": name}
    with refused(INVALID):
        driver.create("traversal", parameters=parameters)


@pytest.mark.parametrize(
    "source",
    [
        "{}/..",
        "{}/../x",
        "{}%2f..%2fx",
        "{},ro",
        "{}\nx",
        "nfs://h/%0a",
        "nfs://h",
        "nfs:///x",
        "http://h/x",
        "file:///etc",
        "/etc",
        "-o ro",
        "",
    ],
    ids=repr,
)
def test_traversal_and_injection_in_a_source(driver: Driver, nas: Nas, source: str) -> None:
    host = nas.url.partition("?")[0]
    refusals = (INVALID, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.PERMISSION_DENIED)  # or of the NAS: no such export
    with nothing_published(driver), refused(*refusals):
        driver.publish(static_volume("source", source.format(host), mountport=str(nas.mount_port)), driver.target())


@pytest.mark.parametrize(
    "volume_id", ["../../x", "..", "a/../../b", "a\\..\\b", "a,b=c\nd", "efc-" + "0" * 32, "x" * 128], ids=repr
)
def test_any_volume_id_is_only_a_label(driver: Driver, nas: Nas, volume_id: str) -> None:
    """A volume id never becomes part of a path: nothing is made or removed that it could name."""
    precious = nas.export_folder() / "x"
    precious.mkdir(exist_ok=True)
    (precious / "file").write_text("content")
    target = driver.target()
    with suppress(grpc.RpcError):
        driver.delete(volume_id)
    with suppress(grpc.RpcError):
        driver.publish(static_volume(volume_id, nas.url), target)
        driver.unpublish(static_volume(volume_id, nas.url), target)
    assert (precious / "file").read_text() == "content"
    assert driver.published() == []


@pytest.mark.parametrize("value", INJECTIONS, ids=repr)
def test_option_injection(driver: Driver, nas: Nas, value: str) -> None:
    target = driver.target()
    with nothing_published(driver), refused(INVALID):
        driver.publish(static_volume("injection", nas.url, **{"attr-ttl": value}), target)
    with nothing_published(driver), refused(INVALID):
        driver.publish(static_volume("injection", nas.url), target, mount_flags=[f"attr-ttl={value}"])
    with refused(INVALID):
        driver.create("injection", parameters={"attr-ttl": value})


@pytest.mark.parametrize(
    "flag", ["suid", "dev", "ro,rw", "ro\nsuid", "fd=5", "rootmode=0", "user_id=0", "-o", "", "ro="], ids=repr
)
def test_mount_flags_are_an_allow_list(driver: Driver, nas: Nas, flag: str) -> None:
    with nothing_published(driver), refused(INVALID):
        driver.publish(static_volume("flag", nas.url), driver.target(), mount_flags=[flag])


@pytest.mark.parametrize(
    "target", ["/etc/x", "/", "relative", "{}/../../etc", "{}/pods/../../x", "{}/x\n", "{}x/y"], ids=repr
)
def test_target_must_lie_beneath_kubelets_directory(driver: Driver, nas: Nas, target: str) -> None:
    volume = static_volume("target", nas.url)
    with refused(INVALID):
        driver.publish(volume, Path(target.format(driver.kubelet_root)))
    with refused(INVALID):
        driver.unpublish(volume, Path(target.format(driver.kubelet_root)))


def test_targets_parent_may_not_lead_out(driver: Driver, nas: Nas) -> None:
    outside = driver.folder / "outside"
    outside.mkdir(exist_ok=True)
    link = driver.kubelet_root / "link"
    link.symlink_to(outside)
    with refused(INVALID, PRECONDITION):
        driver.publish(static_volume("link", nas.url), link / "mount")
    assert list(outside.iterdir()) == []
    link.unlink()


def test_targets_parent_that_became_a_link(driver: Driver, nas: Nas) -> None:
    """Between publish and unpublish: nothing is removed where the link leads, also not an empty directory."""
    volume, target = static_volume("became-a-link", nas.url), driver.target()
    driver.publish(volume, target)
    outside = driver.folder / f"outside-{uuid.uuid4().hex}"
    (outside / "mount").mkdir(parents=True)
    real = target.parent.with_name("real")
    target.parent.rename(real)
    target.parent.symlink_to(outside)
    with refused(INVALID, PRECONDITION):
        driver.unpublish(volume, target)
    with refused(INVALID, PRECONDITION):
        driver.publish(volume, target)
    assert [path.name for path in outside.iterdir()] == ["mount"]
    assert [mount.target for mount in mounts_below(driver.folder) if "outside" in str(mount.target)] == []
    target.parent.unlink()
    real.rename(target.parent)
    driver.unpublish(volume, target)
    assert not target.exists()


_EXCHANGE = """
import ctypes, sys
exchange = ctypes.CDLL(None, use_errno=True).renameat2
one, other = (ctypes.c_char_p(path.encode()) for path in sys.argv[1:])
while exchange(-100, one, -100, other, 2) == 0:
    pass
sys.exit(f"renameat2: errno {ctypes.get_errno()}")
"""


@contextmanager
def exchanged(one: Path, other: Path) -> Iterator[None]:
    """Two names are exchanged as often as can be; afterwards they are as before."""
    link = os.readlink(other)
    attacker = subprocess.Popen([sys.executable, "-c", _EXCHANGE, str(one), str(other)])
    try:
        yield
        assert attacker.poll() is None, "the attack ended by itself"
    finally:
        attacker.kill()
        attacker.wait()
        if one.is_symlink():
            one.unlink()
            other.rename(one)
            other.symlink_to(link)


def test_targets_parent_swapped_for_a_link(driver: Driver, nas: Nas) -> None:
    """By somebody who does so all the time: whatever a call says, nothing outside is mounted on or removed."""
    volume, target = static_volume("swapped", nas.url), driver.target()
    outside = driver.folder / f"outside-{uuid.uuid4().hex}"
    (outside / "mount").mkdir(parents=True)
    link = target.parent.with_name("link")
    link.symlink_to(outside)
    mounted = removed = published = 0
    with exchanged(target.parent, link):
        for _ in range(_SWAPS):
            with suppress(grpc.RpcError):
                driver.publish(volume, target)
                published += 1
            mounted += len(mounts_below(outside))
            remove_mounts(outside)
            with suppress(grpc.RpcError):
                driver.unpublish(volume, target)
            if not (outside / "mount").exists():
                removed += 1
                (outside / "mount").mkdir()
    driver.unpublish(volume, target)
    assert (mounted, removed) == (0, 0), f"mounted outside, and removed outside, of {_SWAPS}"
    assert 0 < published < _SWAPS, f"{published} of {_SWAPS} were published: there was no race"
    assert not target.exists()


def test_target_that_is_a_symlink_is_not_followed(driver: Driver, nas: Nas) -> None:
    outside = driver.folder / "elsewhere"
    outside.mkdir()
    target = driver.target()
    target.symlink_to(outside)
    with nothing_published(driver), refused(INVALID, PRECONDITION):
        driver.publish(static_volume("link", nas.url), target)
    assert not os.path.ismount(outside)
    target.unlink(missing_ok=True)


@pytest.mark.parametrize("path", ["link", "link/sub", "dir/link"])
def test_symlinks_planted_in_the_dataset(driver: Driver, nas: Nas, path: str) -> None:
    """A pod that can write a dataset must not reach other directories, or the node's, by a path through its link."""
    for name, leads_to in (("link", "/etc"), ("dir/link", "../../..")):
        planted = nas.export_folder() / name
        planted.parent.mkdir(exist_ok=True)
        planted.unlink(missing_ok=True)
        planted.symlink_to(leads_to)
    with nothing_published(driver), refused(INVALID, PRECONDITION, grpc.StatusCode.NOT_FOUND):
        driver.publish(static_volume("planted", nas.url, path=path), driver.target())
    with refused(INVALID, PRECONDITION, grpc.StatusCode.ALREADY_EXISTS):
        driver.create("planted", parameters={"pathPattern": f"{path}/made"})


def test_sockets_are_for_root_alone(driver: Driver) -> None:
    for path in (driver.socket("node"), driver.socket("controller"), driver.run_dir / "keeper.sock"):
        assert path.stat().st_mode & 0o077 == 0, path
