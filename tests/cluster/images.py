"""Writes the images of the cluster but the driver's, as archives that `ctr images import` takes: no registry is needed.

busybox (Debian's static one) for the pods of tests, pause for the sandbox of every pod, and csi-provisioner, built from
source, under the name that the manifests have. What is only named `nginx` is a Debian with a shell, which is all that
deploy/examples and the quick start want of it. `python -m tests.cluster.images PROGRAMS|DEBIAN-ROOT.tar FOLDER`.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import re
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

_BUSYBOX = Path("/bin/busybox")
_PROVISIONER = "docker.io/sig-storage/csi-provisioner:v6.3.0"
_NGINX = "docker.io/library/nginx:latest"
#: Of a Debian root, what no shell needs.
_LEFT_OUT = re.compile(
    r"usr/share/(doc|info|locale|man|python3|perl5?|zoneinfo|i18n)/.|usr/lib/python3|usr/bin/(python3|perl|memcached)|"
    r"usr/lib/[^/]+/(perl|gconv)|var/(cache|lib/(apt|dpkg))/.|boot/.|dev/."
)
_FOLDERS = ("bin", "dev", "etc", "proc", "sys", "tmp", "var")
#: Process 1 of a pod's sandbox: keeps the namespaces, reaps orphans, ends at SIGTERM.
_PAUSE = 'trap "exit 0" TERM INT; while :; do sleep 86400 & wait $!; done'


def main() -> None:
    """Writes the small images, or the large one of a Debian root's archive."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path, help="folder of the cluster's programs, or archive of a Debian root")
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    source, folder = arguments.source, arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    if source.is_file():
        write_image(folder / "nginx.tar", name=_NGINX, layer=_debian(source), entrypoint=[])
        return
    layer = _layer()
    write_image(folder / "pause.tar", name="efc.test/pause:1", layer=layer, entrypoint=["/bin/sh", "-c", _PAUSE])
    write_image(
        folder / "csi-provisioner.tar", name=_PROVISIONER, layer=_layer(source / "csi-provisioner"),
        entrypoint=["/bin/csi-provisioner"],
    )  # fmt: skip
    write_image(folder / "busybox.tar", name="efc.test/busybox:1", layer=layer, entrypoint=["/bin/sh"])


def _debian(root: Path) -> bytes:
    """A root directory's archive without what makes it large."""
    buffer = io.BytesIO()
    with tarfile.open(root) as source, tarfile.open(fileobj=buffer, mode="w") as archive:
        for member in source:
            name = member.name.removeprefix("./").rstrip("/")
            if name and name != "." and not _LEFT_OUT.match(name):
                archive.addfile(member, source.extractfile(member) if member.isreg() else None)
    return buffer.getvalue()


def _layer(*programs: Path) -> bytes:
    applets = subprocess.run([_BUSYBOX, "--list"], capture_output=True, text=True, check=True).stdout.split()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in _FOLDERS:
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
            archive.addfile(entry)
        for applet in applets:
            if applet != "busybox":
                entry = tarfile.TarInfo(f"bin/{applet}")
                entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
                archive.addfile(entry)
        for program in (_BUSYBOX, *programs):
            _add(archive, f"bin/{program.name}", program.read_bytes(), mode=0o755)
        _add(archive, "etc/passwd", b"root:x:0:0::/:/bin/sh\n", mode=0o644)
    return buffer.getvalue()


def write_image(path: Path, *, name: str, layer: bytes, entrypoint: Sequence[str]) -> None:
    """Writes a docker-archive of one layer, a tar archive. Without an entry point, its containers sleep."""
    digest = hashlib.sha256(layer).hexdigest()
    config = _json({
        "architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
        "config": {
            "Entrypoint": list(entrypoint), "Env": ["PATH=/bin:/usr/bin:/sbin:/usr/sbin"],
            "Cmd": [] if entrypoint else ["sleep", "infinity"],
        },
    })  # fmt: skip
    config_name = f"{hashlib.sha256(config).hexdigest()}.json"
    manifest = _json([{"Config": config_name, "RepoTags": [name], "Layers": [f"{digest}/layer.tar"]}])
    files: Mapping[str, bytes] = {
        config_name: config, f"{digest}/layer.tar": layer, "manifest.json": manifest,
    }  # fmt: skip
    with tarfile.open(path, "w") as archive:
        for file_name, content in files.items():
            _add(archive, file_name, content, mode=0o644)


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


def _add(archive: tarfile.TarFile, name: str, content: bytes, *, mode: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.mode, entry.size = mode, len(content)
    archive.addfile(entry, io.BytesIO(content))


if __name__ == "__main__":
    main()
