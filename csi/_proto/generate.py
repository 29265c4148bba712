"""Generates this package's code from ``proto/*.proto``, the same bytes every time.

The output depends on the compiler's version, so exactly one is accepted; ``--check`` writes nothing and exits 1 when
what is committed differs.
"""

import re
import sys
import tempfile
from importlib import metadata
from pathlib import Path

#: The only version whose output is committed (it brings its own protoc).
GRPCIO_TOOLS = "1.85.1"
#: Name of the .proto file, and whether it defines gRPC services.
SOURCES = {"csi": True, "dataset": True, "efc": False, "pluginregistration": True}

_PACKAGE = Path(__file__).resolve().parent
_PROTO = _PACKAGE.parent.parent / "proto"


def generate() -> dict[str, str]:
    """File name -> content, for every generated file."""
    from grpc_tools import protoc

    with tempfile.TemporaryDirectory() as folder:
        for name, has_services in SOURCES.items():
            arguments = ["protoc", f"-I{_PROTO}", *_well_known(), f"--python_out={folder}", f"--pyi_out={folder}"]
            if has_services:
                arguments.append(f"--grpc_python_out={folder}")
            if protoc.main([*arguments, f"{name}.proto"]) != 0:
                raise SystemExit(f"protoc failed on {name}.proto")
        return {path.name: _fixed(path.read_text()) for path in sorted(Path(folder).iterdir())}


def _well_known() -> list[str]:
    import grpc_tools

    return [f"-I{Path(grpc_tools.__file__).parent / '_proto'}"]


def _fixed(text: str) -> str:
    """The compiler knows no Python packages: it writes ``import csi_pb2``, which would need our folder on sys.path."""
    return re.sub(r"^import (\w+_pb2) as", r"from csi._proto import \1 as", text, flags=re.MULTILINE)


def main() -> int:
    """Writes the files, or compares them with ``--check``; returns the exit status."""
    installed = metadata.version("grpcio-tools")
    if installed != GRPCIO_TOOLS:
        print(
            f"grpcio-tools {installed} is installed, the committed code is made by {GRPCIO_TOOLS}: install that one",
            file=sys.stderr,
        )
        return 2
    stale = []
    for name, content in generate().items():
        path = _PACKAGE / name
        if path.exists() and path.read_text() == content:
            continue
        stale.append(name)
        if "--check" not in sys.argv:
            path.write_text(content)
    if "--check" in sys.argv and stale:
        print(f"not what proto/ generates: {', '.join(stale)}; run python -m csi._proto.generate", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
