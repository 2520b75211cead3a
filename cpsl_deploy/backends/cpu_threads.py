"""How many threads an inference on the CPU has, and how they wait.

As many as the cores that this process may really use: one for each physical core of its affinity, fewer if
the container's quota is less. ONNX Runtime counts the cores of the machine and widens the affinity of its
threads again: a process bound to one of two cores runs on both. Threads beyond the cores wait for each other
at every layer: 1.6 times as long with two on one core, twice as long with four on two (a network of 17 GFLOP,
fp32). Where the process has the whole machine the library is left to choose: it binds each of its threads to
a core then, which is 8 % faster than the same number asked for.

Threads wait for work in circles during an inference, not after it. ONNX Runtime would have them go on, on
cores that drawing, encoding and decoding could use: on two cores 9 % of the CPU time of a frame in fp32 and
14 % in INT8, and 3 to 5 % of the frame's time. Threads that never circle take less CPU time still, and the
inference is 3 to 10 % longer.
"""

from __future__ import annotations

import os
from pathlib import Path

from ..machine.cores import usable_cores

STOP_SPINNING = "session.force_spinning_stop"
"""ONNX Runtime's key (onnxruntime_session_options_config_keys.h): "1" stops it at the end of each run."""


def inference_threads(threads: int | None) -> int | None:
    """``threads`` if they were asked for; else a number where the process has not the whole machine, and
    None, the library's own choice, where it has."""
    if threads is not None:
        return threads
    usable = usable_cores()
    if usable >= (os.cpu_count() or 1):
        return None
    return max(1, min(int(usable), physical_cores()))


def physical_cores(root: Path = Path("/")) -> int:
    """Of this process's affinity; where the system does not tell, every core counts as one."""
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    siblings = set()
    for core in cores:
        file = root / f"sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list"
        siblings.add(file.read_text(encoding="ascii") if file.exists() else str(core))
    return len(siblings)
