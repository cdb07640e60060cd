"""A daemon in a process of its own, with the scripted policy of tests/daemons.py: to be killed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from tests.daemons import wait_for
from tests.simulator import Simulator
from vlad.cli import Declined, Unreachable, ask
from vlad.config import Config
from vlad.servo import now_ns

ROOT = Path(__file__).resolve().parents[1]
SAFE_STOP = ROOT / "vlad/_native/vlad-safe-stop"

PROGRAM = """
import sys, threading
from tests import daemons
from vlad import config, daemon
from vlad.control import Control

settings = config.load(sys.argv[1])
d = daemon.Daemon(settings)
d.stop_on_signals()
control = Control(settings.control, d, d.servo)
control.start()
d.socket_fresh = control.fresh
threading.excepthook = d.thread_died
d.start()
d.install(daemons.loaded(daemons.ScriptedPolicy(), d))
exec(sys.argv[2])
status = d.run()
control.stop()
sys.exit(status)
"""


def start(config: Config, directory: Path, injected: str = "") -> subprocess.Popen[bytes]:
    """injected: Python that runs before `d.run()`, in the process of the daemon `d`."""
    with (directory / "daemon.log").open("ab") as log:
        return subprocess.Popen([sys.executable, "-c", PROGRAM, str(config.path), injected],
                                stdout=log, stderr=log, cwd=ROOT,
                                env={**os.environ, "RUNTIME_DIRECTORY": str(directory)})


def engaged_and_moving(config: Config) -> None:
    def ready() -> bool:
        try:
            return not ask(config.control.socket, "status", {}, 5.0)["why_not_engageable"]
        except (Unreachable, Declined):
            return False

    def engaged() -> bool:
        try:  # a camera of a busy machine may miss its turn in between
            ask(config.control.socket, "engage", {}, 5.0)
        except Declined:
            return False
        return True

    wait_for(ready, 40, "engageable")
    wait_for(engaged, 20, "engaged")
    wait_for(lambda: not ask(config.control.socket, "status", {}, 5.0)["arm"]["at_rest"], 15, "motion")


def rest_ms(sim: Simulator, since_ns: int, limit_ms: int = 3_000) -> float:
    """ms from `since_ns` until the joints stand still for 100 ms, within 3 ticks; by the simulator."""
    first, still_ns = sim.command("status")["ticks"], now_ns()
    while now_ns() - still_ns < 100_000_000:
        assert now_ns() - since_ns < limit_ms * 1_000_000, f"still moving after {limit_ms} ms"
        time.sleep(0.01)
        then = sim.command("status")["ticks"]
        if any(abs(at - then[number]) > 3 for number, at in first.items()):
            first, still_ns = then, now_ns()
    return max(0.0, (still_ns - since_ns) / 1e6)


def safe_stop(sim: Simulator) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(SAFE_STOP), "hold", "--port", sim.bus, "--ids", "1,2,3,4,5,6", "--gripper", "6"],
        capture_output=True, text=True, timeout=10, check=False,
    )
