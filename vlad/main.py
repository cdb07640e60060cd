"""`vlad`: the daemon and the workstation tools. `vladctl` (vlad/cli.py) talks to a running daemon."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

import vlad
from vlad.errors import ConfigError, VladError

# Verb -> module with main(argv) -> int, what it is for, and the extra it needs. Imported only when
# used: the daemon needs neither mujoco nor onnx.
TOOLS = {
    "build": ("vlad.build.command", "build a policy bundle from a LeRobot checkpoint", "build"),
    "quantize": ("vlad.quantize.command", "make a bundle smaller and faster, within measured error", "quantize"),
    "tflite": ("vlad.tflite.command", "write blocks as int8 .tflite, for an NPU", "build,quantize,litert"),
    "convert": ("vlad.tflite.convert", "have .tflite blocks compiled for a Neutron NPU", "build,quantize,litert"),
    "check": ("vlad.check", "verify a bundle: integrity, shapes, golden inputs and outputs", ""),
    "plan": ("vlad.plan.command", "will a policy fit a board, and what to change so that it does", "build,report"),
    "calibrate": ("vlad.calibrate", "compare an arm's calibration file with its servos; measure it anew", ""),
    "record": ("vlad.record.command", "record episodes as a LeRobot dataset, led by an arm or by keys", "record"),
    "sign": ("vlad.sign", "sign a bundle, or make a key to sign with", "sign"),
    "sim": ("vlad.sim.command", "the simulated robot: servo bus and cameras", "sim"),
    "demo": ("vlad.demo", "simulated robot + real daemon + shipped policy, with a report", "build,sim,report"),
    "eval": ("vlad.evaluation.command", "success rate of a policy on the simulated table", "build,sim,report"),
    "report": ("vlad.report", "one HTML page with the plots of a run", "report"),
    "replay": ("vlad.replay", "re-run the gate, the queue and the servo loop on a flight record", ""),
    "flight": ("vlad.flight_command", "list a flight record, or recover one after a crash", ""),
    "dataset": ("vlad.dataset.command", "check a recorded dataset before anything is trained on it", "dataset"),
    "doctor": ("vlad.doctor.command", "check kernel, limits, NPU, cameras, bus, clocks and heat; with remedies", ""),
    "train": ("vlad.train.command", "fine-tune a policy with LeRobot, and select it by success", "train"),
    "cameras": ("vlad.cameras_command", "find, name and preview cameras", "v4l2"),
}


def run_daemon(argv: Sequence[str]) -> int:
    """`vlad run`: what systemd starts. 0 after a stop, 1 after a fault, 78 for a bad configuration."""
    parser = argparse.ArgumentParser(prog="vlad run", description="Run the daemon.")
    parser.add_argument("--config", required=True, metavar="FILE", help="TOML configuration")
    parser.add_argument("--socket", metavar="PATH", help="control socket (overrides control.socket)")
    parser.add_argument("--mode", choices=("async", "sync"), help="overrides policy.mode")
    parser.add_argument("--workers", action="store_true", help="every block in a worker (overrides [block])")
    options = parser.parse_args(argv)

    from vlad import abi

    try:
        abi.check()  # before anything compiled is used
    except VladError as error:
        print(f"vlad run: {error}", file=sys.stderr)
        return 1

    from vlad import aside, config, daemon, log

    try:
        settings = config.load(options.config)
        if options.workers:
            settings = config.with_workers(settings)
    except ConfigError as error:
        print(f"vlad run: {error}", file=sys.stderr)
        return config.EXIT_CONFIG
    writer = log.start(settings.log.level)
    try:
        status = daemon.run(
            settings, mode=options.mode, socket=options.socket, log_counters=writer.counters
        )
    except ConfigError as error:
        print(f"vlad run: {error}", file=sys.stderr)
        status = config.EXIT_CONFIG
    except VladError as error:
        print(f"vlad run: {error}", file=sys.stderr)
        status = 1
    finally:
        writer.stop()
    if aside.left_behind():
        os._exit(status)
    return status


def main(argv: Sequence[str] | None = None) -> int:
    """Dispatches to a tool. Exit status 2 for wrong usage."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    verbs = "\n".join(f"  {name:9} {text}" for name, (_, text, _) in TOOLS.items())
    parser = argparse.ArgumentParser(
        prog="vlad",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Run a Vision-Language-Action policy on a robot arm's own board.",
        epilog=f"verbs:\n  run       the daemon\n{verbs}\n\n`vlad VERB --help` says more.",
    )
    parser.add_argument("--version", action="version", version=f"vlad {vlad.__version__}")
    parser.add_argument("verb", choices=["run", *TOOLS], metavar="VERB")
    verb = parser.parse_args(arguments[:1] or ["--help"]).verb
    if verb == "run":
        return run_daemon(arguments[1:])
    name, _, extra = TOOLS[verb]
    try:
        status = int(importlib.import_module(name).main(arguments[1:]))
        sys.stdout.flush()
        return status
    except ModuleNotFoundError as error:
        if not extra or (error.name or "").startswith("vlad"):
            raise
        print(f"vlad {verb}: needs {error.name}: pip install 'vlad[{extra}]'", file=sys.stderr)
        return 1
    except VladError as error:
        print(f"vlad {verb}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `vlad flight show FILE | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


if __name__ == "__main__":
    sys.exit(main())
