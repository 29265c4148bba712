"""docs/TROUBLESHOOTING.md has a line for each reason for which a Dataset is not Ready, or not counted."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from tests.support.paths import ROOT

DOCUMENT = (ROOT / "docs" / "TROUBLESHOOTING.md").read_text()


def reasons() -> Iterator[str]:
    """What the operator gives as ``No(reason=...)``, or puts into a variable ``reason``, as a word of the API."""
    for path in sorted((ROOT / "csi" / "operator" / "datasets").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(func=ast.Name(id="No"), keywords=keywords):
                    values = [keyword.value for keyword in keywords if keyword.arg == "reason"]
                case ast.Assign(targets=[ast.Name(id="reason")], value=value):
                    values = [value]
                case _:
                    continue
            words = [word for value in values for word in ast.walk(value) if isinstance(word, ast.Constant)]
            yield from (word.value for word in words if isinstance(word.value, str) and word.value.isalpha())


def test_each_reason_has_a_line() -> None:
    found = set(reasons())
    assert {"NoRuntime", "SourceNotAllowed", "InvalidSpec"} <= found, "they are found where they are written"
    assert {reason for reason in found if f"`{reason}`" not in DOCUMENT} == set()
