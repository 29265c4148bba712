"""Prometheus' text format, and what a process counts for it.

Written by hand: the format is a dozen lines (https://prometheus.io/docs/instrumenting/exposition_formats, version
0.0.4), and prometheus_client would cost every node plugin 5.4 MB for them, a tenth of what it may take. What is served
is checked against the table of :mod:`csi.observe.metrics`: an unknown name, or other labels than its row's, is an
error.

For one event loop: nothing here is locked, and nothing blocks.
"""

import asyncio
import bisect
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from csi.base.errors import DriverError
from csi.observe.metrics import METRICS, Kind, Metric

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_LABEL_LENGTH_MAX = 1024
_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})

_Labels = tuple[str, ...]


@dataclass(kw_only=True)
class Histogram:
    """One series of a histogram; ``counts`` has one bucket more than the table: +Inf."""

    counts: list[int]
    total: float = 0.0


class Page:
    """The answer to one scrape."""

    def __init__(self) -> None:
        self._lines: dict[str, list[str]] = {}

    def put(self, name: str, value: float, /, **labels: str) -> None:
        """One sample of a counter or gauge."""
        metric = METRICS[name]
        self._add(metric, metric.name, dict(zip(metric.labels, values_of(metric, labels), strict=True)), value)

    def put_histogram(self, name: str, values: _Labels, histogram: Histogram) -> None:
        """All samples of one histogram: cumulative buckets, sum and count."""
        metric = METRICS[name]
        labels, seen = dict(zip(metric.labels, values, strict=True)), 0
        for bound, count in zip([*map(_number, metric.buckets), "+Inf"], histogram.counts, strict=True):
            seen += count
            self._add(metric, f"{name}_bucket", labels | {"le": bound}, seen)
        self._add(metric, f"{name}_sum", labels, histogram.total)
        self._add(metric, f"{name}_count", labels, seen)

    def _add(self, metric: Metric, name: str, labels: Mapping[str, str], value: float) -> None:
        pairs = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
        sample = f"{name}{{{pairs}}} {_number(value)}" if pairs else f"{name} {_number(value)}"
        self._lines.setdefault(metric.name, []).append(sample)

    def text(self) -> str:
        """The page's text, metrics in the order of the table."""
        blocks = []
        for name, metric in METRICS.items():
            if lines := self._lines.get(name):
                blocks += [f"# HELP {name} {metric.help}", f"# TYPE {name} {metric.kind.value}"]
                blocks += lines
        return "\n".join([*blocks, ""])


@dataclass(kw_only=True)
class Recorder:
    """Counters, gauges and histograms of what happened in this process since it started."""

    _counts: dict[tuple[str, _Labels], float] = field(default_factory=dict)
    _histograms: dict[tuple[str, _Labels], Histogram] = field(default_factory=dict)

    def count(self, name: str, by: float = 1, /, **labels: str) -> None:
        """Adds to a counter or gauge; 0 makes the series, so that its first event is seen as an increase."""
        metric = METRICS[name]
        key = name, values_of(metric, labels)
        self._counts[key] = self._counts.get(key, 0) + by

    def observe(self, name: str, value: float, /, **labels: str) -> None:
        """Adds one value, in the metric's unit, to a histogram."""
        metric = METRICS[name]
        if metric.kind is not Kind.HISTOGRAM:
            raise TypeError(f"{name} is no histogram")
        key = name, values_of(metric, labels)
        histogram = self._histograms.setdefault(key, Histogram(counts=[0] * (len(metric.buckets) + 1)))
        histogram.counts[bisect.bisect_left(metric.buckets, value)] += 1
        histogram.total += value

    @contextmanager
    def outcome(self, counter: str, histogram: str, /, **labels: str) -> Iterator[None]:
        """Counts the block under the gRPC code that it ends with, and observes the seconds that it took."""
        began, code = time.monotonic(), "INTERNAL"
        try:
            yield
            code = "OK"
        except DriverError as error:
            code = error.code.name
            raise
        except asyncio.CancelledError:
            code = "CANCELLED"
            raise
        finally:
            self.count(counter, **labels, code=code)
            self.observe(histogram, time.monotonic() - began, **labels)

    def write(self, page: Page) -> None:
        """Puts everything that was counted and observed on ``page``."""
        for (name, values), value in self._counts.items():
            page.put(name, value, **dict(zip(METRICS[name].labels, values, strict=True)))
        for (name, values), histogram in self._histograms.items():
            page.put_histogram(name, values, histogram)


def values_of(metric: Metric, labels: Mapping[str, str]) -> _Labels:
    """The labels' values in the table's order; raises TypeError if the labels are not the table's."""
    if labels.keys() != set(metric.labels):
        raise TypeError(f"{metric.name} has labels {metric.labels}, not {tuple(labels)}")
    return tuple(labels[name] for name in metric.labels)


def _escaped(text: str) -> str:
    return text[:_LABEL_LENGTH_MAX].translate(_ESCAPES)


def _number(value: float) -> str:
    """``value`` as text, whole numbers in full: a counter of bytes must not be rounded."""
    return str(int(value)) if value == int(value) else repr(float(value))
