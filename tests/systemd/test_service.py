"""vlad.service under systemd as PID 1, installed from the wheel, with the simulated arm on its bus."""

from __future__ import annotations

import re
import time

import pytest

from tests.systemd.rig import Rig

MEMBER = "setpriv --reuid=stranger --regid=stranger --groups=vlad"
OPERATOR = "setpriv --reuid=stranger --regid=stranger --groups=vlad,vlad-operator"
STRANGER = "setpriv --reuid=stranger --regid=stranger --clear-groups"


def test_starts_and_is_ready(rig: Rig) -> None:
    rig.start()
    assert rig.show("ActiveState") == "active"
    assert rig.show("StatusText") == "test: ready"
    assert rig.machine.run("stat -c '%U:%G %a' /run/vlad /run/vlad/vlad.sock /var/lib/vlad").splitlines() == [
        "vlad:vlad 750", "vlad:vlad 660", "vlad:vlad 750"]
    status = rig.status()
    assert status["mode"] == "ready", "nobody engaged it"
    assert "arm_adopted" in rig.journal()


def test_one_thread_is_real_time(rig: Rig) -> None:
    rig.start()
    if not rig.realtime:
        pytest.skip("systemd has no CAP_SYS_RESOURCE here: it cannot raise LimitRTPRIO")
    said = rig.machine.run(
        "for t in /proc/$(systemctl show -P MainPID vlad)/task/*; do chrt -p ${t##*/} | head -1; done")
    policies = [line.rpartition(": ")[2] for line in said.splitlines()]
    assert len(policies) > 8
    assert [p for p in policies if p != "SCHED_OTHER"] == ["SCHED_FIFO|SCHED_RESET_ON_FORK"]


def test_the_running_sandbox(rig: Rig) -> None:
    rig.start()
    exposure = rig.machine.run("systemd-analyze security vlad | tail -1")
    found = re.search(r"vlad.service: ([\d.]+)", exposure)
    assert found and float(found[1]) <= 2.0, exposure
    status = rig.machine.run("cat /proc/$(systemctl show -P MainPID vlad)/status")
    assert re.search(r"^CapEff:\s+0+$", status, re.MULTILINE)
    assert re.search(r"^CapBnd:\s+0+$", status, re.MULTILINE)
    assert re.search(r"^NoNewPrivs:\s+1$", status, re.MULTILINE)
    assert re.search(r"^Seccomp:\s+2$", status, re.MULTILINE)


def test_who_may_ask_and_who_may_move(rig: Rig) -> None:
    rig.start()
    status, said = rig.machine.attempt(f"{MEMBER} vladctl status")
    assert status == 0, said
    assert "mode" in said
    status, said = rig.machine.attempt(f"{MEMBER} vladctl load /var/lib/vlad/sweep.vlad")
    assert status != 0
    assert "operator_groups" in said
    status, said = rig.machine.attempt(f"{OPERATOR} vladctl load /var/lib/vlad/sweep.vlad", 120)
    assert status == 0, said
    status, said = rig.machine.attempt(f"{STRANGER} vladctl status")
    assert status != 0
    assert "ermission" in said


def test_stop_in_motion_holds_the_arm(rig: Rig) -> None:
    rig.start()
    rig.move()
    rig.machine.run("systemctl stop vlad", 60)
    rig.held()
    assert rig.show("Result") == "success"
    assert "vlad-safe-stop: hold: goal kept:" in rig.journal()
    assert rig.wire().ok, rig.wire().violations


def test_a_daemon_that_stands_still_is_ended_and_started_again(rig: Rig) -> None:
    rig.keep_result()
    rig.start()
    rig.move()
    begin = time.monotonic()
    rig.machine.run("systemctl kill --kill-whom=main --signal=STOP vlad")
    where = rig.held()
    rig.machine.wait("test $(systemctl show -P NRestarts vlad) = 1 && systemctl is-active -q vlad", 60)
    took = time.monotonic() - begin
    rig.still_at(where)
    assert rig.status()["mode"] == "ready", "a restart adopts what the servos hold, and engages nothing"
    journal = rig.journal()
    assert rig.result() == "watchdog"
    assert "vlad-safe-stop: hold: goal kept:" in journal
    assert rig.wire().ok, rig.wire().violations
    print(f"{rig.machine.kind}: back {took:.1f} s after SIGSTOP")


def test_kill_9_in_motion(rig: Rig) -> None:
    rig.start()
    rig.move()
    rig.machine.run("systemctl kill --kill-whom=main --signal=KILL vlad")
    where = rig.held()
    rig.machine.wait("test $(systemctl show -P NRestarts vlad) = 1 && systemctl is-active -q vlad", 60)
    rig.still_at(where)
    assert rig.status()["mode"] == "ready"
    assert "vlad-safe-stop: hold: goal kept:" in rig.journal()
    assert rig.wire().ok, rig.wire().violations
    rig.move()  # and it works again
    assert rig.wire().ok


def test_a_crash_loop_ends_with_the_arm_held(rig: Rig) -> None:
    rig.drop_in("limit", "RestartSec=1")
    rig.machine.run("mkdir -p /etc/systemd/system/vlad.service.d")
    rig.write("/etc/systemd/system/vlad.service.d/interval.conf",
              f"[Unit]\nStartLimitIntervalSec={60 if rig.machine.slow == 1 else 600}")
    rig.reload()
    rig.start()
    rig.move()
    where = None
    for _ in range(10):
        if rig.show("ActiveState") == "failed":
            break
        rig.machine.run("systemctl kill --signal=KILL vlad || true")
        where = where or rig.held()
        rig.machine.wait("systemctl is-active -q vlad || systemctl is-failed -q vlad", 60)
    else:
        pytest.fail("never came to its limit")
    assert rig.show("NRestarts") == "3", "two restarts that ran, and one that was refused"
    time.sleep(3)
    assert rig.show("ActiveState") == "failed", "it stays down"
    assert where is not None
    rig.still_at(where)
    assert rig.wire().ok, rig.wire().violations


def test_a_wrong_configuration_is_not_tried_again(rig: Rig) -> None:
    rig.machine.run("sed -i 's/^profile/proflie/' /etc/vlad/vlad.toml")
    status, _ = rig.machine.attempt("systemctl start vlad", 60)
    assert status != 0
    time.sleep(2.5)
    assert rig.show("NRestarts") == "0"
    assert rig.show("ExecMainStatus") == "78"
    assert "board.proflie: unknown key; did you mean profile?" in rig.journal()


def test_a_full_disk_stops_no_arm(rig: Rig) -> None:
    rig.machine.run("mkdir -p /run/kept && cp -a /var/lib/vlad/. /run/kept/ && "
                    "mount -t tmpfs -o size=24m,mode=750,uid=vlad,gid=vlad tmpfs /var/lib/vlad && "
                    "cp -a /run/kept/. /var/lib/vlad/")
    try:
        rig.start()
        rig.move()
        rig.machine.attempt("dd if=/dev/zero of=/var/lib/vlad/filler bs=64k; rm -rf /run/kept", 60)
        rig.machine.wait("vladctl status | grep -q disk_full", 30)
        assert rig.moving() or rig.moving(), "the arm goes on"
        rig.machine.run("vladctl hold")
        status, said = rig.machine.attempt("vladctl load /var/lib/vlad/sweep.vlad", 60)
        assert status != 0
        assert "the disk is in trouble: /var/lib/vlad is full" in said or "is full" in said
        rig.machine.run("rm /var/lib/vlad/filler")
        rig.machine.wait("! vladctl status | grep -q disk_full", 30)
        rig.machine.wait("vladctl load /var/lib/vlad/sweep.vlad", 60)
        assert rig.show("NRestarts") == "0"
    finally:
        rig.machine.attempt("systemctl stop vlad; umount /var/lib/vlad; rm -rf /run/kept", 60)
    assert rig.wire().ok, rig.wire().violations


def test_the_flight_record_outlives_a_crash(rig: Rig) -> None:
    rig.start()
    rig.move()
    before = set(rig.machine.run("ls /var/lib/vlad/flight").split())
    rig.machine.run("systemctl kill --kill-whom=main --signal=SEGV vlad")
    rig.machine.wait("test $(systemctl show -P NRestarts vlad) = 1 && systemctl is-active -q vlad", 60)
    rig.machine.wait("ls /var/lib/vlad/flight/*-crash.mcap", 30)
    new = set(rig.machine.run("ls /var/lib/vlad/flight/").split()) - before
    assert any(name.endswith("-crash.mcap") for name in new), new
