"""Reads Prometheus' text format back, strictly: what is not in the table or not in the format is an error."""

from __future__ import annotations

import re
import urllib.request

from csi.observe.metrics import METRICS, Kind

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]
_SAMPLE = re.compile(r'([a-z_]+)(?:\{((?:[a-z_]+="(?:[^"\\]|\\.)*",?)*)\})? ([0-9.e+-]+)')
_LABEL = re.compile(r'([a-z_]+)="((?:[^"\\]|\\.)*)"')
_ESCAPES = {"\\\\": "\\", '\\"': '"', "\\n": "\n"}


def parsed(text: str) -> Samples:
    """(name, sorted labels) -> value. Raises AssertionError for a sample that comes twice or without HELP and TYPE."""
    samples: Samples = {}
    family, described = "", set()
    assert text.endswith("\n")
    for line in text.splitlines():
        if line.startswith("# HELP "):
            family = line.split(" ", 3)[2]
            assert family not in described, f"{family} comes twice"
            described.add(family)
        elif line.startswith("# TYPE "):
            assert line == f"# TYPE {family} {METRICS[family].kind.value}"
        else:
            match = _SAMPLE.fullmatch(line)
            assert match, f"no sample: {line!r}"
            name = re.sub(r"_(bucket|sum|count)$", "", match[1]) if METRICS[family].kind is Kind.HISTOGRAM else match[1]
            assert name == family, line
            labels = sorted((label, _unescaped(value)) for label, value in _LABEL.findall(match[2] or ""))
            key = match[1], tuple(labels)
            assert key not in samples, f"twice: {line!r}"
            samples[key] = int(match[3]) if match[3].isdecimal() else float(match[3])
    return samples


def scrape(port: int, *, limit_s: float = 10) -> str:
    """The page at 127.0.0.1."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=limit_s) as reply:
        body: bytes = reply.read()
    return body.decode()


def families(text: str) -> set[str]:
    """Names of the metrics on a page."""
    return {line.split(" ", 3)[2] for line in text.splitlines() if line.startswith("# TYPE ")}


def total(samples: Samples, name: str, **labels: str) -> float:
    """The sum of all samples of a name with these labels, and maybe others."""
    wanted = set(labels.items())
    return sum(value for (found, pairs), value in samples.items() if found == name and wanted <= set(pairs))


def _unescaped(text: str) -> str:
    return re.sub(r"\\.", lambda match: _ESCAPES[match[0]], text)
