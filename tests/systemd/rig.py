"""A machine, the arm on its bus, and what a test does with both."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

from tests.simulator import Simulator
from tests.systemd.machine import HERE, Machine
from vlad import config as configuration
from vlad.config import Config
from vlad.wire_witness import Verdict, judge

ROOT = HERE.parents[1]
TOML = HERE / "guest/etc/vlad/vlad.toml"
DROP_INS = "/etc/systemd/system/vlad.service.d"
TASK = "Sweep the arm over the table."
CAMERAS = {
    "namespaces": 'source = "shm:{prefix}-top"\nwidth = 96\nheight = 96\nfps = 10\n',
    "emulated": 'source = "/dev/video-top"\nwidth = 320\nheight = 180\nfps = 2\nformat = "YUYV"\n',
}
STILL_TICKS = 12  # a degree: what an arm that is held may sag and settle


class Rig:
    def __init__(self, machine: Machine, sim: Simulator, directory: Path) -> None:
        self.machine = machine
        self.sim = sim
        self.directory = directory
        self.realtime = True  # may the daemon have what its unit asks for

    # --- the machine -----------------------------------------------------------------------

    def reset(self) -> None:
        """A stopped, configured daemon; no drop-ins of earlier tests; the arm unpowered where it is."""
        run = self.machine.run
        run(f"systemctl stop vlad; rm -rf {DROP_INS}; systemctl disable -q vlad; rm -f /run/vlad/safe-stop", 60)
        self.sim.command("clear_all")
        self.sim.command("cut_supply")
        time.sleep(0.2)
        self.sim.command("restore_supply")
        text = TOML.read_text() + '\n[[camera]]\nname = "top"\n' + (
            CAMERAS[self.machine.kind].format(prefix=self.sim.camera_prefix))
        if self.machine.kind == "emulated":
            run("lsmod | grep -q vivid || modprobe vivid n_devs=1 node_types=0x1; udevadm settle", 60)
            # Two seconds are too short for an interpreter that is emulated on a busy host.
            self.drop_in("watchdog", "WatchdogSec=20\nTimeoutAbortSec=20\nTimeoutStopSec=60\nRestartSec=1")
        else:
            self.drop_in("pty", "DeviceAllow=char-pts rw")
            # A container's root may lack CAP_SYS_RESOURCE, and with it the right to raise limits.
            self.realtime = self.machine.attempt("bash -c 'ulimit -r 98'")[0] == 0
            if not self.realtime:
                text = text.replace("[servo]\n", "[servo]\nallow_non_realtime = true\n")
        self.write("/etc/vlad/vlad.toml", text)
        self.reload()

    def write(self, path: str, text: str) -> None:
        self.machine.run(f"cat >{path} <<'END_OF_FILE'\n{text}\nEND_OF_FILE\n")

    def drop_in(self, name: str, text: str) -> None:
        """A drop-in of [Service]; reload() makes it count."""
        self.machine.run(f"mkdir -p {DROP_INS}")
        self.write(f"{DROP_INS}/{name}.conf", f"[Service]\n{text}")

    def reload(self) -> None:
        self.machine.run("systemctl daemon-reload; systemctl reset-failed; journalctl -q --rotate --vacuum-time=1s", 60)

    def start(self) -> None:
        why = "systemctl status vlad; journalctl -q -u vlad -o cat -n 8 --no-pager; false"
        self.machine.run(f"systemctl start vlad || {{ {why}; }}", 60)

    def show(self, name: str) -> str:
        return self.machine.run(f"systemctl show -P {name} vlad")

    def keep_result(self) -> None:
        """Has result() know how the daemon that ran before this one ended."""
        self.drop_in("result", "ExecStopPost=sh -c 'echo $SERVICE_RESULT >/run/vlad/result'")
        self.reload()

    def result(self) -> str:
        return self.machine.run("cat /run/vlad/result")

    def journal(self) -> str:
        return self.machine.run("journalctl -q -u vlad -o cat --no-pager", 60)

    # --- the daemon ------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self.machine.run("vladctl status --json"))
        return answer

    def load(self) -> None:
        self.machine.run("vladctl load /var/lib/vlad/sweep.vlad", 120)
        self.machine.run(f"vladctl task '{TASK}'")

    def move(self) -> None:
        """Loads, engages and waits until the arm moves."""
        self.load()
        end = time.monotonic() + 40 * self.machine.slow
        while True:
            status, said = self.machine.attempt("vladctl engage", 60)
            if status == 0 and self.moving():
                return
            assert time.monotonic() < end, f"no motion: {said}\n{self.machine.run('vladctl status; vladctl events')}"
            time.sleep(0.2)

    def moving(self, seconds: float = 15.0) -> bool:
        """Whether goals change within a while."""
        first = self.sim.command("status")["goals"]
        end = time.monotonic() + seconds * self.machine.slow / 2
        while time.monotonic() < end:
            time.sleep(0.05)
            now = self.sim.command("status")["goals"]
            if any(abs(now[n] - at) > 20 for n, at in first.items()):
                return True
        return False

    # --- the arm ---------------------------------------------------------------------------

    def arm(self) -> dict[str, dict[str, Any]]:
        """ticks, goals, torque by servo id, as the simulated servos have them."""
        answer: dict[str, dict[str, Any]] = self.sim.command("status")
        return answer

    def held(self, seconds: float = 1.0) -> dict[str, int]:
        """Asserts that every servo has torque and that nothing moves for so long; where the arm is."""
        time.sleep(0.6)
        before = self.arm()
        assert all(before["torque"].values()), f"without torque the arm falls: {before['torque']}"
        time.sleep(seconds)
        self.still_at(before["ticks"])
        return before["ticks"]

    def still_at(self, ticks: dict[str, int]) -> None:
        now = self.arm()
        assert all(now["torque"].values()), now["torque"]
        away = {n: now["ticks"][n] - at for n, at in ticks.items() if abs(now["ticks"][n] - at) > STILL_TICKS}
        assert not away, f"moved by {away} ticks"

    def wire(self) -> Verdict:
        """Every goal since the simulator started."""
        config = self.config()
        return judge(self.sim.record, config.joints, config.period_ns / 1e9)

    def config(self) -> Config:
        calibration = ROOT / "vlad/sim/assets/calibration.json"
        path = self.directory / "judged.toml"
        path.write_text(re.sub(r'^calibration = .*$', f'calibration = "{calibration}"', TOML.read_text(),
                               flags=re.MULTILINE))
        return configuration.load(path, machine=False)

