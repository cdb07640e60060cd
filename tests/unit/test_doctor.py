"""`vlad doctor` on machines that are directories."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

from tests import daemons
from tests.pty_servos import CALIBRATION, NAMES, PtyServos
from vlad import config as configuration
from vlad.cameras_command import Found, Mode
from vlad.config import Config
from vlad.config_keys import BoardKeys, CameraKeys
from vlad.doctor import bus, cameras, clocks, kernel, limits, memory, npu, thermal
from vlad.doctor.command import examine, main, printed
from vlad.doctor.finding import Finding
from vlad.doctor.root import Root, cpus, mask
from vlad.small_file import Unreadable

BOARD = {
    "/proc/sys/kernel/osrelease": "6.12.49-rt",
    "/proc/cmdline": "isolcpus=managed_irq,domain,5 irqaffinity=0-3",
    "/sys/kernel/realtime": "1",
    "/boot/config-6.12.49-rt": "CONFIG_HZ=250\nCONFIG_HIGH_RES_TIMERS=y\n# CONFIG_RT_GROUP_SCHED is not set\n",
    "/proc/sys/kernel/sched_rt_runtime_us": "950000",
    "/proc/sys/kernel/sched_rt_period_us": "1000000",
    "/sys/devices/system/cpu/online": "0-5",
    "/sys/devices/system/cpu/isolated": "5",
    "/sys/devices/system/cpu/cpufreq/policy0/scaling_governor": "performance",
    "/sys/devices/virtual/workqueue/cpumask": "10",
    "/proc/irq/default_smp_affinity": "0f",
    "/proc/pressure/memory": "some avg10=0.00",
    "/proc/meminfo": "MemTotal: 8000000 kB\nSwapTotal: 0 kB\nCmaTotal: 983040 kB\nCmaFree: 900000 kB",
    "/proc/self/limits": "Max locked memory  unlimited unlimited bytes\nMax realtime priority  80 80",
    "/sys/devices/system/clocksource/clocksource0/current_clocksource": "arch_sys_counter",
    "/sys/class/thermal/thermal_zone0/type": "a55-thermal",
    "/sys/class/thermal/thermal_zone0/temp": "51000",
    "/sys/class/thermal/thermal_zone0/trip_point_0_type": "passive",
    "/sys/class/thermal/thermal_zone0/trip_point_0_temp": "85000",
    "/dev/neutron0": "",
    "/usr/lib/libNeutronDriver.so": "Neutron Driver ver:3.0.0-0X6d41ac8b",
    "/usr/lib/firmware/NeutronFirmware.elf": "Neutron Firmware ver:3.0.0-0X6d41ac8b started",
}
DRIVER, FIRMWARE = "/usr/lib/libNeutronDriver.so", "/usr/lib/firmware/NeutronFirmware.elf"


def machine(directory: Path, changed: dict[str, str | None] | None = None) -> Root:
    """The board above, with files changed or (None) gone."""
    for name, text in {**BOARD, **(changed or {})}.items():
        path = directory / name.lstrip("/")
        if text is None:
            path.unlink(missing_ok=True)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return Root(directory)


def by_name(findings: Iterable[Finding]) -> dict[str, Finding]:
    found = list(findings)
    names = {finding.name: finding for finding in found}
    assert len(names) == len(found)
    return names


def test_a_board_as_it_should_be(tmp_path: Path) -> None:
    root = machine(tmp_path)
    found = [
        *kernel.examine(root, frozenset({5})), *limits.examine(root, 80, "fail"),
        *memory.examine(root, npu=True, neutron_provider=False), *npu.examine(root, DRIVER, FIRMWARE, wanted=True),
        *clocks.examine(root, lambda: [50.0] * 100),
        *thermal.examine(root, BoardKeys(thermal_zone="/sys/class/thermal/thermal_zone0/temp")),
    ]
    assert {f.verdict for f in found if f.name != "sleep"} == {"ok"}, printed(found, 120)
    assert len(found) > 15


@pytest.mark.parametrize(("changed", "name", "expected"), [
    ({"/sys/kernel/realtime": None}, "preemption", ("warn", "not PREEMPT_RT", "linux-image-rt")),
    ({"/boot/config-6.12.49-rt": "CONFIG_HZ=100\n"}, "timers", ("fail", "HZ=100", "HIGH_RES_TIMERS")),
    ({"/boot/config-6.12.49-rt": None}, "timers", ("unknown", "can be read", "")),
    ({"/boot/config-6.12.49-rt": "CONFIG_RT_GROUP_SCHED=y\n"}, "rt groups", ("warn", "is on", "rt_group_sched=0")),
    ({"/boot/config-6.12.49-rt": "CONFIG_RT_GROUP_SCHED=y\n", "/proc/cmdline": "quiet rt_group_sched=0"},
     "rt groups", ("ok", "off", "")),
    ({"/proc/sys/kernel/sched_rt_runtime_us": "-1"}, "rt throttling", ("warn", "off", "950000")),
    ({"/sys/devices/system/cpu/cpufreq/policy0/scaling_governor": "ondemand"}, "governor", ("warn",
     "policy0: ondemand", "echo performance > /sys/devices/system/cpu/cpufreq/policy0/scaling_governor")),
    ({"/sys/devices/system/cpu/isolated": ""}, "isolated cores", ("warn", "core 5", "isolcpus=managed_irq,domain,5")),
    ({"/sys/devices/system/cpu/online": "0-3"}, "isolated cores", ("fail", "core 5 is not online", "name a core")),
    ({"/sys/devices/virtual/workqueue/cpumask": "3f"}, "workqueues", ("warn", "core 5", "echo 1f > ")),
    ({"/sys/devices/virtual/workqueue/cpumask": "x"}, "workqueues", ("unknown", "no mask", "")),
    ({"/proc/irq/default_smp_affinity": "3f"}, "interrupts", ("warn", "core 5", "irqaffinity=0,1,2,3,4")),
    ({"/proc/pressure/memory": None}, "pressure", ("warn", "fault 35", "CONFIG_PSI")),
])
def test_kernel(tmp_path: Path, changed: dict[str, str | None], name: str, expected: tuple[str, str, str]) -> None:
    verdict, said, remedy = expected
    finding = by_name(kernel.examine(machine(tmp_path, changed), frozenset({5})))[name]
    assert finding.verdict == verdict, finding
    assert said in finding.found
    assert remedy in finding.remedy
    assert bool(finding.remedy) == (verdict in ("warn", "fail"))


def test_kernel_options_of_proc(tmp_path: Path) -> None:
    root = machine(tmp_path)
    (tmp_path / "proc/config.gz").write_bytes(gzip.compress(b"CONFIG_HZ=1000\nCONFIG_HIGH_RES_TIMERS=y\n"))
    assert by_name(kernel.examine(root, frozenset()))["timers"].found == "high-resolution, HZ=1000"
    (tmp_path / "proc/config.gz").write_bytes(b"no gzip")
    assert "HZ=250" in by_name(kernel.examine(root, frozenset()))["timers"].found


def test_a_pc_without_a_core_for_the_loop(tmp_path: Path) -> None:
    root = machine(tmp_path)
    shutil.rmtree(tmp_path / "sys/devices/system/cpu/cpufreq")
    found = by_name(kernel.examine(root, frozenset()))
    assert found["isolated cores"].verdict == found["governor"].verdict == "note"
    assert "workqueues" not in found


def test_lists_and_masks_of_cores() -> None:
    assert cpus("0-2,5") == {0, 1, 2, 5}
    assert cpus("") == set()
    assert mask("1,00000001") == {0, 32}
    for bad in ("a", "1-", "0-x"):
        with pytest.raises(Unreadable):
            cpus(bad)


LIMITS = "Max locked memory  {} {} bytes\nMax realtime priority  {} {}"


@pytest.mark.parametrize(("files", "where", "verdicts"), [
    ({"/proc/self/limits": LIMITS.format(65536, 65536, 0, 0)}, "of this shell", ("fail", "fail")),
    ({"/proc/self/limits": LIMITS.format(65536, 65536, 0, 0),
      "/usr/lib/systemd/system/vlad.service": "LimitRTPRIO=98\nLimitMEMLOCK=infinity"},
     "by /usr/lib/systemd/system/vlad.service", ("ok", "ok")),
    ({"/usr/lib/systemd/system/vlad.service": "LimitRTPRIO=98\nLimitMEMLOCK=infinity",
      "/etc/systemd/system/vlad.service": "LimitRTPRIO=50"}, "by /etc/systemd/system/vlad.service", ("fail", "fail")),
    ({"/proc/77/cmdline": "/opt/vlad/bin/python\0/usr/local/bin/vlad\0run\0--config\0x\0",
      "/proc/77/limits": LIMITS.format("unlimited", "unlimited", 98, 98),
      "/proc/78/cmdline": "vi\0run\0"}, "of the running daemon (process 77)", ("ok", "ok")),
])
def test_limits(tmp_path: Path, files: dict[str, str | None], where: str, verdicts: Sequence[str]) -> None:
    found = by_name(limits.examine(machine(tmp_path, files), 80, "fail"))
    assert (found["real time"].verdict, found["locked memory"].verdict) == tuple(verdicts)
    assert all(where in finding.found for finding in found.values())


def test_memory_and_npu(tmp_path: Path) -> None:
    root = machine(tmp_path, {"/proc/meminfo": "SwapTotal: 2048 kB\nCmaTotal: 32768 kB\nCmaFree: 10 kB"})
    found = by_name(memory.examine(root, npu=True, neutron_provider=False))
    assert (found["cma"].verdict, found["swap"].verdict) == ("fail", "note")
    assert by_name(memory.examine(machine(tmp_path), npu=True, neutron_provider=True))["cma"].verdict == "fail", "2 GiB"
    assert "cma" not in by_name(memory.examine(root, npu=False, neutron_provider=False))


@pytest.mark.parametrize(("changed", "name", "verdict", "said"), [
    ({"/dev/neutron0": None, "/sys/class/neutron/neutron0": ""}, "node", "fail", "firmware did not start"),
    ({"/dev/neutron0": None}, "node", "fail", "there is no /dev/neutron0"),
    ({FIRMWARE: "Neutron Firmware ver:3.1.1-0Xaaaaaaaa"}, "versions", "fail", "firmware 3.1.1+0xaaaaaaaa"),
    ({FIRMWARE: None}, "versions", "fail", "No such file"),
    ({FIRMWARE: "elf"}, "versions", "unknown", "no version"),
])
def test_npu(tmp_path: Path, changed: dict[str, str | None], name: str, verdict: str, said: str) -> None:
    finding = by_name(npu.examine(machine(tmp_path, changed), DRIVER, FIRMWARE, wanted=True))[name]
    assert finding.verdict == verdict
    assert said in finding.found


def test_no_npu_is_no_fault_of_a_pc(tmp_path: Path) -> None:
    root = machine(tmp_path, {"/dev/neutron0": None})
    assert [f.verdict for f in npu.examine(root, DRIVER, FIRMWARE, wanted=False)] == ["note"]


# --- cameras ------------------------------------------------------------------------------------

USB = "/sys/devices/platform/usb1"


def with_cameras(directory: Path, count: int, speed: str = "480") -> Root:
    root = machine(directory, {f"{USB}/speed": speed} | {f"/dev/video{n}": "" for n in range(count)})
    for n in range(count):
        interface = directory / f"{USB}/1-{n}/1-{n}:1.0".lstrip("/")
        interface.mkdir(parents=True)
        node = directory / f"sys/class/video4linux/video{n}"
        node.mkdir(parents=True)
        (node / "device").symlink_to(interface)
        link = directory / f"dev/video-cam{n}"
        link.symlink_to(f"video{n}")
    return root


def keys(count: int, **more: object) -> tuple[CameraKeys, ...]:
    return tuple(CameraKeys(name=f"cam{n}", source=f"/dev/video-cam{n}", **more) for n in range(count))  # type: ignore[arg-type]


def webcam(node: str) -> Found:
    return Found(node, "a webcam", node=node, modes=(
        Mode("MJPG", 640, 480, (30.0, 15.0)), Mode("YUYV", 640, 480, (30.0,)), Mode("YUYV", 320, 240)))


def test_three_cameras_fit_as_mjpg_and_not_as_yuyv(tmp_path: Path) -> None:
    root = with_cameras(tmp_path, 3)
    found = by_name(cameras.examine(root, keys(3), webcam))
    assert {f.verdict for f in found.values()} == {"ok"}
    assert "= 28 Mbit/s, of 384" in found["bandwidth usb1"].found
    found = by_name(cameras.examine(root, keys(3, format="YUYV"), webcam))
    assert found["bandwidth usb1"].verdict == "fail"
    assert "147 + cam1 147 + cam2 147 = 442 Mbit/s" in found["bandwidth usb1"].found
    assert "MJPG" in found["bandwidth usb1"].remedy
    (directory := tmp_path / "fast").mkdir()
    assert by_name(cameras.examine(with_cameras(directory, 3, "5000"), keys(3, format="YUYV"), webcam))[
        "bandwidth usb1"].verdict == "ok"


@pytest.mark.parametrize(("more", "verdict", "said"), [
    ({"fps": 60.0}, "fail", "fps = 15 or 30"), ({"width": 800}, "fail", "MJPG 640x480"), ({"fps": 15.0}, "ok", ""),
    ({"format": "YUYV", "width": 320, "height": 240, "fps": 9.0}, "ok", ""),  # it does not tell its rates
])
def test_formats(tmp_path: Path, more: dict[str, object], verdict: str, said: str) -> None:
    finding = by_name(cameras.examine(with_cameras(tmp_path, 1), keys(1, **more), webcam))["cam0"]
    assert finding.verdict == verdict
    assert said in finding.remedy


def test_a_camera_that_is_not_there(tmp_path: Path) -> None:
    root = with_cameras(tmp_path, 1)
    found = by_name(cameras.examine(root, (*keys(2), CameraKeys(name="sim", source="shm:none")), webcam))
    assert (found["cam1"].verdict, found["sim"].verdict) == ("fail", "fail")
    assert by_name(cameras.examine(root, keys(1), lambda node: None))["cam0"].verdict == "fail"
    told = by_name(cameras.examine(root, keys(1), lambda node: Found(node, "card", note="needs linuxpy")))["cam0"]
    assert (told.verdict, told.found) == ("unknown", "card: needs linuxpy")


# --- heat and time ------------------------------------------------------------------------------

def test_thermal(tmp_path: Path) -> None:
    zone = "/sys/class/thermal/thermal_zone0"
    found = by_name(thermal.examine(machine(tmp_path, {f"{zone}/temp": "78000"}), BoardKeys()))
    assert found["thermal_zone0"].verdict == "warn"
    assert found["watched"].remedy == f'thermal_zone = "{zone}/temp"'
    found = by_name(thermal.examine(machine(tmp_path), BoardKeys(thermal_zone="/sys/none")))
    assert found["watched"].verdict == "fail"
    assert [f.verdict for f in thermal.examine(Root(tmp_path / "none"), BoardKeys())] == ["note"]


def test_clocks(tmp_path: Path) -> None:
    source = "/sys/devices/system/clocksource/clocksource0/current_clocksource"
    found = by_name(clocks.examine(machine(tmp_path, {source: "acpi_pm"}), lambda: [1.0, 2.0, 900.0]))
    assert found["source"].verdict == "warn"
    assert "2 us late in the middle, 900 us at worst of 3" in found["sleep"].found
    late = clocks.lateness_us()
    assert late == sorted(late) and len(late) == clocks.SLEEPS


# --- the bus ------------------------------------------------------------------------------------

@pytest.fixture
def servos(tmp_path: Path) -> Iterable[PtyServos]:
    made = PtyServos(tmp_path / "bus")
    yield made
    made.unplug()


def config(directory: Path) -> Config:
    calibration = {
        name: {"id": number, "drive_mode": 0, "homing_offset": offset, "range_min": low, "range_max": high}
        for name, (number, (offset, low, high)) in zip(NAMES, CALIBRATION.items(), strict=True)
    }
    (directory / "calibration.json").write_text(json.dumps(calibration))
    text = daemons.CONFIG.read_text().replace('"../vlad/sim/assets/calibration.json"', '"calibration.json"')
    text = text.replace("/tmp/vlad-sim", str(directory))
    (directory / "vlad.toml").write_text(text)
    return configuration.load(directory / "vlad.toml", machine=False)


def test_bus(tmp_path: Path, servos: PtyServos) -> None:
    for id in CALIBRATION:
        servos.registers[id][0:2] = bytes((3, 10))
    before = {id: bytes(registers) for id, registers in servos.registers.items()}
    found = by_name(bus.examine(Root(), config(tmp_path)))
    assert found["firmware"].found == "3.10 in all servos"
    assert {found[name].verdict for name in ("firmware", "calibration", "eeprom", "supply")} == {"ok"}
    assert "6 servos answer in" in found["latency"].found
    assert found["latency"].verdict in ("ok", "warn")  # a busy machine
    assert {id: bytes(registers) for id, registers in servos.registers.items()} == before, "something was written"
    assert not servos.sync_writes


def test_bus_that_is_not_as_it_should_be(tmp_path: Path, servos: PtyServos) -> None:
    servos.registers[2][0:2] = bytes((3, 9))
    servos.registers[3][21] = 32
    servos.registers[5][63] = 66
    servos.put(4, 9, 1000)
    found = by_name(bus.examine(Root(), config(tmp_path)))
    assert found["firmware"].verdict == "warn" and "shoulder_lift 3.9" in found["firmware"].found
    assert found["eeprom"].found == "elbow_flex (id 3): P 32 -> 16"
    assert found["calibration"].verdict == "fail" and "range_min is 1000" in found["calibration"].found
    assert "wrist_roll 66 C" in found["supply"].found


def test_silent_servo_and_port_in_use(tmp_path: Path, servos: PtyServos) -> None:
    settings = config(tmp_path)
    with bus.open_port(settings.arm.port):
        finding = by_name(bus.examine(Root(), settings))["servos"]
        assert finding.verdict == "note" and "in use" in finding.found
    servos.silent = {2}
    finding = by_name(bus.examine(Root(), settings))["servos"]
    assert finding.verdict == "fail" and "shoulder_lift (id 2)" in finding.found
    servos.unplug()
    assert by_name(bus.examine(Root(), settings))["port"].verdict == "fail"


def adapter(directory: Path, device: str, driver: str, **more: str) -> Root:
    attributes = {f"/sys/devices/if0/{name}": text for name, text in more.items()}
    root = machine(directory, {f"/dev/{device}": ""} | attributes)
    (directory / "sys/devices/if0").mkdir(parents=True, exist_ok=True)
    (directory / f"sys/drivers/{driver}").mkdir(parents=True)
    (directory / "sys/devices/if0/driver").symlink_to(directory / f"sys/drivers/{driver}")
    (directory / f"sys/class/tty/{device}").mkdir(parents=True)
    (directory / f"sys/class/tty/{device}/device").symlink_to(directory / "sys/devices/if0")
    return root


@pytest.mark.parametrize(("driver", "more", "verdict", "said"), [
    ("ftdi_sio", {"latency_timer": "16"}, "fail", "16 ms"),
    ("ftdi_sio", {}, "fail", "16 ms"),
    ("ftdi_sio", {"latency_timer": "1"}, "warn", "another device"),
    ("cdc_acm", {}, "warn", "another device"),
    ("fsl-lpuart", {}, "ok", "ttyLP2, fsl-lpuart"),
])
def test_adapter(tmp_path: Path, driver: str, more: dict[str, str], verdict: str, said: str) -> None:
    device = {"ftdi_sio": "ttyUSB0", "cdc_acm": "ttyACM0", "fsl-lpuart": "ttyLP2"}[driver]
    root = adapter(tmp_path, device, driver, **more)
    (finding,) = bus._adapter(root, f"/dev/{device}")
    assert finding.verdict == verdict and said in finding.found
    (tmp_path / "dev/vlad-bus").symlink_to(device)
    (finding,) = bus._adapter(root, "/dev/vlad-bus")
    assert finding.verdict == ("fail" if "16 ms" in said else "ok")


def test_two_boards_without_names(tmp_path: Path) -> None:
    root = machine(tmp_path)
    assert not list(bus.boards(root))
    for n in range(2):
        usb = tmp_path / f"sys/devices/usb1/1-{n}"
        (usb / f"1-{n}:1.0").mkdir(parents=True)
        for name, text in (("idVendor", "1a86"), ("idProduct", "55d3"), ("serial", f"5A{n}")):
            (usb / name).write_text(text + "\n")
        (tmp_path / f"sys/class/tty/ttyACM{n}").mkdir(parents=True)
        (tmp_path / f"sys/class/tty/ttyACM{n}/device").symlink_to(usb / f"1-{n}:1.0")
    (finding,) = bus.boards(root)
    assert finding.verdict == "warn"
    assert 'ENV{ID_SERIAL_SHORT}=="5A1"' in finding.remedy


# --- the command --------------------------------------------------------------------------------

def test_command(tmp_path: Path, servos: PtyServos, capsys: pytest.CaptureFixture[str]) -> None:
    config(tmp_path)
    status = main(["--config", str(tmp_path / "vlad.toml"), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert {f["area"] for f in found} >= {"configuration", "kernel", "limits", "memory", "npu", "cameras", "bus",
                                         "clocks", "thermal"}
    assert status == 1, "its cameras are not there"
    assert all(f["remedy"] for f in found if f["verdict"] in ("warn", "fail"))
    main(["--config", str(tmp_path / "vlad.toml")])
    out = capsys.readouterr().out
    assert "  FAIL    top: no /dev/shm/vlad-sim-top" in out and "-> start `vlad sim`" in out


def test_command_with_a_wrong_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "vlad.toml").write_text("[amr]\n")
    assert main(["--config", str(tmp_path / "vlad.toml"), "--json"]) == 1
    assert "amr: unknown key; did you mean camera or arm?" in json.loads(capsys.readouterr().out)[0]["found"]


def test_a_machine_that_says_nothing(tmp_path: Path) -> None:
    found = list(examine(Root(tmp_path), None))
    assert {"unknown"} <= {f.verdict for f in found} <= {"unknown", "note", "warn", "ok"}
