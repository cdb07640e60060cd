"""Mutation testing of the C that decides motion: is every line of it held by a test?

    python tools/mutate.py [gate trajectory ...] [--write-doc]     (make mutation)

Each mutant is one small change of one expression or statement of a part (tree-sitter finds them). A
mutant whose object code equals the original's, or another mutant's, at -O2 is no mutant. The others
are linked against the C tests of the part, which must fail; what they let pass is tried once more
under ASan and UBSan. A mutant that survives all that must be explained in tools/mutation_known.toml,
by the line it is in and what the line became; an explanation that no longer fits is an error as well.

Exit status: 0 when every mutant is killed or explained, 1 otherwise. Results: build/mutation/.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import tree_sitter
import tree_sitter_c

ROOT = Path(__file__).resolve().parent.parent
CSRC = ROOT / "csrc"
OUT = ROOT / "build" / "mutation"
KNOWN = ROOT / "tools" / "mutation_known.toml"
DOCUMENT = ROOT / "docs" / "mutation.md"
SERVO_TESTS = ("test_servo_loop", "test_servo_rows", "test_servo_storm")
TESTS: dict[str, tuple[str, ...]] = {
    "gate": ("test_gate", "test_action_queue"),
    "trajectory": ("test_trajectory", "test_servo_loop"),
    "watchdog": ("test_watchdog", "test_servo_loop"),
    "feetech": ("test_feetech", "test_feetech_arm"),
    "servo_sense": SERVO_TESTS,
    "servo_health": SERVO_TESTS,
    "servo_truth": SERVO_TESTS,
    "servo_mode": SERVO_TESTS,
    "servo_wire": SERVO_TESTS,
}
MAINS = {"safe_stop.c"}
PLAIN = ("-std=gnu11", "-O1", "-pthread", "-w", "-I.")
SANITIZED = (*PLAIN, "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
TIMEOUT_S = 60

SWAPS: dict[str, tuple[str, ...]] = {
    "<": ("<=", ">="), "<=": ("<", ">"), ">": (">=", "<="), ">=": (">", "<"), "==": ("!=",), "!=": ("==",),
    "&&": ("||",), "||": ("&&",), "+": ("-",), "-": ("+",), "*": ("/",), "/": ("*",), "%": ("/",),
    "&": ("|",), "|": ("&",), "^": ("|",), "<<": (">>",), ">>": ("<<",),
    "+=": ("-=", "="), "-=": ("+=", "="), "|=": ("&=", "="), "&=": ("|=", "="), "*=": ("/=",), "/=": ("*=",),
    "<<=": (">>=",), ">>=": ("<<=",), "++": ("--",), "--": ("++",), "true": ("false",), "false": ("true",),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change: bytes `start` to `end` of csrc/`part`.c become `text`."""

    part: str
    start: int
    end: int
    text: str
    line: int
    before: str  # the line, stripped
    after: str  # what it became


def _changes(node: tree_sitter.Node) -> Iterator[tuple[tree_sitter.Node, str]]:
    """The changes of one node itself."""
    text = (node.text or b"").decode()
    kind, parent = node.type, node.parent
    if kind in SWAPS and parent is not None and (not node.is_named or kind in ("true", "false")):
        unary = parent.type in ("unary_expression", "pointer_expression") and kind in "-*&"
        if not unary and parent.type not in ("pointer_declarator", "abstract_pointer_declarator"):
            yield from ((node, swap) for swap in SWAPS[kind])
    elif kind in ("if_statement", "while_statement"):
        condition = node.child_by_field_name("condition")
        if condition is not None:
            yield from ((condition, value) for value in ("(1)", "(0)"))
    elif kind == "conditional_expression":
        condition = node.child_by_field_name("condition")
        if condition is not None:
            yield from ((condition, value) for value in ("1", "0"))
    elif kind == "number_literal":
        digits = text.rstrip("uUlL")
        try:
            value = int(digits, 0)
        except ValueError:
            return
        yield from ((node, str(other) + text[len(digits) :]) for other in {value + 1, max(value - 1, 0)} - {value})
    elif kind in ("expression_statement", "break_statement", "continue_statement"):
        yield node, ";"
    elif kind == "return_statement" and node.named_child_count:
        value_node = node.named_children[0]
        yield from ((value_node, value) for value in ("0", "1") if value != (value_node.text or b"").decode())
    elif kind == "unary_expression" and text[0] in "!-~":
        yield node, f"({text[1:]})"


def mutants(part: str) -> list[Mutant]:
    """Every mutant of a part, in the order of its lines."""
    source = (CSRC / f"{part}.c").read_bytes()
    parser = tree_sitter.Parser(tree_sitter.Language(tree_sitter_c.language()))
    lines = source.decode().splitlines()
    found, todo = [], [parser.parse(source).root_node]
    while todo:
        node = todo.pop()
        if node.type in ("preproc_include", "preproc_call", "comment", "type_definition", "struct_specifier"):
            continue
        todo += node.children
        for place, text in _changes(node):
            row, column = place.start_point
            before = lines[row]
            stop = place.end_point[1] if place.end_point[0] == row else len(before)
            after = before[:column] + text + before[stop:]
            found.append(
                Mutant(part, place.start_byte, place.end_byte, text, row + 1, before.strip(), after.strip())
            )
    return sorted(set(found), key=lambda m: (m.start, m.end, m.text))


def _run(*command: str | Path, timeout_s: float = TIMEOUT_S) -> int:
    """Exit status; 124 after the time-out."""
    try:
        return subprocess.run(
            [str(word) for word in command], cwd=CSRC, timeout=timeout_s,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False,
        ).returncode
    except subprocess.TimeoutExpired:
        return 124


class Part:
    """A part with its tests prebuilt twice, plain and sanitized, so that a mutant costs one file."""

    def __init__(self, name: str, workers: int) -> None:
        self.name = name
        self._source = (CSRC / f"{name}.c").read_bytes()
        self._cc = os.environ.get("CC", "gcc").split()
        self._seen: dict[str, str] = {}
        self._built: dict[str, list[Path]] = {}
        self._workers = workers
        self.seconds: dict[str, float] = {}

    def build(self, variant: str, flags: Sequence[str]) -> None:
        """The tests and every other file of the core, as objects."""
        directory = OUT / variant
        directory.mkdir(parents=True, exist_ok=True)
        sources = [p for p in sorted(CSRC.glob("*.c")) if p.name not in MAINS]
        sources += [CSRC / "tests" / f"{test}.c" for test in TESTS[self.name]]

        def compile_one(source: Path) -> Path:
            target = directory / f"{source.stem}.o"
            newest = max(p.stat().st_mtime for p in [source, *CSRC.glob("*.h"), *CSRC.glob("tests/*.h")])
            old = not target.exists() or target.stat().st_mtime < newest
            if old and _run(*self._cc, *flags, "-c", source, "-o", target) != 0:
                raise SystemExit(f"{source} does not compile")
            return target

        with ThreadPoolExecutor(self._workers) as pool:
            self._built[variant] = list(pool.map(compile_one, sources))
        for test in TESTS[self.name]:
            if self._test(variant, flags, directory / f"{self.name}.o", test, self.name) != 0:
                raise SystemExit(f"{test} fails without any mutation")

    def _test(self, variant: str, flags: Sequence[str], mutated: Path, test: str, tag: str) -> int:
        others = [
            p for p in self._built[variant]
            if p.stem != self.name and (p.stem == test or p.stem not in TESTS[self.name])
        ]
        program = OUT / variant / f"{tag}-{test}"
        if _run(*self._cc, *flags, mutated, *others, "-lm", "-o", program) != 0:
            return -1
        status = _run(program)
        program.unlink(missing_ok=True)
        return status

    def judge(self, mutant: Mutant) -> str:
        """"invalid", "same" (as the original or an earlier mutant), "killed" or "survived"."""
        tag = f"{self.name}-{mutant.start}-{mutant.end}-{hashlib.sha1(mutant.text.encode()).hexdigest()[:8]}"
        source, compiled = OUT / f"{tag}.c", OUT / f"{tag}.o"
        source.write_bytes(self._source[: mutant.start] + mutant.text.encode() + self._source[mutant.end :])
        try:
            if _run(*self._cc, "-std=gnu11", "-O2", "-w", "-I.", "-c", source, "-o", compiled) != 0:
                return "invalid"
            if not self._new(compiled, tag):
                return "same"
            for variant, flags in (("plain", PLAIN), ("sanitized", SANITIZED)):
                if _run(*self._cc, *flags, "-c", source, "-o", compiled) != 0:
                    return "invalid"
                for test in TESTS[self.name]:
                    if self._test(variant, flags, compiled, test, tag) != 0:
                        return "killed"
            return "survived"
        finally:
            source.unlink(missing_ok=True)
            compiled.unlink(missing_ok=True)

    def _new(self, compiled: Path, tag: str) -> bool:
        bare = compiled.with_suffix(".bare")
        _run("objcopy", "--strip-all", compiled, bare)
        digest = hashlib.sha256(bare.read_bytes()).hexdigest()
        bare.unlink()
        return self._seen.setdefault(digest, tag) == tag

    def learn_original(self) -> None:
        """So that a mutant equal to the original is known."""
        source, compiled = OUT / f"{self.name}-original.c", OUT / f"{self.name}-original.o"
        source.write_bytes(self._source)
        _run(*self._cc, "-std=gnu11", "-O2", "-w", "-I.", "-c", source, "-o", compiled)
        self._new(compiled, "original")


def run_part(name: str, workers: int) -> list[tuple[Mutant, str]]:
    part = Part(name, workers)
    part.build("plain", PLAIN)
    part.build("sanitized", SANITIZED)
    part.learn_original()
    todo, results = mutants(name), []
    with ThreadPoolExecutor(workers) as pool:
        for done, result in enumerate(zip(todo, pool.map(part.judge, todo), strict=True), start=1):
            results.append(result)
            if sys.stderr.isatty() or done == len(todo):
                survived = sum(verdict == "survived" for _, verdict in results)
                print(f"\r{name}: {done}/{len(todo)} mutants, {survived} survived", end="", file=sys.stderr)
    print(file=sys.stderr)
    return results


def explanations(parts: Sequence[str]) -> dict[tuple[str, str, str], str]:
    """(part, line, what it became) -> why no test can kill it."""
    rows = tomllib.loads(KNOWN.read_text(encoding="utf-8")).get("mutant", []) if KNOWN.exists() else []
    return {(r["part"], r["line"], r["became"]): r["why"] for r in rows if r["part"] in parts}


_INTRO = """\
# Mutation testing

<!-- Written by `make mutation`; do not edit. -->

`make mutation` changes one expression or statement of the C that decides motion at a time (a comparison, an
operator, a constant, a condition forced, a statement removed, a return value) and demands that a C test of that
part fails. Mutants with the same object code as the original, or as another mutant, at -O2 are not counted. What
survives must be explained in `tools/mutation_known.toml`; an unexplained survivor, or an explanation that fits
nothing any more, is an error.

| Part | Mutants | Killed | Survived, explained | Unexplained |
|---|---:|---:|---:|---:|
"""


def document(results: dict[str, Counter[str]], known: dict[tuple[str, str, str], str]) -> str:
    """docs/mutation.md."""
    lines = [_INTRO]
    for part, counts in results.items():
        total = counts["killed"] + counts["explained"] + counts["unexplained"]
        lines.append(f"| `{part}` | {total} | {counts['killed']} | {counts['explained']} | {counts['unexplained']} |\n")
    lines.append("\n## What survives, and why\n\n")
    for why in dict.fromkeys(known.values()):
        lines.append(f"* {why}\n")
        for (part, line, became), reason in known.items():
            if reason == why:
                lines.append(f"  * `{part}`: `{line}` → `{became}`\n")
    return "".join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(TESTS)}; all by default")
    parser.add_argument("--write-doc", action="store_true", help="write docs/mutation.md (all parts)")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args(argv)
    if unknown := set(options.parts) - set(TESTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    parts = options.parts or list(TESTS)
    OUT.mkdir(parents=True, exist_ok=True)
    known = explanations(parts)
    used: set[tuple[str, str, str]] = set()
    results: dict[str, Counter[str]] = {}
    survivors: list[Mutant] = []
    for part in parts:
        counts: Counter[str] = Counter()
        for mutant, verdict in run_part(part, options.workers):
            key = (mutant.part, mutant.before, mutant.after)
            if verdict != "survived":
                counts[verdict] += 1
            elif key in known:
                used.add(key)
                counts["explained"] += 1
            else:
                survivors.append(mutant)
                counts["unexplained"] += 1
        results[part] = counts
    for mutant in survivors:
        print(f"csrc/{mutant.part}.c:{mutant.line}: survived: {mutant.before}  ->  {mutant.after}")
    for part, line, became in known.keys() - used:
        print(f"{KNOWN}: {part}: no such survivor any more: {line}  ->  {became}")
    (OUT / "result.json").write_text(json.dumps(
        {"parts": {k: dict(v) for k, v in results.items()}, "unexplained": [asdict(m) for m in survivors]}, indent=1))
    if options.write_doc and not options.parts:
        DOCUMENT.write_text(document(results, known), encoding="utf-8")
    total = sum(results.values(), Counter())
    print(f"{total['killed'] + total['explained'] + total['unexplained']} mutants: {total['killed']} killed, "
          f"{total['explained']} explained, {total['unexplained']} unexplained; "
          f"{total['same']} of the same code and {total['invalid']} that do not compile left out")
    return 1 if survivors or known.keys() - used else 0


if __name__ == "__main__":
    raise SystemExit(main())
