"""vlad._native.watchdog: csrc/watchdog.c for Python. Meanings are in watchdog.pyi."""

from libc.stdint cimport int64_t, uint64_t

from vlad._native.gate_c cimport to_ns

cdef extern from "watchdog.h" nogil:
    enum:
        VLAD_N_FAULTS
        VLAD_N_STAGES
    enum vlad_stage:
        pass
    enum vlad_fault:
        pass
    enum vlad_reaction:
        pass
    struct vlad_fault_state:
        int64_t since_ns
        uint64_t count
    struct vlad_watchdog:
        vlad_fault_state state[51]
        uint64_t active, latched
    void vlad_watchdog_init(vlad_watchdog *, int64_t)
    void vlad_watchdog_beat(vlad_watchdog *, vlad_stage, int64_t)
    void vlad_watchdog_bound(vlad_watchdog *, vlad_stage, int64_t, int64_t)
    void vlad_watchdog_hold(vlad_watchdog *, vlad_fault, bint)
    void vlad_watchdog_pulse(vlad_watchdog *, vlad_fault)
    vlad_reaction vlad_watchdog_evaluate(vlad_watchdog *, int64_t, uint64_t, uint64_t *)
    uint64_t vlad_watchdog_clear(vlad_watchdog *)
    bint vlad_watchdog_all_fresh(vlad_watchdog *, int64_t)

STAGES = ("capture", "vision", "expert", "supervisor", "servo")
REACTIONS = ("none", "warn", "slow", "hold", "park", "limp")


cdef int stage_index(stage) except -1:
    if stage not in STAGES:
        raise ValueError(f"stage {stage!r}: one of {', '.join(STAGES)} is wanted")
    return STAGES.index(stage)


cdef int fault_id(fault) except -1:
    if not 1 <= fault <= VLAD_N_FAULTS:
        raise ValueError(f"fault {fault}: 1 to {VLAD_N_FAULTS} are known")
    return fault


cdef frozenset ids(uint64_t mask):
    return frozenset(f for f in range(1, VLAD_N_FAULTS + 1) if mask >> f & 1)


cdef class Watchdog:
    cdef vlad_watchdog c

    def __init__(self, now_ns):
        vlad_watchdog_init(&self.c, to_ns(now_ns, "now_ns"))

    def beat(self, stage, now_ns):
        vlad_watchdog_beat(&self.c, <vlad_stage>stage_index(stage), to_ns(now_ns, "now_ns"))

    def bound(self, stage, bound_ns, now_ns):
        vlad_watchdog_bound(&self.c, <vlad_stage>stage_index(stage), to_ns(bound_ns, "bound_ns"),
                            to_ns(now_ns, "now_ns"))

    def hold(self, fault, condition):
        vlad_watchdog_hold(&self.c, <vlad_fault>fault_id(fault), condition)

    def pulse(self, fault):
        vlad_watchdog_pulse(&self.c, <vlad_fault>fault_id(fault))

    def evaluate(self, now_ns, own=()):
        cdef uint64_t mask = 0, changed
        for fault in own:
            mask |= <uint64_t>1 << fault_id(fault)
        reaction = vlad_watchdog_evaluate(&self.c, to_ns(now_ns, "now_ns"), mask, &changed)
        return REACTIONS[<int>reaction], ids(changed)

    def clear(self):
        return ids(vlad_watchdog_clear(&self.c))

    def all_fresh(self, now_ns):
        return bool(vlad_watchdog_all_fresh(&self.c, to_ns(now_ns, "now_ns")))

    @property
    def active(self):
        return ids(self.c.active)

    @property
    def latched(self):
        return ids(self.c.latched)

    def count(self, fault):
        return self.c.state[fault_id(fault)].count

    def since_ns(self, fault):
        return self.c.state[fault_id(fault)].since_ns
