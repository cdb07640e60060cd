"""Machines for the tests of this directory. Where one cannot be had, its tests are skipped and say why."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import simulator
from tests.systemd import machine
from tests.systemd.rig import Rig


def missing() -> str:
    """What this host lacks to make such machines; "" for nothing."""
    if os.geteuid() != 0:
        return "needs root, for namespaces and the ownership of a root tree"
    if os.uname().machine != "x86_64" or not Path("/etc/debian_version").exists():
        return "needs Debian on x86-64, whose packages become the machine"
    programs = ("qemu-system-x86_64", "qemu-img", "mke2fs", "busybox", "dpkg-deb", "unshare")
    lacking = [name for name in programs if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None]
    return f"needs {', '.join(lacking)}: `make systemd` installs them" if lacking else ""


@pytest.fixture(scope="session")
def prepared() -> None:
    """The root tree and the disk image, made anew where vlad has changed."""
    if why := missing():
        pytest.skip(why)
    done = subprocess.run([str(machine.HERE / "prepare.sh")], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.fail(f"tests/systemd/prepare.sh: {done.stderr[-3000:]}")


@pytest.fixture(scope="session", params=["namespaces", "emulated"])
def booted(request: pytest.FixtureRequest, prepared: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """A machine that runs, one of each kind for all tests."""
    if request.param not in os.environ.get("VLAD_MACHINES", "namespaces emulated").split():
        pytest.skip("not asked for by VLAD_MACHINES")
    directory = tmp_path_factory.mktemp(request.param)
    here = request.param == "namespaces"
    options = ["--width", "96", "--height", "96", "--fps", "10"] if here else ["--no-cameras"]
    with contextlib.ExitStack() as stack:
        sim = stack.enter_context(simulator.running(directory, *options))
        made = machine.namespaces(directory, sim) if here else (
            machine.emulated(directory, sim, machine.disk(directory)))
        yield Rig(stack.enter_context(made), sim, directory)


@pytest.fixture
def rig(booted: Rig) -> Iterator[Rig]:
    """The machine with a configured daemon that is not started and whose past is forgotten."""
    booted.reset()
    yield booted
    booted.machine.attempt("systemctl stop vlad", 60)
