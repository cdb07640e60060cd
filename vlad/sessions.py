"""The loaded blocks of one policy: all of them, or none."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from vlad.backend import Session, Threads, load_block
from vlad.bundle import Bundle

Load = Callable[[Bundle, str, Threads], Session]


def load_sessions(
    bundle: Bundle,
    names: Iterable[str],
    *,
    intra_threads: int | Mapping[str, int] = 1,
    affinity: Sequence[int] | Mapping[str, Sequence[int]] | None = None,
    spinning: bool = False,
    load: Load = load_block,
) -> dict[str, Session]:
    """A session of each block. Raises BundleError or ConfigError, and then none is left open.

    `intra_threads`, `affinity` and `spinning` hold for every block, or per block as a mapping from
    its name; `affinity` lists the cores of the pool threads, one less than `intra_threads`, because
    the calling thread pins itself. `load` makes a session; by default each is in this process.
    """
    sessions: dict[str, Session] = {}
    try:
        for name in names:
            count = intra_threads if isinstance(intra_threads, int) else intra_threads.get(name, 1)
            cores = affinity.get(name) if isinstance(affinity, Mapping) else affinity
            threads = Threads(count=count, affinity=None if cores is None else tuple(cores), spinning=spinning)
            sessions[name] = load(bundle, name, threads)
    except BaseException:
        for session in sessions.values():
            session.close()
        raise
    return sessions
