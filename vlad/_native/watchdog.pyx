"""vlad._native.watchdog: csrc/watchdog.c for Python. Meanings are in watchdog.pyi."""

from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memset

from vlad._native.gate_c cimport to_ns

cdef extern from "vlad.h":
    int VLAD_ABI

ABI = VLAD_ABI

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
    void vlad_watchdog_init(vlad_watchdog *)
    void vlad_watchdog_beat(vlad_watchdog *, vlad_stage, int64_t)
    void vlad_watchdog_bound(vlad_watchdog *, vlad_stage, int64_t, int64_t)
    struct vlad_watchdog_input:
        pass
    void vlad_watchdog_hold_at(vlad_watchdog *, vlad_fault, vlad_reaction)
    void vlad_watchdog_pulse(vlad_watchdog *, vlad_fault)
    void vlad_watchdog_gather(vlad_watchdog *, int64_t, const uint8_t *, vlad_watchdog_input *)
    vlad_reaction vlad_watchdog_judge(vlad_watchdog *, int64_t, const vlad_watchdog_input *,
                                      uint64_t *)
    vlad_reaction vlad_watchdog_reaction(const vlad_watchdog *, unsigned)
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


cdef int reaction_index(level) except -1:
    if level not in REACTIONS:
        raise ValueError(f"level {level!r}: one of {', '.join(REACTIONS)} is wanted")
    return REACTIONS.index(level)


cdef frozenset ids(uint64_t mask):
    return frozenset(f for f in range(1, VLAD_N_FAULTS + 1) if mask >> f & 1)


cdef class Watchdog:
    cdef vlad_watchdog c

    def __init__(self):
        vlad_watchdog_init(&self.c)

    def beat(self, stage, now_ns):
        vlad_watchdog_beat(&self.c, <vlad_stage>stage_index(stage), to_ns(now_ns, "now_ns"))

    def bound(self, stage, bound_ns, now_ns):
        vlad_watchdog_bound(&self.c, <vlad_stage>stage_index(stage), to_ns(bound_ns, "bound_ns"),
                            to_ns(now_ns, "now_ns"))

    def hold(self, fault, condition):
        self.hold_at(fault, "limp" if condition else "none")

    def hold_at(self, fault, level):
        vlad_watchdog_hold_at(&self.c, <vlad_fault>fault_id(fault),
                              <vlad_reaction>reaction_index(level))

    def pulse(self, fault):
        vlad_watchdog_pulse(&self.c, <vlad_fault>fault_id(fault))

    def evaluate(self, now_ns, own=()):
        cdef uint64_t changed
        cdef uint8_t levels[VLAD_N_FAULTS + 1]
        cdef vlad_watchdog_input input
        cdef int64_t now = to_ns(now_ns, "now_ns")
        memset(levels, 0, sizeof(levels))
        for fault in own:
            level = own[fault] if isinstance(own, dict) else "limp"
            levels[fault_id(fault)] = reaction_index(level)
        vlad_watchdog_gather(&self.c, now, levels, &input)
        reaction = vlad_watchdog_judge(&self.c, now, &input, &changed)
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

    def reaction(self, fault):
        return REACTIONS[<int>vlad_watchdog_reaction(&self.c, fault_id(fault))]

    def count(self, fault):
        return self.c.state[fault_id(fault)].count

    def since_ns(self, fault):
        return self.c.state[fault_id(fault)].since_ns
