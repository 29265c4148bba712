"""What a scrape reads of a process itself, be it the node plugin, the controller or the operator."""

import os
import resource
import time

from csi.base import driver
from csi.base.children import Children
from csi.observe.exposition import Page, Recorder

_STARTED = time.time()


def counted_children(recorder: Recorder, *, program: str) -> Children:
    """Children whose kills ``recorder`` counts; the series of ``program``, which they run, is there from the start."""
    recorder.count("efc_children_killed_total", 0, program=program)
    return Children(on_killed=lambda killed: recorder.count("efc_children_killed_total", program=killed))


def put_process(page: Page, *, recorder: Recorder, children: Children) -> None:
    """What the process has counted since it started, its children of now, and what it uses of the machine."""
    recorder.write(page)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    page.put("efc_children", children.count)
    page.put("efc_build_info", 1, version=driver.version())
    page.put("process_start_time_seconds", _STARTED)
    page.put("process_cpu_seconds_total", usage.ru_utime + usage.ru_stime)
    page.put("process_resident_memory_bytes", _resident_bytes())
    page.put("process_open_fds", len(os.listdir("/proc/self/fd")))


def _resident_bytes() -> int:
    with open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()
