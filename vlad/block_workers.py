"""Blocks in child processes: each is a Session like any other, and is started, proved, watched and
restarted by a thread of its own.

A worker that crashes, answers nonsense or does not answer in time is killed, and the arm is held
(faults 7 and 8) until another one has computed again what the first one computed for the bundle's golden
inputs. It is restarted after 0.25 s, then twice as long each time up to 8 s; one that stayed up for a
minute starts from 0.25 s again. Three losses or failed restarts in a minute latch the fault.
"""

from __future__ import annotations

import math
import select
import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import structlog
from numpy.typing import NDArray

from vlad.backend import Arrays, PlacedSession, Placement, Threads, load_block
from vlad.block_process import COMMAND, BlockProcess, Setting
from vlad.bundle import Bundle
from vlad.config_keys import STAGE_OF_BLOCK, BlocksKeys, StagesKeys
from vlad.errors import BlockFailed, BlockFailure, BundleError
from vlad.faults import BY_NAME
from vlad.servo import MS, Servo, now_ns

BACKOFF_MIN_NS, BACKOFF_MAX_NS = 250 * MS, 8_000 * MS
SETTLED_NS = 60_000 * MS  # up for so long: the next restart is prompt again
TIMEOUT_MIN_NS = 500 * MS  # row 7
WARM_UP_CALLS = 2  # they take longer and say nothing of the next ones
WINDOW, JUDGED_EVERY = 256, 16  # calls behind the p99, and between two sorts of them
CLOSE_S = 5.0
TOLERANCE = 1e-3  # of the largest expected value, where a bundle has no golden values of its own
HUNG, FAILED = BY_NAME["inference_hung"].id, BY_NAME["inference_failed"].id

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class WorkerChange:
    """A worker was lost, could not be restarted, or is up again (closed: nobody needs it any more)."""

    t_ns: int
    block: str
    change: Literal["lost", "restart_failed", "up", "closed"]
    kind: BlockFailure
    why: str
    pid: int


class BlockWorker:
    """A Session in a child process. `run` has one caller at a time."""

    def __init__(
        self,
        bundle: Bundle,
        name: str,
        setting: Setting,
        *,
        timeout_ns: int | None,
        start_timeout_ns: int,
        on_change: Callable[[WorkerChange], None],
        command: Sequence[str] = COMMAND,
    ) -> None:
        """Begins to start the worker; `wait_up` says whether it did.

        timeout_ns: of a call; None: 3 x the p99 of the newest 256, at least 500 ms. start_timeout_ns: to
        load, and again for a first call. command: tests have workers that misbehave.
        """
        golden = bundle.manifest.golden
        self.name = name
        self._start: Callable[[], BlockProcess] = partial(
            BlockProcess, bundle.path, bundle.block(name), bundle.manifest.longest, setting, command
        )
        self._tolerance = golden.tolerance if golden is not None else TOLERANCE
        self._tolerances = golden.tolerances if golden is not None else {}  # of outputs that are golden ones too
        self._timeout_ns, self._start_timeout_ns = timeout_ns, start_timeout_ns
        self._on_change = on_change
        self._log = structlog.get_logger("vlad.worker").bind(block=name)
        self._lock = threading.Lock()
        self._settled = threading.Event()  # the first start has ended, well or badly
        self._closing = threading.Event()
        self._child: BlockProcess | None = None  # also while it starts
        self._process: BlockProcess | None = None  # the same, once it is up
        self._lost: BlockFailure | None = None  # what the last one was lost by, until another one is up
        self.placement: Placement = ()  # of the newest that was loaded
        self._proof: tuple[dict[str, Array], dict[str, Array]] | None = None
        self._failure = ""  # of the newest; the exception itself would keep its frames, and so the policy
        self._calls = self._restarts = 0
        self._p99_ns = 0
        self._failures: Counter[str] = Counter()
        self._took_ns: deque[int] = deque(maxlen=WINDOW)
        self._overhead_ns: deque[int] = deque(maxlen=WINDOW)
        self._keeper = threading.Thread(target=self._keep, name=f"vlad-keep-{name}", daemon=True)
        self._keeper.start()

    # --- the stage's side ---------------------------------------------------------------------

    def wait_up(self) -> None:
        """Waits for the first start. Raises BundleError when it failed; nothing is left running then."""
        self._settled.wait()
        if self._process is None:
            self.close()
            raise BundleError(f"block {self.name}: its worker did not start: {self._failure}")

    def run(self, inputs: Arrays) -> dict[str, Array]:
        """See Session. A worker that fails otherwise than by an error of its block is killed here and now."""
        process = self._process
        if process is None:
            raise BlockFailed(self.name, "absent", f"its worker is being restarted: {self._failure}")
        started = now_ns()
        try:
            answer = process.call(inputs, self.timeout_ns())
        except BlockFailed as error:
            self._lose(process, error)
            raise
        took = now_ns() - started
        self._calls += 1
        if self._calls > WARM_UP_CALLS:
            self._took_ns.append(took)
            self._overhead_ns.append(took - min(answer.compute_ns, took))
            if len(self._took_ns) < JUDGED_EVERY or self._calls % JUDGED_EVERY == 0:
                self._p99_ns = _quantile(self._took_ns, 0.99)
        if self._proof is None:
            self._proof = {name: np.array(value) for name, value in inputs.items()}, answer.outputs
        return answer.outputs

    def timeout_ns(self) -> int:
        """Of the next call. The first ones, at load, may take as long as a start."""
        if self._calls < WARM_UP_CALLS:
            return self._start_timeout_ns
        return self._timeout_ns or max(TIMEOUT_MIN_NS, 3 * self._p99_ns)

    def _lose(self, process: BlockProcess, error: BlockFailed) -> None:
        """Once for each process, whoever sees it first; an error of the block alone loses nothing."""
        with self._lock:
            if self._process is not process or self._closing.is_set():
                return
            self._failures[error.kind] += 1
            self._failure = str(error)
            if error.kind == "error":
                return
            self._process, self._lost = None, error.kind
        process.kill()
        self._report("lost", error.kind, error.why, process.pid)

    def close(self) -> None:
        """Ends worker and keeper. A worker that does not end by itself within half a second is killed."""
        with self._lock:
            self._closing.set()
            if self._process is not None:
                self._process.hang_up()
            elif self._child is not None:
                self._child.kill()
        if self._keeper is not threading.current_thread():
            self._keeper.join(CLOSE_S)

    # --- the keeper's thread ------------------------------------------------------------------

    def _keep(self) -> None:
        """The kernel kills a child when the thread that started it ends: so this one starts them all."""
        backoff_ns = BACKOFF_MIN_NS
        while not self._closing.is_set():
            up_ns = now_ns()
            if self._start_one():
                self._watch()
            elif self._proof is None:
                break  # at load: the bundle is refused
            self._end()
            if now_ns() - up_ns >= SETTLED_NS:
                backoff_ns = BACKOFF_MIN_NS
            self._closing.wait(backoff_ns / 1e9)
            backoff_ns = min(2 * backoff_ns, BACKOFF_MAX_NS)
        self._end()
        self._settled.set()
        if self._lost is not None:
            self._report("closed", self._lost, "", 0)

    def _start_one(self) -> bool:
        """Starts, loads and proves a process."""
        try:
            child = self._start()
            with self._lock:
                self._child = child
                if self._closing.is_set():
                    return False
            start = child.wait_loaded(self._start_timeout_ns)
            self.placement = start.placement
            if start.remark:
                self._log.warning("worker_placement", reason=start.remark)
            self._prove(child)
        except Exception as error:  # whatever a start may raise, it is tried again
            if not self._closing.is_set():
                self._failure = str(error)
                self._failures["start"] += 1
                if self._lost is not None:
                    self._report("restart_failed", self._lost, str(error), 0)
            return False
        with self._lock:
            self._process, lost, self._lost = child, self._lost, None
        self._settled.set()
        if lost is not None:
            self._restarts += 1
            self._report("up", lost, "", child.pid)
        return True

    def _prove(self, process: BlockProcess) -> None:
        """The first inputs, which are the bundle's golden ones, give what they gave. Raises BlockFailed."""
        if self._proof is None:
            return
        inputs, expected = self._proof
        found = process.call(inputs, self._start_timeout_ns).outputs
        for name, value in expected.items():
            bound = max(self._tolerance * max(1.0, float(np.abs(value).max())), self._tolerances.get(name, 0.0))
            difference = float(np.abs(found[name] - value).max()) if found[name].shape == value.shape else math.inf
            if not difference <= bound:
                raise BlockFailed(
                    self.name,
                    "garbage",
                    f"its new worker computes another {name}: {difference:.3g} off, {bound:.3g} allowed",
                )

    def _watch(self) -> None:
        """Returns when the process has gone, was given up by the stage, or is no longer needed."""
        process = self._process
        if process is None:
            return
        poll = select.poll()
        poll.register(process.fileno(), 0)  # hang-ups only: answers are for the stage
        poll.poll()
        if self._process is process and not self._closing.is_set():
            self._lose(process, process.ended())

    def _end(self) -> None:
        """Nothing of the last process is left, unless it is stuck in a driver: then the log says so."""
        with self._lock:
            child, self._child, self._process = self._child, None, None
        if child is not None and not child.close():
            self._failures["unkillable"] += 1
            self._log.error("worker_unkillable", pid=child.pid)

    def _report(self, change: Literal["lost", "restart_failed", "up", "closed"], kind: BlockFailure, why: str,
                pid: int) -> None:
        self._on_change(WorkerChange(now_ns(), self.name, change, kind, why, pid))

    # --- anybody's ----------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """For `status`: times in ms and us."""
        process, took, over = self._process, list(self._took_ns), list(self._overhead_ns)
        return {
            "up": process is not None, "pid": process.pid if process else None,
            "calls": self._calls, "restarts": self._restarts, "failures": dict(self._failures),
            "last_error": self._failure or None,
            "timeout_ms": self.timeout_ns() / MS,
            "call_ms": {"p50": _quantile(took, 0.5) / MS, "p99": _quantile(took, 0.99) / MS},
            "overhead_us": {"p50": _quantile(over, 0.5) / 1e3, "p99": _quantile(over, 0.99) / 1e3},
        }  # fmt: skip


class BlockWorkers:
    """The workers of one policy: what `status` shows of them, and the faults that they raise."""

    def __init__(self, blocks: BlocksKeys) -> None:
        self._blocks = blocks
        self._workers: dict[str, BlockWorker] = {}
        self._lock = threading.Lock()
        self._loaded: dict[str, PlacedSession] = {}
        self._lost: dict[str, int] = {}  # block -> the fault held for it
        self._servo: Servo | None = None
        self._event: Callable[[dict[str, Any]], None] = lambda event: None

    def start(self, bundle: Bundle, stages: StagesKeys, command: Sequence[str] = COMMAND) -> None:
        """Begins to start every worker that the configuration asks for and the policy has a block for, all at
        once. Raises BundleError."""
        for name in sorted(bundle.manifest.BLOCKS):
            keys = getattr(self._blocks, name)
            if keys.in_worker:
                stage = getattr(stages, STAGE_OF_BLOCK[name])
                setting = Setting(
                    Threads.on(stage.affinity), keys.target, stage.affinity, stage.policy, stage.priority
                )
                self._workers[name] = BlockWorker(
                    bundle, name, setting,
                    timeout_ns=None if keys.timeout_ms is None else round(keys.timeout_ms * MS),
                    start_timeout_ns=round(keys.start_timeout_s * 1e9),
                    on_change=self.changed, command=command,
                )  # fmt: skip

    def load(self, bundle: Bundle, name: str, threads: Threads) -> PlacedSession:
        """A block as the configuration says: its worker once that is up, or a session in this process.

        Raises BundleError or ConfigError.
        """
        if (worker := self._workers.get(name)) is not None:
            worker.wait_up()
            self._loaded[name] = worker
            return worker
        session = load_block(bundle, name, threads, getattr(self._blocks, name).target)
        self._loaded[name] = session
        return session

    def close(self) -> None:
        for worker in self._workers.values():
            worker.close()

    def report_to(self, servo: Servo, event: Callable[[dict[str, Any]], None]) -> None:
        """From now on, changes are events, and a lost worker holds the arm."""
        with self._lock:
            self._servo, self._event = servo, event
            for fault in self._lost.values():
                servo.hold_fault(fault, True)

    def changed(self, change: WorkerChange) -> None:
        """Any worker's `on_change`. A hang is counted by the heartbeat that aged; everything else here, once."""
        with self._lock:
            fault = HUNG if change.kind == "hang" else FAILED
            if change.change in ("lost", "restart_failed"):
                if self._servo is not None and (change.change == "restart_failed" or fault == FAILED):
                    self._servo.pulse_fault(fault)
                self._lost[change.block] = fault
            else:
                self._lost.pop(change.block, None)
            if self._servo is not None:
                for each in (HUNG, FAILED):
                    self._servo.hold_fault(each, each in self._lost.values())
            event = self._event
        body = {"t_ns": change.t_ns, "event": "worker", "block": change.block, "change": change.change,
                "kind": change.kind, "pid": change.pid}  # fmt: skip
        event(body | ({"why": change.why} if change.why else {}))

    def placement(self) -> dict[str, dict[str, Any]]:
        """For `status`: block -> provider -> nodes and partitions, as read back when it was loaded."""
        return {
            name: {p.provider: {"nodes": None if "*" in p.operators else sum(p.operators.values()),
                                "partitions": p.partitions} for p in session.placement}
            for name, session in self._loaded.items()
        }  # fmt: skip

    def status(self) -> dict[str, Any]:
        return {name: worker.status() for name, worker in self._workers.items()}


def workers_of(policy: object) -> BlockWorkers | None:
    """The workers of a policy that has any notion of them."""
    found = getattr(policy, "workers", None)
    return found if isinstance(found, BlockWorkers) else None


def _quantile(values: Sequence[int] | deque[int], q: float) -> int:
    """Nearest rank; the largest of fewer than 100 at 0.99, 0 of none."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(q * len(ordered)) - 1)] if ordered else 0
