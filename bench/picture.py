"""Draws rows of a run as bars: `python -m bench.picture FIGURE OUT.svg [--rows TEXT...] [FILE]`.

FIGURE is `rate`, operations per second of each contender, of results/bench.json, `calls`, calls of NFS per
operation, of bench/baseline.json, which knows those of the kernel's client too, `scale`, what the simulation of
many nodes came to, of results/bench.json, or `training`, the seconds of each contender's training, likewise. Lengths
are logarithms.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from bench.clients import KERNEL, MOUNT
from bench.gate import BASELINE
from bench.training.case import totals
from tests.support.paths import RESULTS

#: Row -> contender -> value.
Bars = Mapping[str, Mapping[str, float]]

_LABEL_PX, _BARS_PX, _BAR_PX, _GAP_PX, _TOP_PX, _END_PX = 330, 520, 14, 10, 40, 90
#: What is less has no length.
_LEAST = 0.01
_COLOURS = ("#4c72b0", "#dd8452", "#55a868", "#c44e52", "#8172b3", "#937860", "#da8bc3", "#8c8c8c")


def rates(document: Mapping[str, Any]) -> Bars:
    """Medians of all rounds of results/bench.json."""
    return {
        name: {
            contender: statistics.median(one["operations"] / one["seconds"] for one in rounds)
            for contender, rounds in row["rounds"].items()
        }
        for name, row in document["rows"].items()
    }


def calls(baseline: Mapping[str, Any]) -> Bars:
    """Of the rows that both clients have figures of."""
    return {
        name: {KERNEL: row["kernel"]["calls"], MOUNT: row["calls"]} for name, row in baseline.items() if "kernel" in row
    }


def scales(document: Mapping[str, Any]) -> Bars:
    """What was simulated, beside what it is compared with."""
    figures = {
        "throughput / sum of networks": "throughput",
        "busiest worker / mean, whole run": "busiest",
        "busiest worker / mean, worst 100 ms": "busiest_in_window",
        "bytes from the NAS / data set": "nas",
    }
    return {
        case: {label: values[name] for label, name in figures.items()} for case, values in document["scale"].items()
    }


def draw(bars: Bars, *, title: str) -> str:
    """The picture, as SVG."""
    contenders = list(dict.fromkeys(name for row in bars.values() for name in row))
    values = [value for row in bars.values() for value in row.values() if value > 0]
    least, most = math.floor(math.log10(max(min(values), _LEAST))), math.ceil(math.log10(max(values)))

    def px(value: float) -> float:
        """From the left end of the bars."""
        return _BARS_PX * (math.log10(max(value, _LEAST)) - least) / (most - least)

    parts, y = [], _TOP_PX + _BAR_PX * len(contenders) + _GAP_PX
    top = y
    for name, row in bars.items():
        middle = y + _BAR_PX * len(row) / 2 + 4
        parts.append(_text(_LABEL_PX - 8, middle, name, anchor="end"))
        for contender, value in row.items():
            colour = _COLOURS[contenders.index(contender) % len(_COLOURS)]
            parts.append(_bar(_LABEL_PX, y, px(value), colour))
            parts.append(_text(_LABEL_PX + px(value) + 4, y + _BAR_PX - 3, f"{value:,.3g}", size=10))
            y += _BAR_PX
        y += _GAP_PX
    lines = [_line(_LABEL_PX + px(10.0**power), top - 4, y) for power in range(least, most + 1)]
    legend = [
        _bar(_LABEL_PX, _TOP_PX - 10 + _BAR_PX * number, 24, _COLOURS[number % len(_COLOURS)])
        + _text(_LABEL_PX + 32, _TOP_PX + 1 + _BAR_PX * number, name, size=11)
        for number, name in enumerate(contenders)
    ]
    width = _LABEL_PX + _BARS_PX + _END_PX
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{y}" font-family="sans-serif">'
    back = f'<rect width="{width}" height="{y}" fill="white"/>'
    return "\n".join([head, back, _text(12, 20, title, size=14), *legend, *lines, *parts, "</svg>"]) + "\n"


def _text(x: float, y: float, text: str, *, size: int = 12, anchor: str = "start") -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" font-size="{size}" text-anchor="{anchor}">{escape(text)}</text>'


def _bar(x: float, y: float, width: float, colour: str) -> str:
    return f'<rect x="{x:.0f}" y="{y:.0f}" width="{max(width, 1):.0f}" height="{_BAR_PX - 2}" fill="{colour}"/>'


def _line(x: float, top: float, bottom: float) -> str:
    return f'<line x1="{x:.0f}" y1="{top:.0f}" x2="{x:.0f}" y2="{bottom:.0f}" stroke="#dddddd"/>'


def main(arguments: Sequence[str] | None = None) -> None:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m bench.picture", description=__doc__)
    parser.add_argument("figure", choices=("rate", "calls", "scale", "training"))
    parser.add_argument("out", type=Path)
    parser.add_argument("file", type=Path, nargs="?")
    parser.add_argument("--rows", nargs="+", default=[""], metavar="TEXT", help="only rows with one of these in them")
    parsed = parser.parse_args(arguments)
    if parsed.figure == "rate":
        bars, title = rates(json.loads((parsed.file or RESULTS / "bench.json").read_text())), "Operations per second"
    elif parsed.figure == "scale":
        bars, title = scales(json.loads((parsed.file or RESULTS / "bench.json").read_text())), "Simulated nodes"
    elif parsed.figure == "training":
        bars = totals(json.loads((parsed.file or RESULTS / "bench.json").read_text()))
        title = "Seconds of a training of five epochs"
    else:
        bars, title = calls(json.loads((parsed.file or BASELINE).read_text())), "Calls of NFS per operation"
    chosen = {name: row for name, row in bars.items() if any(text in name for text in parsed.rows)}
    parsed.out.write_text(draw(chosen, title=f"{title} (logarithmic)"))


if __name__ == "__main__":
    main()
