"""`vlad record`."""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlad import argument_types, config, log
from vlad.arm import Calibration, read_calibration
from vlad.dataset.writer import MIN_FREE_BYTES, DatasetWriter
from vlad.errors import ConfigError, VladError
from vlad.metrics_listener import address
from vlad.record.bus_rig import BusRig
from vlad.record.keyboard import Keyboard
from vlad.record.leader import Leader
from vlad.record.rig import Rig, Teleoperator
from vlad.record.session import Nobody, Operator, Plan, Session
from vlad.servo import now_ns
from vlad.terminal import Terminal


class TerminalOperator:
    """The keys of a terminal: the recording's own, and those that jog."""

    def __init__(self, terminal: Terminal, keyboard: Keyboard | None) -> None:
        self._terminal, self._keyboard = terminal, keyboard

    def poll(self) -> list[str]:
        keys = self._terminal.keys()
        if self._keyboard is not None:
            if self._terminal.gone:
                self._keyboard.lost()
            keys = [key for key in keys if not self._keyboard.press(key, now_ns())]
        return keys


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="vlad record",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Record episodes as a LeRobot dataset v3.0.",
        epilog="keys: Enter ends an episode as a success, Backspace as a failure, the right arrow with --label;\n"
        "the left arrow records it again, Esc stops. docs/record.md says more.",
    )
    p.add_argument("--config", metavar="FILE", help="the arm, its cameras, its limits: the daemon's TOML")
    p.add_argument("--teleop", required=True, metavar="WHO",
                   help="leader:PORT (a second arm), keyboard, or expert (in simulation)")  # fmt: skip
    p.add_argument("--leader-calibration", metavar="FILE", help="LeRobot's JSON of the leader arm")
    p.add_argument("--root", required=True, type=Path, metavar="DIR", help="the data set: a new directory")
    p.add_argument("--resume", action="store_true", help="add to the data set that is there")
    p.add_argument("--single-task", "--task", required=True, metavar="TEXT", help="what is done, in words")
    p.add_argument("--num-episodes", type=argument_types.count, default=50, metavar="N")
    p.add_argument("--fps", type=argument_types.count, default=30, metavar="N", help="frames a second (30)")
    p.add_argument("--episode-time-s", type=argument_types.seconds, default=60.0, metavar="S", help="at most (60)")
    p.add_argument("--reset-time-s", type=float, default=60.0, metavar="S", help="between episodes, at most (60)")
    p.add_argument("--label", choices=("success", "failure"),
                   help="of an episode that ends without one; else the operator is asked")  # fmt: skip
    p.add_argument("--cameras", type=argument_types.names, default=(), metavar="NAMES",
                   help="those to record, which are all that the policy will see (all)")  # fmt: skip
    p.add_argument("--preview", metavar="ADDRESS", help="show the recorded cameras to a browser, as 127.0.0.1:8088")
    p.add_argument("--min-free-mib", type=int, default=MIN_FREE_BYTES >> 20, metavar="N",
                   help="with less than this free on the disk nothing is recorded (1024)")  # fmt: skip
    simulated = p.add_argument_group("--teleop expert: the simulated task (docs/simulator.md)")
    simulated.add_argument("--seed", type=int, default=0, metavar="N", help="of starts, misses and variation")
    simulated.add_argument("--clusters", type=argument_types.numbers, default=(), metavar="N,N",
                           help="where the tea bag lies, in turn (all but the held-out one)")  # fmt: skip
    simulated.add_argument("--recovery-share", type=float, default=0.2, metavar="P",
                           help="of episodes that begin with a miss (0.2)")  # fmt: skip
    simulated.add_argument("--variation", action="store_true", help="vary light, colours, cameras and friction")
    simulated.add_argument("--width", type=argument_types.count, default=160, help="of the pictures (160)")
    simulated.add_argument("--height", type=argument_types.count, default=120, help="of the pictures (120)")
    p.add_argument("--json", action="store_true", help="the summary as JSON on stdout")
    return p


def main(argv: Sequence[str]) -> int:
    """Exit codes: 0 recorded, 1 it ended early (stderr says why; whole episodes stay), 2 usage, 78 configuration."""
    usage = parser()
    arguments = usage.parse_args(argv)
    if not arguments.single_task.strip():
        usage.error("--single-task: what is done, in words; a policy is told the same")
    if not 0 <= arguments.reset_time_s <= 86400:
        usage.error("--reset-time-s: 0 to 86400")
    if not 0 <= arguments.recovery_share <= 1 or arguments.seed < 0:
        usage.error("--recovery-share: 0 to 1; --seed: 0 or more")
    if arguments.preview:
        try:
            address(arguments.preview)
        except ValueError as error:
            usage.error(f"--preview: {error}")
    writer_of_log = log.start("warning")
    try:
        return _record(arguments)
    except ConfigError as error:
        print(f"vlad record: {error}", file=sys.stderr)
        return config.EXIT_CONFIG
    finally:
        writer_of_log.stop()


def _record(arguments: argparse.Namespace) -> int:
    rig, teleoperator, calibrations, about = _open(arguments)
    live_keys = rig.live and sys.stdin.isatty()
    if rig.live and not live_keys and arguments.label is None:
        raise ConfigError("stdin is no terminal, so nobody can say whether an episode was a success: give --label")
    if isinstance(teleoperator, Keyboard) and not live_keys:
        raise ConfigError("--teleop keyboard needs a terminal on stdin")
    plan = Plan(arguments.single_task.strip(), arguments.num_episodes, arguments.episode_time_s,
                arguments.reset_time_s, arguments.label)  # fmt: skip
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends like Ctrl-C: the arm holds
    signal.signal(signal.SIGHUP, signal.default_int_handler)
    with contextlib.ExitStack() as stack:
        writer = stack.enter_context(DatasetWriter(
            arguments.root, rig.fps, [joint.name for joint in rig.joints], rig.cameras, robot_type=rig.robot_type,
            resume=arguments.resume, calibrations=calibrations, about=about,
            min_free_bytes=arguments.min_free_mib << 20,
        ))  # fmt: skip
        stack.callback(rig.close)
        stack.callback(teleoperator.close)
        operator: Operator = Nobody()
        if live_keys:
            keyboard = teleoperator if isinstance(teleoperator, Keyboard) else None
            operator = TerminalOperator(stack.enter_context(Terminal()), keyboard)
        session = _watched(stack, arguments, rig=rig, teleoperator=teleoperator, writer=writer, plan=plan,
                           operator=operator)  # fmt: skip
        problem = ""
        try:
            session.run()
        except VladError as error:
            problem = str(error)
        except KeyboardInterrupt:
            problem = "interrupted"
        summary = {
            "root": str(arguments.root), "episodes": session.done, **session.saved, "dropped": session.dropped,
            "total_episodes": writer.episodes, "total_frames": writer.frames, "problem": problem, **rig.report(),
        }  # fmt: skip
    _tell(summary, arguments.json)
    return 1 if problem else 0


def _watched(
    stack: contextlib.ExitStack, arguments: argparse.Namespace, *, rig: Rig, teleoperator: Teleoperator,
    writer: DatasetWriter, plan: Plan, operator: Operator,
) -> Session:  # fmt: skip
    """The session with a screen, and a preview where one is asked for."""
    from vlad.record.preview import Preview
    from vlad.record.screen import Screen

    help_line = teleoperator.help if isinstance(teleoperator, Keyboard) else ""
    preview: Preview | None = None
    if arguments.preview:
        try:
            preview = Preview(arguments.preview)
        except OSError as error:
            raise ConfigError(f"--preview {arguments.preview}: {error.strerror}") from error
        stack.callback(preview.close)
        print(f"preview: {preview.url}", file=sys.stderr)
    screen = stack.enter_context(Screen(help_line))

    def watch(pictures: Mapping[str, NDArray[np.uint8]]) -> None:
        screen.show(session)
        if preview is not None:
            preview.show(pictures)

    session = Session(rig, teleoperator, writer, plan, operator=operator, watch=watch)
    return session


def _open(
    arguments: argparse.Namespace,
) -> tuple[Rig, Teleoperator, dict[str, dict[str, Calibration]], dict[str, Any]]:
    """What --config and --teleop name; the calibrations that go with the data set, and what to note of them."""
    kind, _, port = arguments.teleop.partition(":")
    about: dict[str, Any] = {"teleop": kind}
    if kind == "expert":
        from vlad.sim.environment_rig import open_environment  # an extra: a board records without it

        environment, expert = open_environment(arguments)
        return environment, expert, {"follower": {j.name: j.calibration for j in environment.joints}}, about
    if arguments.config is None:
        raise ConfigError("--config: which arm? Give the daemon's configuration, for instance configs/so101.toml")
    settings = config.load(arguments.config)
    about["config"] = settings.path.read_text("utf-8", "replace")
    rig: Rig = BusRig(settings, arguments.fps, arguments.cameras)
    calibrations = {"follower": {j.name: j.calibration for j in settings.joints}}
    if kind == "keyboard" and not port:
        return rig, Keyboard(settings.joints), calibrations, about
    if kind == "leader" and port:
        if arguments.leader_calibration is None:
            raise ConfigError("--leader-calibration: the JSON file that LeRobot or `vlad calibrate` wrote of it")
        calibrations["leader"] = read_calibration(Path(arguments.leader_calibration))
        leader = Leader(port, calibrations["leader"], settings.joints, settings.arm.baud)
        return rig, leader, calibrations, about
    raise ConfigError(f"--teleop {arguments.teleop}: leader:PORT, keyboard or expert")


def _tell(summary: dict[str, Any], as_json: bool) -> None:
    if summary["problem"]:
        kept = f"{summary['total_episodes']} whole episodes are kept"
        print(f"vlad record: {summary['problem']}; {kept}", file=sys.stderr)
    if as_json:
        print(json.dumps(summary))
    elif not summary["problem"]:
        print(f"{summary['root']}: {summary['episodes']} episodes more ({summary['success']} successes, "
              f"{summary['failure']} failures), {summary['total_episodes']} in all, "
              f"{summary['total_frames']} frames")  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
