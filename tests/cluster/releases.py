"""Another release of the driver, as an image: this one's, with another version in the daemon's program.

Two releases of different sources cannot be had here; what a rollout does follows from the version alone.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

from tests.support.releases import as_next_release

_PROGRAM = "opt/efc/bin/efcd"


def write_next_release(archive: Path, out: Path, *, name: str) -> None:
    """Writes the image in `archive` (as `docker save` does) with one layer more to `out`, under another name."""
    with tarfile.open(archive) as old:
        (manifest,) = json.loads(_read(old, "manifest.json"))
        config = json.loads(_read(old, manifest["Config"]))
        layer = _layer(_program(old, manifest["Layers"]))
        digest = hashlib.sha256(layer).hexdigest()
        config["rootfs"]["diff_ids"].append(f"sha256:{digest}")
        config["history"].append({"comment": "another version"})
        text = json.dumps(config).encode()
        config_name = f"{hashlib.sha256(text).hexdigest()}.json"
        layers = [*manifest["Layers"], f"{digest}.tar"]
        described = json.dumps([{"Config": config_name, "RepoTags": [name], "Layers": layers}]).encode()
        with tarfile.open(out, "w") as new:
            for member in manifest["Layers"]:
                # Archives name a layer twice by a link: its content counts.
                entry = tarfile.TarInfo(member)
                content = _read(old, member)
                entry.size = len(content)
                new.addfile(entry, io.BytesIO(content))
            for file, content in ((f"{digest}.tar", layer), (config_name, text), ("manifest.json", described)):
                entry = tarfile.TarInfo(file)
                entry.size = len(content)
                new.addfile(entry, io.BytesIO(content))


def _read(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    assert file is not None, f"{name} is no file in the image"
    return file.read()


def _program(archive: tarfile.TarFile, layers: list[Any]) -> bytes:
    """The daemon's program, with the next release's version in all places."""
    for layer in reversed(layers):
        with tarfile.open(fileobj=io.BytesIO(_read(archive, layer))) as files:
            if _PROGRAM in files.getnames():
                content = _read(files, _PROGRAM)
                return as_next_release(content)
    raise LookupError(f"no layer of the image has {_PROGRAM}")


def _layer(program: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as files:
        entry = tarfile.TarInfo(_PROGRAM)
        entry.size, entry.mode = len(program), 0o755
        files.addfile(entry, io.BytesIO(program))
    return buffer.getvalue()
