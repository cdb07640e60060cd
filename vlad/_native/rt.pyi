"""Real-time rights of the calling thread and of the process (csrc/rt.h)."""

from collections.abc import Sequence

def lock_process() -> str:
    """Lock present and future memory of the process as it is touched. "" or why it was refused."""

def enter(priority: int = 0, cpus: Sequence[int] = ()) -> str:
    """Give the calling thread SCHED_FIFO at `priority` (0: leave) on `cpus` (empty: leave).

    Returns "" or, in one line, what was refused and what to change. ConfigError for a priority
    outside 0..99.
    """

def kernel() -> bool:
    """Whether the kernel is PREEMPT_RT."""
