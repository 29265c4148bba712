"""Writes the images of the cluster but the driver's, as archives that `ctr images import` takes: no registry is needed.

busybox (Debian's static one) for the pods of tests, pause for the sandbox of every pod, and csi-provisioner, built from
source, under the name that the manifests have. `python -m tests.cluster.images PROGRAMS FOLDER`.
"""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

_BUSYBOX = Path("/bin/busybox")
_PROVISIONER = "docker.io/sig-storage/csi-provisioner:v6.3.0"
_FOLDERS = ("bin", "dev", "etc", "proc", "sys", "tmp", "var")
#: Process 1 of a pod's sandbox: keeps the namespaces, reaps orphans, ends at SIGTERM.
_PAUSE = 'trap "exit 0" TERM INT; while :; do sleep 86400 & wait $!; done'


def main() -> None:
    programs, folder = Path(sys.argv[1]), Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    layer = _layer()
    _write(folder / "pause.tar", name="efc.test/pause:1", layer=layer, entrypoint=["/bin/sh", "-c", _PAUSE])
    _write(
        folder / "csi-provisioner.tar", name=_PROVISIONER, layer=_layer(programs / "csi-provisioner"),
        entrypoint=["/bin/csi-provisioner"],
    )  # fmt: skip
    _write(folder / "busybox.tar", name="efc.test/busybox:1", layer=layer, entrypoint=["/bin/sh"])


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


def _write(path: Path, *, name: str, layer: bytes, entrypoint: Sequence[str]) -> None:
    digest = hashlib.sha256(layer).hexdigest()
    config = _json({
        "architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
        "config": {"Entrypoint": list(entrypoint), "Env": ["PATH=/bin"]},
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
