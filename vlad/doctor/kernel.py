"""The kernel: real time, timers, and who else runs on the servo loop's core."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from vlad.doctor.finding import Finding, unknown
from vlad.doctor.root import Root, as_list, cpus, mask
from vlad.small_file import Unreadable

AREA = "kernel"


def examine(root: Root, servo_cores: frozenset[int]) -> Iterator[Finding]:
    """servo_cores: `servo.affinity`; empty: any."""
    checks: dict[str, Callable[[], Finding]] = {
        "preemption": lambda: _preemption(root),
        "timers": lambda: _timers(root),
        "rt groups": lambda: _rt_groups(root),
        "rt throttling": lambda: _throttling(root),
        "governor": lambda: _governor(root),
        "pressure": lambda: _pressure(root),
    }
    if servo_cores:
        checks |= {
            "isolated cores": lambda: _isolated(root, servo_cores),
            "interrupts": lambda: _interrupts(root, servo_cores),
            "workqueues": lambda: _workqueues(root, servo_cores),
        }
    else:
        yield Finding(AREA, "isolated cores", "note", "servo.affinity names no core: the servo loop runs anywhere")
    for name, check in checks.items():
        try:
            yield check()
        except Unreadable as error:
            yield unknown(AREA, name, error)


def _preemption(root: Root) -> Finding:
    release = root.text("/proc/sys/kernel/osrelease")
    try:
        realtime = root.number("/sys/kernel/realtime") == 1
    except Unreadable:
        realtime = False
    if realtime:
        return Finding(AREA, "preemption", "ok", f"{release}, PREEMPT_RT")
    return Finding(AREA, "preemption", "warn", f"{release}, not PREEMPT_RT: wake-ups late by tens of ms hold the arm",
                   "boot a PREEMPT_RT kernel (Debian: linux-image-rt-*; i.MX: docs/imx95.md)")


def _timers(root: Root) -> Finding:
    options = root.kernel_options()
    hz = f"HZ={options.get('HZ', '?')}"
    if options.get("HIGH_RES_TIMERS") != "y":
        return Finding(AREA, "timers", "fail", f"{hz} and no high-resolution timers: a wake-up is late by up to a tick",
                       "a kernel with CONFIG_HIGH_RES_TIMERS=y")
    return Finding(AREA, "timers", "ok", f"high-resolution, {hz}")


def _rt_groups(root: Root) -> Finding:
    options, booted = root.kernel_options(), root.text("/proc/cmdline").split()
    default = options.get("RT_GROUP_SCHED_DEFAULT_DISABLED") != "y"
    asked = [word.removeprefix("rt_group_sched=") for word in booted if word.startswith("rt_group_sched=")]
    if options.get("RT_GROUP_SCHED") != "y" or not (asked[-1] != "0" if asked else default):
        return Finding(AREA, "rt groups", "ok", "CONFIG_RT_GROUP_SCHED is off")
    return Finding(AREA, "rt groups", "warn", "CONFIG_RT_GROUP_SCHED is on: no SCHED_FIFO in a service's cgroup",
                   "a kernel without it, or (Linux 6.14 and later) boot with rt_group_sched=0")


def _throttling(root: Root) -> Finding:
    runtime, period = (root.number(f"/proc/sys/kernel/sched_rt_{what}_us") for what in ("runtime", "period"))
    if runtime < 0:
        return Finding(AREA, "rt throttling", "warn", "off: a real-time thread that never sleeps keeps its core",
                       "sysctl kernel.sched_rt_runtime_us=950000")
    return Finding(AREA, "rt throttling", "ok", f"{runtime} of {period} us")


def _governor(root: Root) -> Finding:
    policies = root.glob("/sys/devices/system/cpu/cpufreq/policy*")
    if not policies:
        return Finding(AREA, "governor", "note", "no cpufreq: the clock is fixed, or the host's")
    found = {p.name: root.text(f"{p.relative_to(root.path)}/scaling_governor") for p in policies}
    slow = sorted(name for name, governor in found.items() if governor != "performance")
    if slow:
        return Finding(AREA, "governor", "warn", ", ".join(f"{name}: {found[name]}" for name in slow)
                       + ": the clock sinks between two inferences",
                       f"echo performance > /sys/devices/system/cpu/cpufreq/{slow[0]}/scaling_governor; for good: "
                       "tmpfiles.d (install.sh --board)")
    return Finding(AREA, "governor", "ok", f"performance on {', '.join(sorted(found))}")


def _pressure(root: Root) -> Finding:
    try:
        root.text("/proc/pressure/memory")
    except Unreadable:
        return Finding(AREA, "pressure", "warn", "no /proc/pressure/memory: short memory is not noticed (fault 35)",
                       "a kernel with CONFIG_PSI=y, or boot with psi=1")
    return Finding(AREA, "pressure", "ok", "stall information is there")


def _isolated(root: Root, wanted: frozenset[int]) -> Finding:
    if absent := wanted - cpus(root.text("/sys/devices/system/cpu/online")):
        return Finding(AREA, "isolated cores", "fail", f"servo.affinity: core {as_list(absent)} is not online",
                       "name a core that is: /sys/devices/system/cpu/online")
    isolated = cpus(root.text("/sys/devices/system/cpu/isolated"))
    if shared := wanted - isolated:
        return Finding(AREA, "isolated cores", "warn", f"other threads run on core {as_list(shared)} of the servo loop",
                       f"boot with isolcpus=managed_irq,domain,{as_list(wanted)}")
    return Finding(AREA, "isolated cores", "ok", f"core {as_list(wanted)} is the servo loop's alone")


def _interrupts(root: Root, servo_cores: frozenset[int]) -> Finding:
    default = mask(root.text("/proc/irq/default_smp_affinity"))
    if met := default & servo_cores:
        rest = default - servo_cores or {0}
        return Finding(AREA, "interrupts", "warn", f"new interrupts may go to core {as_list(met)} of the servo loop",
                       f"boot with irqaffinity={as_list(rest)}")
    return Finding(AREA, "interrupts", "ok", f"on cores {as_list(default)}")


def _workqueues(root: Root, servo_cores: frozenset[int]) -> Finding:
    path = "/sys/devices/virtual/workqueue/cpumask"
    allowed = mask(root.text(path))
    if met := allowed & servo_cores:
        bits = sum(1 << core for core in allowed - servo_cores) or 1
        return Finding(AREA, "workqueues", "warn",
                       f"kernel workers, which carry serial replies, may wait for the loop on core {as_list(met)}",
                       f"echo {bits:x} > {path}")
    return Finding(AREA, "workqueues", "ok", f"unbound ones on cores {as_list(allowed)}")
