"""What only a whole machine has: its clock, its memory, its USB port, and power that goes away."""

from __future__ import annotations

import os
import random
import subprocess
import time
from pathlib import Path

import pytest

from tests import simulator
from tests.systemd import machine
from tests.systemd.rig import TASK, Rig

CUTS = int(os.environ.get("VLAD_POWER_CUTS", "5"))
PORT = "/sys/bus/usb/drivers/usb"


@pytest.fixture
def emulated(rig: Rig) -> Rig:
    if rig.machine.kind != "emulated":
        pytest.skip("the host's clock, memory and ports are not for tests")
    return rig


def test_the_clock_steps_by_an_hour(emulated: Rig) -> None:
    rig = emulated
    rig.start()
    rig.move()
    for step in ("+1 hour", "-2 hours", "+1 hour"):
        rig.machine.run(f"date -s '{step}'")
        assert rig.moving() or rig.moving(), f"the arm goes on after {step}"
    assert rig.status()["mode"] == "engaged"
    assert rig.show("NRestarts") == "0"
    assert rig.wire().ok, rig.wire().violations


def test_out_of_memory_in_the_units_cgroup(emulated: Rig) -> None:
    """What is killed first is not the daemon; when it is the daemon, the arm is held and it comes back."""
    rig = emulated
    rig.drop_in("memory", "MemoryMax=400M\nMemorySwapMax=0")
    rig.keep_result()
    rig.start()
    rig.move()
    group = "/sys/fs/cgroup/system.slice/vlad.service"
    rig.machine.attempt(f"bash -c 'echo $$ >{group}/cgroup.procs; tail /dev/zero'", 60)
    assert "oom_kill 1" in rig.machine.run(f"cat {group}/memory.events")
    assert rig.show("NRestarts") == "0", "OOMPolicy=continue: another process of the unit was the kernel's choice"
    pid = rig.show("MainPID")
    rig.machine.attempt(f"bash -c 'echo -1000 >/proc/self/oom_score_adj; echo $$ >{group}/cgroup.procs; "
                        "head -c 380M /dev/zero | tail'", 60)
    rig.machine.wait("test $(systemctl show -P NRestarts vlad) -ge 1 && systemctl is-active -q vlad", 60)
    assert rig.show("MainPID") != pid
    assert rig.result() in ("oom-kill", "signal")
    rig.held()
    assert rig.status()["mode"] == "ready"
    assert rig.wire().ok, rig.wire().violations


def test_unplug_and_plug_in(emulated: Rig) -> None:
    rig = emulated
    run = rig.machine.run
    device = run(f"basename $(ls -d {PORT}/*-* | head -1)")
    assert run("systemctl show -P JobRunningTimeoutUSec 'dev-vlad\\x2dbus.device'") == "20s"
    rig.start()
    run(f"echo {device} >{PORT}/unbind")
    rig.machine.wait("! test -e /dev/vlad-bus && vladctl status | grep -q serial_unplugged", 30)
    assert rig.show("ActiveState") == "active", "nothing is bound to the device"
    run(f"echo {device} >{PORT}/bind")
    rig.machine.wait("journalctl -q -u vlad -o cat | grep -c arm_adopted | grep -q 2", 60)
    run("systemctl stop vlad; systemctl enable -q vlad", 60)
    run(f"echo {device} >{PORT}/unbind; udevadm settle")
    assert rig.show("ActiveState") == "inactive"
    run(f"echo {device} >{PORT}/bind")
    rig.machine.wait("systemctl is-active -q vlad", 60)  # an enabled unit starts when its bus comes
    assert run("cat /sys/bus/usb-serial/devices/*/latency_timer") == "1"


GADGET = """
modprobe -a dummy_hcd libcomposite usb_f_acm cdc_acm
mountpoint -q /sys/kernel/config || mount -t configfs configfs /sys/kernel/config
cd /sys/kernel/config/usb_gadget && mkdir -p board && cd board
echo 0x1a86 >idVendor; echo 0x55d3 >idProduct
mkdir -p strings/0x409 configs/c.1 functions/acm.0
echo 5A46083062 >strings/0x409/serialnumber; echo 'USB Single Serial' >strings/0x409/product
ln -s functions/acm.0 configs/c.1/ 2>/dev/null
echo dummy_udc.0 >UDC
"""


def test_the_bus_board_gets_its_names(emulated: Rig) -> None:
    """A gadget with the ids of an SO-101's board, on the kernel's dummy USB host."""
    run = emulated.machine.run
    run(GADGET, 60)
    try:
        emulated.machine.wait("test -e /dev/vlad-bus-5A46083062", 30)
        device = run("readlink -f /dev/vlad-bus-5A46083062")
        assert device.startswith("/dev/ttyACM")
        told = run(f"udevadm info -q property -n {device}").splitlines()
        assert "ID_MM_DEVICE_IGNORE=1" in told, "ModemManager would write to the servos"
        assert "ID_SERIAL_SHORT=5A46083062" in told
        assert run(f"stat -c '%G %a' {device}") == "dialout 660"
        assert run("systemctl is-active 'dev-vlad\\x2dbus\\x2d5A46083062.device'") == "active"
        usb = run(f"dirname $(readlink -f /sys/class/tty/{Path(device).name}/device)")
        assert run(f"cat {usb}/power/control") == "on"
    finally:
        emulated.machine.attempt("echo >/sys/kernel/config/usb_gadget/board/UDC; udevadm settle")
    emulated.machine.wait("! test -e /dev/vlad-bus-5A46083062", 30)


def test_power_cuts(prepared: None, tmp_path: Path) -> None:
    """VLAD_POWER_CUTS times: the machine boots, starts vlad by itself, disengaged, with the arm where it was;
    it is cut off at a random moment of loading or engaging. The disk is the same all the time."""
    if "emulated" not in os.environ.get("VLAD_MACHINES", "emulated").split():
        pytest.skip("not asked for by VLAD_MACHINES")
    rng = random.Random(43)
    image = machine.disk(tmp_path)
    with simulator.running(tmp_path, "--no-cameras") as sim:
        for cut in range(CUTS + 1):
            where = sim.command("status") if cut else None
            with machine.emulated(tmp_path, sim, image) as booted:
                rig = Rig(booted, sim, tmp_path)
                if where is None:
                    rig.reset()
                    booted.run("systemctl enable --now vlad; echo vivid >/etc/modules-load.d/vivid.conf; "
                               "echo options vivid n_devs=1 node_types=0x1 >/etc/modprobe.d/vivid.conf; sync", 60)
                booted.wait("systemctl is-active -q vlad", 60)
                assert rig.status()["mode"] in ("ready", "holding"), "it engaged itself"
                if where is not None and all(where["torque"].values()):
                    rig.still_at(where["ticks"])
                if cut == CUTS:
                    rig.move()  # after all of them it works
                    break
                _cut_at_random(rig, rng)
            _at_rest(rig)
            checked = subprocess.run(["qemu-img", "check", "-q", str(image)], check=False)
            assert checked.returncode == 0
        assert rig.wire().ok, rig.wire().violations
    print(f"{CUTS} power cuts")


def _cut_at_random(rig: Rig, rng: random.Random) -> None:
    """Starts loading, and engaging after that, in the background; cuts within what both take."""
    rig.machine.run(f"(vladctl load /var/lib/vlad/sweep.vlad && vladctl task '{TASK}' && vladctl engage) "
                    ">/dev/null 2>&1 &")
    time.sleep(rng.uniform(0.0, 8.0 * rig.machine.slow))
    rig.machine.cut()


def _at_rest(rig: Rig) -> None:
    """A cut arm: the servos have reached their last goal and stand."""
    time.sleep(1.0)
    before = rig.arm()
    time.sleep(0.5)
    after = rig.arm()
    moved = {n: after["ticks"][n] - at for n, at in before["ticks"].items() if abs(after["ticks"][n] - at) > 12}
    assert not moved, f"moves without a machine: {moved}"
    assert before["goals"] == after["goals"]
