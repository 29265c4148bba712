"""What the cluster's tests stand on: which mounts of the machine it keeps, and the registry of its images."""

from __future__ import annotations

import asyncio
import hashlib
import json
from pathlib import Path

from aiohttp.test_utils import TestClient, TestServer

from tests.cluster.foreign_mounts import SYSTEM, foreign
from tests.cluster.images import write_image
from tests.cluster.registry import Images, application, at_docker_hub

_MOUNTINFO = """\
21 1 254:0 / / rw - ext4 /dev/vda rw
22 21 0:5 / /proc rw - proc proc rw
23 21 0:6 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu
24 21 0:7 / /dev/shm rw - tmpfs tmpfs rw
25 21 254:1 / /srv rw - ext4 /dev/vdb rw
26 21 0:8 / /mnt/a\\040b rw shared:1 - fuse.sshfs host:/ rw
27 21 7:0 / /srv/disk rw - ext4 /dev/loop0 rw
28 21 0:9 / /dev/other rw - fuse other rw
29 21 0:10 / /var rw - ext4 /dev/vdc rw
30 21 0:11 / /srv-2 rw - tmpfs tmpfs rw
"""


def test_only_mounts_that_something_lies_on_stay() -> None:
    needed = [*SYSTEM, "/srv/cluster"]
    assert list(foreign(_MOUNTINFO.splitlines(), needed=needed)) == ["/mnt/a b", "/srv/disk", "/dev/other", "/srv-2"]


def test_names_without_a_registry_are_of_docker_hub() -> None:
    assert at_docker_hub("docker.io/library/nginx:latest") == ("library/nginx", "latest")
    assert at_docker_hub("efc-csi:dev") == ("library/efc-csi", "dev")
    assert at_docker_hub("docker.io/sig-storage/csi-provisioner:v6") == ("sig-storage/csi-provisioner", "v6")


def test_the_registry_serves_what_the_archives_have(tmp_path: Path) -> None:
    layer = bytes(range(256)) * 20
    write_image(tmp_path / "image.tar", name="docker.io/library/nginx:latest", layer=layer, entrypoint=["/bin/sh"])
    images = Images()
    images.add(tmp_path / "image.tar")

    async def pull() -> None:
        async with TestClient(TestServer(application(images))) as client:
            assert (await client.get("/v2/")).status == 200
            assert (await client.get("/v2/library/nginx/manifests/other")).status == 404
            answer = await client.head("/v2/library/nginx/manifests/latest?ns=docker.io")
            digest = answer.headers["Docker-Content-Digest"]
            content = await (await client.get(f"/v2/library/nginx/manifests/{digest}")).read()
            assert f"sha256:{hashlib.sha256(content).hexdigest()}" == digest
            manifest = json.loads(content)
            for part in (manifest["config"], *manifest["layers"]):
                blob = await (await client.get(f"/v2/library/nginx/blobs/{part['digest']}")).read()
                assert (f"sha256:{hashlib.sha256(blob).hexdigest()}", len(blob)) == (part["digest"], part["size"])
            (described,) = manifest["layers"]
            answer = await client.get(f"/v2/library/nginx/blobs/{described['digest']}", headers={"Range": "bytes=100-"})
            assert (answer.status, await answer.read()) == (206, layer[100:])

    asyncio.run(pull())
