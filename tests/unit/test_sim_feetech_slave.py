"""The servo side of the wire: parsing and answering."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from vlad.sim.feetech_slave import (
    ACTION,
    BROADCAST,
    IDLE_GAP_NS,
    PING,
    READ,
    REG_WRITE,
    SYNC_READ,
    SYNC_WRITE,
    WRITE,
    FeetechSlave,
    Instruction,
    Parser,
    packet,
)
from vlad.sim.servo import Servo

PACKETS = st.builds(packet, st.integers(0, 254), st.integers(0, 255), st.binary(max_size=40))


def slave() -> FeetechSlave:
    return FeetechSlave([Servo(servo_id, 0, 0, 4095) for servo_id in range(1, 7)])


def run(slave: FeetechSlave, servo_id: int, code: int, parameters: bytes = b"") -> list[bytes]:
    raw = packet(servo_id, code, parameters)
    (instruction,) = Parser().feed(raw, 0)
    return [reply.raw for reply in slave.execute(instruction)]


def test_the_frames_of_a_real_session() -> None:
    """Captured from LeRobot: a sync read of Present_Position and a sync write of goals."""
    sync_read = bytes.fromhex("fffffe0a82380201020304050626")
    assert packet(BROADCAST, SYNC_READ, bytes((56, 2, 1, 2, 3, 4, 5, 6))) == sync_read
    replies = run(slave(), BROADCAST, SYNC_READ, bytes((56, 2, 1, 2, 3, 4, 5, 6)))
    assert replies == [packet(i, 0, b"\0\0") for i in range(1, 7)]
    write = packet(BROADCAST, SYNC_WRITE, bytes((42, 2, 1, 0x34, 0x02, 3, 0x05, 0x80)))
    (instruction,) = Parser().feed(write, 0)
    assert instruction.goals() == {1: 0x234, 3: -5}


def test_goals_are_found_in_any_write_that_covers_them() -> None:
    def goals(code: int, parameters: bytes) -> dict[int, int]:
        return Instruction(2, code, parameters, b"").goals()

    assert goals(WRITE, bytes((42, 0, 8))) == {2: 2048}
    assert goals(REG_WRITE, bytes((41, 254, 0, 8, 0, 0))) == {2: 2048}
    assert goals(WRITE, bytes((42, 0))) == {}
    assert goals(WRITE, bytes((40, 1))) == {}
    assert goals(WRITE, b"") == goals(SYNC_WRITE, b"") == goals(PING, b"") == {}


def test_timing_adds_up_byte_times_and_return_delays() -> None:
    bus = slave()
    assert run(bus, 2, WRITE, bytes((7, 250)))  # 500 us
    raw = packet(BROADCAST, SYNC_READ, bytes((56, 2, 1, 2, 3)))
    (instruction,) = Parser().feed(raw, 0)
    assert [r.after_ns for r in bus.execute(instruction)] == [80_000, 660_000, 740_000]


def test_reg_write_broadcast_action_and_silence() -> None:
    bus = slave()
    assert run(bus, 3, REG_WRITE, bytes((41, 7))) == [packet(3, 0)]
    assert run(bus, 3, READ, bytes((41, 1))) == [packet(3, 0, b"\xfe")]
    assert run(bus, BROADCAST, ACTION) == []
    assert run(bus, 3, READ, bytes((41, 1))) == [packet(3, 0, b"\x07")]
    assert run(bus, 9, PING) == []
    assert run(bus, BROADCAST, PING) == [packet(i, 0) for i in range(1, 7)]
    assert run(bus, BROADCAST, WRITE, bytes((41, 9))) == []
    assert run(bus, 1, 0x77) == []
    assert bus.counters["unknown_instructions"] == 1


def test_response_level_0_answers_only_ping_and_read() -> None:
    bus = slave()
    run(bus, 1, WRITE, bytes((8, 0)))
    assert run(bus, 1, WRITE, bytes((41, 3))) == []
    assert run(bus, 1, READ, bytes((41, 1))) == [packet(1, 0, b"\3")]
    assert run(bus, 1, PING) == [packet(1, 0)]


@given(chunks=st.lists(st.binary(max_size=300), max_size=12))
def test_garbage_never_crashes_and_is_accounted_for(chunks: list[bytes]) -> None:
    parser, bus = Parser(), slave()
    used = 0
    for chunk in chunks:
        for instruction in parser.feed(chunk, 0):
            used += len(instruction.raw)
            bus.execute(instruction)
    parser.reset()
    assert used + parser.skipped_bytes == sum(map(len, chunks))


@given(garbage=st.binary(max_size=600), valid=PACKETS)
def test_a_packet_after_a_pause_is_always_found(garbage: bytes, valid: bytes) -> None:
    parser = Parser()
    parser.feed(garbage, 0)
    found = parser.feed(valid, IDLE_GAP_NS + 1)
    assert [instruction.raw for instruction in found] == [valid]


@given(packets=st.lists(PACKETS, max_size=8), sizes=st.lists(st.integers(1, 17), min_size=1))
def test_packets_are_found_however_the_bytes_are_cut(
    packets: list[bytes], sizes: list[int]
) -> None:
    parser = Parser()
    stream = b"".join(packets)
    found: list[bytes] = []
    at = turn = 0
    while at < len(stream):
        size = sizes[turn % len(sizes)]
        found += [instruction.raw for instruction in parser.feed(stream[at : at + size], turn)]
        at, turn = at + size, turn + 1
    assert found == packets


@given(valid=PACKETS, at=st.integers(0, 1000), bit=st.integers(0, 7))
def test_a_flipped_bit_is_never_taken_for_the_packet(valid: bytes, at: int, bit: int) -> None:
    bad = bytearray(valid)
    bad[at % len(bad)] ^= 1 << bit
    assert valid not in [instruction.raw for instruction in Parser().feed(bytes(bad), 0)]


@settings(max_examples=200)
@given(
    servo_id=st.sampled_from([1, 3, 6, 9, 0xFE]),
    code=st.sampled_from([PING, READ, WRITE, REG_WRITE, ACTION, SYNC_READ, SYNC_WRITE]),
    parameters=st.binary(max_size=60),
)
def test_any_parameters_give_well_formed_replies(
    servo_id: int, code: int, parameters: bytes
) -> None:
    bus = slave()
    for _ in range(2):
        raws = run(bus, servo_id, code, parameters)
        assert [i.raw for i in Parser().feed(b"".join(raws), 0)] == raws
