"""No two modules of a crate import each other in a circle.

The root of a crate and the `mod.rs` of a folder are the frame of the modules in it, and do not count: what they give
out by `pub use` is followed to where it is.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.support.paths import ROOT

# What follows in a file are its tests.
_TESTS = re.compile(r"#\[cfg\((?:all\()?test\b.*\]\nmod tests \{")

Module = tuple[str, ...]


def _module(path: Path) -> Module:
    parts = path.with_suffix("").parts
    return parts[:-1] if parts[-1] in ("lib", "main", "mod") else parts


def _paths(text: str, base: str) -> Iterator[tuple[str, ...]]:
    """The paths behind `base`, with those in braces."""
    for match in re.finditer(rf"(?<![\w:]){base}::([\w:]+|{{)", text):
        if match[1] != "{" and not match[1].endswith("::"):
            yield tuple(match[1].split("::"))
            continue
        prefix = tuple(filter(None, match[1].removesuffix("{").split("::")))
        inside = text[match.end() : text.index("}", match.end())].lstrip("{")
        yield from (prefix + tuple(name.strip().split("::")) for name in inside.split(",") if name.strip())


class Crate:
    """The modules of one crate and what they import."""

    def __init__(self, folder: Path) -> None:
        """Read the sources."""
        files = {_module(path.relative_to(folder)): path for path in folder.rglob("*.rs") if "bin" not in path.parts}
        self.texts = {
            module: re.sub(r"//.*", "", re.split(_TESTS, path.read_text(encoding="utf-8"))[0])
            for module, path in files.items()
            if not re.fullmatch(r"(\w+_)?tests", module[-1] if module else "")
        }
        self.imports = {module: set(self._imports(module)) for module in self.texts}

    def _target(self, path: Module) -> Module:
        module = path[:0]
        while path[: len(module) + 1] in self.texts and len(module) < len(path):
            module = path[: len(module) + 1]
        if len(module) == len(path):
            return module
        name = re.compile(rf"\bpub(?:\(crate\))? use (?:self::)?(\w+)::(?:\w+::)*(?:{{[^}}]*\b)?{path[len(module)]}\b")
        found = name.search(self.texts[module])
        return self._target((*module, found[1], *path[len(module) :])) if found else module

    def _imports(self, module: Module) -> Iterator[Module]:
        text = self.texts[module]
        paths = list(_paths(text, "crate"))
        paths += [module[:-1] + path for path in _paths(text, "super")]
        paths += [module[:-2] + path for path in _paths(text, "super::super")]
        for target in map(self._target, paths):
            if target != module[: len(target)]:  # not a frame around it, nor itself
                yield target

    def in_circles(self) -> set[Module]:
        """The modules from which imports lead back to them."""
        return {module for module in self.imports if module in self._reachable(module)}

    def _reachable(self, start: Module) -> set[Module]:
        reached: set[Module] = set()
        ahead = [start]
        while ahead:
            new = self.imports[ahead.pop()] - reached
            reached |= new
            ahead += new
        return reached


def main() -> int:
    """Print what is wrong; the exit status."""
    wrong = 0
    for folder in sorted((ROOT / "efc").glob("*/src")):
        for module in sorted("::".join(module) for module in Crate(folder).in_circles()):
            print(f"efc/{folder.parent.name}: {module} imports itself, through others")
            wrong += 1
    return min(wrong, 1)


if __name__ == "__main__":
    sys.exit(main())
