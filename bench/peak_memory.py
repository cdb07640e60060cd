"""How much memory a process has had. Standard library alone: it is also imported where LeRobot is installed."""

from pathlib import Path


def peak_gib() -> float:
    """Most memory that was resident. Not getrusage's, which counts what started this process too."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 2**20
