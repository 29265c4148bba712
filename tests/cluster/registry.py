"""A read-only registry of images that lie in files: `python -m tests.cluster.registry ADDRESS:PORT FOLDER`.

It speaks the pulling half of the OCI distribution API over HTTP, for docker-archives (FOLDER/*.tar), whose layers it
serves as they lie in the archive. A node takes it for docker.io, so that manifests that name images without a registry,
and thereby with the pull policy Always (`image: nginx`), run as they are.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar"
_DOCKER_HUB = "docker.io/"
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Blob:
    """`size` bytes of `path` from `offset` on."""

    path: Path
    offset: int
    size: int

    def chunks(self, begin: int = 0) -> Iterator[bytes]:
        """Its content from byte `begin` on."""
        with self.path.open("rb") as file:
            file.seek(self.offset + begin)
            left = self.size - begin
            while left:
                chunk = file.read(min(left, _CHUNK_BYTES))
                if not chunk:
                    raise OSError(f"{self.path} is shorter than it was")
                left -= len(chunk)
                yield chunk


@dataclass(frozen=True)
class Images:
    """What is served: manifests by (repository, tag or digest), blobs by digest."""

    manifests: dict[tuple[str, str], bytes] = field(default_factory=dict)
    blobs: dict[str, Blob] = field(default_factory=dict)

    def add(self, path: Path) -> None:
        """Adds the images of a docker-archive, under their names at Docker Hub."""
        with tarfile.open(path) as archive:
            for image in json.loads(_content(archive, "manifest.json")):
                manifest = self._manifest(path, archive, image)
                for name in image["RepoTags"] or ():
                    repository, tag = at_docker_hub(name)
                    for reference in (tag, _digest(manifest)):
                        self.manifests[repository, reference] = manifest

    def _manifest(self, path: Path, archive: tarfile.TarFile, image: Mapping[str, Any]) -> bytes:
        config = _content(archive, image["Config"])
        # Layers lie in the archive as they are when unpacked, so that the digests which the config has are theirs.
        layers = [
            self._blob(path, archive, name, digest=digest, kind=_LAYER)
            for name, digest in zip(image["Layers"], json.loads(config)["rootfs"]["diff_ids"], strict=True)
        ]
        return json.dumps({
            "schemaVersion": 2, "mediaType": _MANIFEST, "layers": layers,
            "config": self._blob(path, archive, image["Config"], digest=_digest(config), kind=_CONFIG),
        }).encode()  # fmt: skip

    def _blob(self, path: Path, archive: tarfile.TarFile, name: str, *, digest: str, kind: str) -> dict[str, Any]:
        member = archive.getmember(name)
        while member.issym():
            member = archive.getmember(str(Path(member.name).parent / member.linkname).replace("../", ""))
        self.blobs[digest] = Blob(path, member.offset_data, member.size)
        return {"mediaType": kind, "digest": digest, "size": member.size}


def at_docker_hub(name: str) -> tuple[str, str]:
    """Repository and tag by which containerd asks docker.io for an image of this name."""
    repository, _, tag = name.removeprefix(_DOCKER_HUB).rpartition(":")
    return (repository if "/" in repository else f"library/{repository}"), tag


def application(images: Images) -> web.Application:
    """Answers GET and HEAD below /v2/."""

    async def base(_request: web.Request) -> web.Response:
        return web.json_response({})

    async def manifest(request: web.Request) -> web.Response:
        found = images.manifests.get((request.match_info["name"], request.match_info["reference"]))
        if found is None:
            raise _unknown("MANIFEST_UNKNOWN")
        headers = {"Docker-Content-Digest": _digest(found)}
        return web.Response(body=found, content_type=_MANIFEST, headers=headers)

    async def blob(request: web.Request) -> web.StreamResponse:
        digest = request.match_info["digest"]
        found = images.blobs.get(digest)
        if found is None:
            raise _unknown("BLOB_UNKNOWN")
        begin = request.http_range.start or 0
        response = web.StreamResponse(status=206 if begin else 200, headers={"Docker-Content-Digest": digest})
        response.content_type = "application/octet-stream"
        response.content_length = found.size - begin
        if begin:
            response.headers["Content-Range"] = f"bytes {begin}-{found.size - 1}/{found.size}"
        await response.prepare(request)
        if request.method == "GET":
            for chunk in found.chunks(begin):
                await response.write(chunk)
        await response.write_eof()
        return response

    app = web.Application()
    app.add_routes(
        [
            web.get("/v2/", base),
            web.get("/v2/{name:.+}/manifests/{reference}", manifest),
            web.get("/v2/{name:.+}/blobs/{digest}", blob),
        ]
    )
    return app


def _unknown(code: str) -> web.HTTPNotFound:
    return web.HTTPNotFound(text=json.dumps({"errors": [{"code": code}]}), content_type="application/json")


def _content(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    if file is None:
        raise ValueError(f"the archive has no file {name}")
    return file.read()


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def main() -> None:
    """Serves until it is killed."""
    host, _, port = sys.argv[1].rpartition(":")
    images = Images()
    for path in sorted(Path(sys.argv[2]).glob("*.tar")):
        images.add(path)
    web.run_app(application(images), host=host, port=int(port), print=None)


if __name__ == "__main__":
    main()
