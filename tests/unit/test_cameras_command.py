"""`vlad cameras` on what a machine without cameras has: simulated ones, and usage errors."""

from __future__ import annotations

import json
import os
import struct
import threading
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.test_camera import HEIGHT, WIDTH, Writer
from vlad import cameras_command
from vlad.cameras_command import Found, Mode, best_mode, find_rings, stable_name
from vlad.config_keys import CameraKeys


@pytest.fixture
def writer() -> Iterator[Writer]:
    path = f"/dev/shm/vlad-test-command-{os.getpid()}"
    yield Writer(path)
    os.unlink(path)


def source_of(writer: Writer) -> str:
    return "shm:" + os.path.basename(writer.path)


def test_the_list_has_the_simulated_camera(
    writer: Writer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cameras_command.main(["--json"]) == 0
    found = {camera["source"]: camera for camera in json.loads(capsys.readouterr().out)}
    camera = found[source_of(writer)]
    assert camera["modes"] == [{"format": "RGB", "width": WIDTH, "height": HEIGHT, "fps": []}]
    assert cameras_command.main([]) == 0
    assert f"{source_of(writer)}\n    simulated camera\n    RGB 32x24\n" in capsys.readouterr().out


def test_rings_are_told_from_other_files(tmp_path: Path) -> None:
    (tmp_path / "noise").write_bytes(os.urandom(100))
    (tmp_path / "short").write_bytes(b"VLADFRM1")
    (tmp_path / "cut").write_bytes(struct.pack("<8s4IQ", b"VLADFRM1", 32, 24, 3, 4, 0) + bytes(64))
    (tmp_path / "directory").mkdir()
    assert find_rings(str(tmp_path)) == []


def test_the_entry_is_what_the_configuration_reads(
    writer: Writer, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--source", source_of(writer), "--name", "top", "--fps", "15"]
    assert cameras_command.main(arguments) == 0
    (table,) = tomllib.loads(capsys.readouterr().out)["camera"]
    assert table == {
        "name": "top",
        "source": source_of(writer),
        "width": WIDTH,
        "height": HEIGHT,
        "fps": 15,
    }
    assert set(table) <= set(CameraKeys.__struct_fields__)


def test_preview_saves_a_picture(
    writer: Writer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = threading.Event()

    def write() -> None:
        while not ended.wait(0.001):
            writer.publish(1, fill=200)

    thread = threading.Thread(target=write)
    thread.start()
    file = tmp_path / "top.jpg"
    try:
        assert cameras_command.main(["--source", source_of(writer), "--preview", str(file)]) == 0
    finally:
        ended.set()
        thread.join()
    import simplejpeg

    image = simplejpeg.decode_jpeg(file.read_bytes())
    assert image.shape == (HEIGHT, WIDTH, 3)
    assert abs(image.mean() - 200) < 2
    assert "mean 200" in capsys.readouterr().err


@pytest.mark.parametrize("source", ["shm:vlad-test-none", "/dev/vlad-none", "usb:1"])
def test_a_failing_camera_is_exit_1(
    source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "x.jpg"
    assert cameras_command.main(["--source", source, "--preview", str(file)]) == 1
    assert capsys.readouterr().err.startswith("vlad cameras: camera ")
    assert not file.exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--name", "top"],
        ["--preview", "x.jpg"],
        ["--source", "shm:x", "--preview", "x.png"],
        ["--format", "H264"],
        ["stray"],
    ],
)
def test_usage_is_exit_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cameras_command.main(arguments)
    assert caught.value.code == 2


def test_best_mode_prefers_mjpg_near_vga() -> None:
    modes = (
        Mode("H264", 640, 480),
        Mode("YUYV", 640, 480),
        Mode("MJPG", 1920, 1080),
        Mode("MJPG", 800, 600),
    )
    camera = Found("/dev/v4l/by-path/x", "webcam", node="/dev/video0", modes=modes)
    assert best_mode([camera], "/dev/video0") == modes[3]
    assert best_mode([camera], "/dev/v4l/by-path/x") == modes[3]
    assert best_mode([], "/dev/video0") == Mode("MJPG", 640, 480)


def test_by_path_names_are_preferred(tmp_path: Path) -> None:
    node = tmp_path / "video0"
    node.touch()
    links = tmp_path / "by-path"
    assert stable_name(str(node), str(links)) == str(node)
    links.mkdir()
    (links / "usb-1").symlink_to(node)
    assert stable_name(str(node), str(links)) == str(links / "usb-1")
