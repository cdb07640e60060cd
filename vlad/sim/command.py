"""`vlad sim`: the simulated robot as a program."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from pathlib import Path

from vlad.errors import ConfigError, VladError
from vlad.sim.settings import Settings, read_config
from vlad.sim.world import CAMERAS

EX_CONFIG = 78


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="vlad sim",
        description="A simulated SO-101 arm: a pty that speaks the Feetech protocol, three cameras "
        "in shared memory. Prints READY when both are up.",
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument(
        "--config", metavar="FILE", help="the daemon's TOML, or one with a [sim] table"
    )
    parser.add_argument("--bus", metavar="PATH", help="symbolic link to the pty")
    parser.add_argument("--calibration", metavar="FILE", help="LeRobot's JSON for the EEPROM")
    parser.add_argument("--seed", type=int, metavar="N", help="start positions, random faults")
    parser.add_argument("--record", metavar="FILE", help="every packet, one JSON object per line")
    parser.add_argument("--faults", metavar="ADDRESS", help="Unix socket of the fault port")
    parser.add_argument("--no-cameras", dest="cameras", action="store_false", help="bus only")
    parser.add_argument("--camera-prefix", metavar="NAME", help="frames are shm:NAME-<camera>")
    parser.add_argument("--width", type=int, help="of the pictures, pixels")
    parser.add_argument("--height", type=int, help="of the pictures, pixels")
    parser.add_argument("--fps", type=float, help="of the cameras, 1/s")
    parser.add_argument("--duration", type=float, metavar="S", help="end by itself after S seconds")
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    """Run until SIGTERM, SIGINT or the end of --duration.

    Args:
        argv: the words after `vlad sim`.

    Returns:
        0; 1 when something failed on the way; 78 (EX_CONFIG) when it could not start.
    """
    options = vars(_arguments(argv))
    config = options.pop("config", None)
    duration_s = options.pop("duration", None)
    ending = False

    def end(_signal: int, _frame: object) -> None:
        nonlocal ending
        ending = True

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    try:
        if duration_s is not None and not duration_s > 0:
            raise ConfigError(f"--duration: must be above 0 s, is {duration_s}")
        settings = Settings(**{**(read_config(Path(config)) if config else {}), **options})
        from vlad.sim.robot import Robot

        robot = Robot(settings)
    except ConfigError as error:
        print(f"vlad sim: {error}", file=sys.stderr)
        return EX_CONFIG
    try:
        robot.start_clock()
        while not ending and not robot.ready():
            robot.turn()
        shown = ",".join(f"shm:{settings.camera_prefix}-{c}" for c in CAMERAS)
        if not ending:
            print(f"READY bus={settings.bus} cameras={shown if settings.cameras else ''}")
            sys.stdout.flush()
        ends_ns = time.monotonic_ns() + int(duration_s * 1e9) if duration_s else None
        while not ending and (ends_ns is None or time.monotonic_ns() < ends_ns):
            robot.turn()
        print(json.dumps(robot.report()), file=sys.stderr)
    except VladError as error:
        print(f"vlad sim: {error}", file=sys.stderr)
        return 1
    finally:
        robot.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
