"""Mutation testing of the C that decides motion: is every line of it held by a test?

    python tools/mutate.py [gate trajectory ...] [--write-doc]     (make mutation)

Each mutant is one small change of one expression or statement of a part (tree-sitter finds them). All
mutants of a part are linked into one program with each C test of the part, under names of their own; before
main() the program forks once for each, and the test must fail. What the tests let pass is compiled alone: with
the object code of the original, or of another one that passed, at -O2 it is no mutant. The rest is tried once
more under ASan and UBSan. A mutant that survives all that must be explained in tools/mutation_known.toml, by
the line it is in and what the line became; an explanation that no longer fits is an error as well.

Exit status: 0 when every mutant is killed or explained, 1 otherwise. Results: build/mutation/.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
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
SERVO_TESTS = ("test_servo_checks", "test_servo_loop", "test_servo_rows", "test_servo_storm")
TESTS: dict[str, tuple[str, ...]] = {
    "gate": ("test_gate", "test_action_queue"),
    "trajectory": ("test_trajectory", "test_servo_loop"),
    "watchdog": ("test_watchdog", "test_servo_loop"),
    "feetech": ("test_feetech", "test_feetech_arm"),
    "servo_sense": SERVO_TESTS,
    "servo_health": SERVO_TESTS,
    "servo_truth": SERVO_TESTS,
    "servo_mode": ("test_servo_mode", *SERVO_TESTS),
    "servo_wire": ("test_servo_wire", "test_servo_goal", "test_servo_torque", "test_servo_mode", *SERVO_TESTS),
}
MAINS = {"safe_stop.c"}
PLAIN = ("-std=gnu11", "-O1", "-pthread", "-w")
SANITIZED = (*PLAIN, "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
TIMEOUT_S = 120
BATCH = 60  # mutants in one file

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

    def applied(self, source: bytes) -> bytes:
        return source[: self.start] + self.text.encode() + source[self.end :]


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


# What the test program does before main(): itself once for each mutant, each with its time limit.
_FORK = """
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
static int chosen;
"""
_FORK_EACH = """
__attribute__((constructor)) static void each_mutant(void)
{
    char *list = getenv("VLAD_MUTANTS"), *end;
    int verdicts = open(getenv("VLAD_VERDICTS"), O_WRONLY | O_CREAT | O_TRUNC, 0644);

    for (; *list; list = end + (*end == ',')) {
        int i = (int)strtol(list, &end, 10), status;
        pid_t child;

        for (chosen = 0; number[chosen] != i;)
            chosen++;
        child = fork();
        if (child == 0) {
            close(verdicts);
            alarm(TIMEOUT_S);
            return;
        }
        if (child < 0 || waitpid(child, &status, 0) != child ||
            dprintf(verdicts, "%d %d\\n", i, status) < 0)
            _exit(1);
    }
    _exit(0);
}
"""


def _declared(node: tree_sitter.Node) -> bytes:
    """The name that a definition, declaration or parameter declares; empty: none."""
    declarator = node.child_by_field_name("declarator")
    if declarator is not None:
        return _declared(declarator)
    if node.type == "identifier":
        return node.text or b""
    return b"".join(_declared(child) for child in node.named_children if "declarator" in child.type)


def _parameters(function: tree_sitter.Node) -> list[tree_sitter.Node]:
    declarator = function.child_by_field_name("declarator")
    while declarator is not None and declarator.type != "function_declarator":
        declarator = declarator.child_by_field_name("declarator")
    found = declarator.child_by_field_name("parameters") if declarator is not None else None
    return [] if found is None else found.named_children


def _enumerators(enum: tree_sitter.Node) -> list[tree_sitter.Node]:
    body = enum.child_by_field_name("body")
    found = [] if body is None else [child.child_by_field_name("name") for child in body.named_children]
    return [name for name in found if name is not None]


class _Renames:
    """A part's file-scope names, which every mutant in one program needs for itself."""

    def __init__(self, source: bytes) -> None:
        self._source = source
        self._parser = tree_sitter.Parser(tree_sitter.Language(tree_sitter_c.language()))
        self._names: set[bytes] = set()
        self._exported: dict[str, tuple[str, str]] = {}  # name -> what stands before its body, its arguments
        self._includes = ""
        for node in self._parser.parse(source).root_node.children:
            text = node.text or b""
            if node.type == "preproc_include":
                self._includes += text.decode()
            if node.type == "enum_specifier":
                self._names |= {_declared(row) for row in _enumerators(node)}
            if node.type not in ("function_definition", "declaration"):
                continue
            self._names.add(_declared(node))
            if node.type == "function_definition" and not text.startswith(b"static"):
                body = node.child_by_field_name("body")
                assert body is not None
                head = source[node.start_byte : body.start_byte].decode()
                arguments = [_declared(p).decode() for p in _parameters(node)]
                self._exported[_declared(node).decode()] = (head, ", ".join(a for a in arguments if a))

    def _copy(self, mutant: Mutant, i: int) -> str:
        """The file with this mutation, its own names with a prefix."""
        mutated = mutant.applied(self._source)
        todo, places = [self._parser.parse(mutated).root_node], []
        while todo:
            node = todo.pop()
            todo += node.children
            if node.type == "identifier" and node.text in self._names:
                places.append(node.start_byte)
        for place in sorted(places, reverse=True):
            mutated = mutated[:place] + b"m%d_" % i + mutated[place:]
        return mutated.decode()

    def copies(self, mutants: dict[int, Mutant]) -> str:
        """One file with every one of them."""
        declared = [f"extern __typeof__({name}) m{i}_{name};\n" for i in mutants for name in self._exported]
        copies = [f'#line 1 "mutant-{i}.c"\n{self._copy(mutant, i)}\n' for i, mutant in mutants.items()]
        return "".join((self._includes, *declared, *copies))

    def table(self, ids: Sequence[int]) -> str:
        """The exported functions, as those of the mutant that this process is for."""
        fields = "".join(f"    __typeof__({name}) *{name};\n" for name in self._exported)
        rows = "".join(f"    {{ {', '.join(f'm{i}_{name}' for name in self._exported)} }},\n" for i in ids)
        return "".join((
            self._includes, _FORK, f"static const int number[] = {{ {', '.join(map(str, ids))} }};\n",
            *(f"extern __typeof__({name}) m{i}_{name};\n" for i in ids for name in self._exported),
            f"static const struct {{\n{fields}}} mutant[] = {{\n{rows}}};\n",
            *(f"{head}{{\n    return mutant[chosen].{name}({arguments});\n}}\n"
              for name, (head, arguments) in self._exported.items()),
            _FORK_EACH.replace("TIMEOUT_S", str(TIMEOUT_S)),
        ))  # fmt: skip


class Part:
    """A part with the objects of its tests. Its mutants go into one program, which forks for each."""

    def __init__(self, name: str, workers: int) -> None:
        self.name = name
        self._source = (CSRC / f"{name}.c").read_bytes()
        self._cc = os.environ.get("CC", "gcc").split()
        self._workers = workers
        self._renames = _Renames(self._source)

    def judge(self, found: Sequence[Mutant]) -> list[str]:
        """"invalid", "same" (as the original or an earlier survivor), "killed" or "survived" of each."""
        self._found = [*found, Mutant(self.name, 0, 0, "", 0, "", "")]
        self._original = len(found)
        verdicts = ["killed"] * len(found)
        left = list(range(len(found)))
        for variant, flags in (("plain", PLAIN), ("sanitized", SANITIZED)):
            if variant == "sanitized":
                left = self._without_same(left, verdicts)
            if not left:
                break
            objects = self._objects(variant, flags)
            left, table = self._table(variant, flags, left, verdicts)
            for test in TESTS[self.name]:
                left = self._survivors(variant, flags, [*objects, *table], test, left)
        for i in left:
            verdicts[i] = "survived"
        return verdicts

    def _compile(self, flags: Sequence[str], source: Path, target: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*self._cc, *flags, "-I.", "-c", str(source), "-o", str(target)],
                              cwd=CSRC, capture_output=True, text=True, check=False)  # fmt: skip

    def _objects(self, variant: str, flags: Sequence[str]) -> list[Path]:
        """The tests and every other file of the core."""
        directory = OUT / variant
        directory.mkdir(parents=True, exist_ok=True)
        sources = [p for p in sorted(CSRC.glob("*.c")) if p.name not in MAINS and p.stem != self.name]
        sources += [CSRC / "tests" / f"{test}.c" for test in TESTS[self.name]]
        headers = max(p.stat().st_mtime for p in [*CSRC.glob("*.h"), *CSRC.glob("tests/*.h")])

        def compile_one(source: Path) -> Path:
            target = directory / f"{source.stem}.o"
            old = not target.exists() or target.stat().st_mtime < max(source.stat().st_mtime, headers)
            if old and (done := self._compile(flags, source, target)).returncode != 0:
                raise SystemExit(f"{source} does not compile:\n{done.stderr}")
            return target

        with ThreadPoolExecutor(self._workers) as pool:
            return list(pool.map(compile_one, sources))

    def _table(
        self, variant: str, flags: Sequence[str], ids: list[int], verdicts: list[str]
    ) -> tuple[list[int], list[Path]]:
        """The ids that compile, and objects with every one of them under names of its own, and a table."""
        batches = [[self._original], *(ids[k : k + BATCH] for k in range(0, len(ids), BATCH))]

        def compile_batch(batch: list[int]) -> Path:
            source = OUT / variant / f"{self.name}-{batch[0]}.c"
            while True:
                source.write_text(self._renames.copies({i: self._found[i] for i in batch}), encoding="utf-8")
                done = self._compile(flags, source, source.with_suffix(".o"))
                if done.returncode == 0:
                    return source.with_suffix(".o")
                broken = {int(i) for i in re.findall(r"^mutant-(\d+)\.c:\d+:\d+: error", done.stderr, re.M)}
                if not broken:
                    raise SystemExit(f"{source} does not compile:\n{done.stderr}")
                for i in broken:
                    verdicts[i] = "invalid"
                    source.write_bytes(self._found[i].applied(self._source))
                    if self._compile(flags, source, source.with_suffix(".o")).returncode == 0:
                        raise SystemExit(f"{self.name}: a mutant compiles alone, but not with others:\n{done.stderr}")
                batch[:] = [i for i in batch if i not in broken]

        with ThreadPoolExecutor(self._workers) as pool:
            objects = list(pool.map(compile_batch, batches))
        left = [i for batch in batches for i in batch]
        source = OUT / variant / f"{self.name}-table.c"
        source.write_text(self._renames.table(left), encoding="utf-8")
        if (done := self._compile(flags, source, source.with_suffix(".o"))).returncode != 0:
            raise SystemExit(f"{source} does not compile:\n{done.stderr}")
        return left[1:], [*objects, source.with_suffix(".o")]

    def _survivors(
        self, variant: str, flags: Sequence[str], objects: Sequence[Path], test: str, ids: list[int]
    ) -> list[int]:
        program = OUT / variant / f"{self.name}-{test}"
        tests = TESTS[self.name]
        linked = [p for p in objects if p.stem == test or p.stem not in tests]
        subprocess.run([*self._cc, *flags, *map(str, linked), "-lm", "-o", str(program)], check=True)

        def run(share: list[int]) -> list[int]:
            verdict, tried = OUT / variant / f"{self.name}-{test}-{share[0]}.txt", [self._original, *share]
            environment = {**os.environ, "VLAD_MUTANTS": ",".join(map(str, tried)), "VLAD_VERDICTS": str(verdict)}
            subprocess.run([str(program)], cwd=CSRC, env=environment, check=True,
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
            rows = [tuple(map(int, line.split())) for line in verdict.read_text(encoding="utf-8").splitlines()]
            if [i for i, _ in rows] != tried:
                raise SystemExit(f"{program} did not judge every mutant: {verdict}")
            if rows[0][1] != 0:
                raise SystemExit(f"{test} fails without any mutation")
            return [i for i, status in rows[1:] if status == 0]

        shares = [share for k in range(self._workers) if (share := ids[k :: self._workers])]
        with ThreadPoolExecutor(self._workers) as pool:
            return sorted(i for part in pool.map(run, shares) for i in part)

    def _without_same(self, ids: list[int], verdicts: list[str]) -> list[int]:
        """Those whose object code is neither the original's nor an earlier one's at -O2."""

        def digest(i: int) -> str:
            source = OUT / f"{self.name}-{i}.c"
            source.write_bytes(self._found[i].applied(self._source))
            target, bare = source.with_suffix(".o"), source.with_suffix(".bare")
            self._compile(("-std=gnu11", "-O2", "-w"), source, target)
            subprocess.run(["objcopy", "--strip-all", str(target), str(bare)], check=True)
            code = hashlib.sha256(bare.read_bytes()).hexdigest()
            for path in (source, target, bare):
                path.unlink()
            return code

        with ThreadPoolExecutor(self._workers) as pool:
            original, *codes = pool.map(digest, [self._original, *ids])
        seen, kept = {original}, []
        for i, code in zip(ids, codes, strict=True):
            if code in seen:
                verdicts[i] = "same"
            else:
                kept.append(i)
            seen.add(code)
        return kept


def run_part(name: str, workers: int) -> list[tuple[Mutant, str]]:
    todo = mutants(name)
    verdicts = Part(name, workers).judge(todo)
    print(f"{name}: {len(todo)} mutants, {verdicts.count('survived')} survived", file=sys.stderr)
    return list(zip(todo, verdicts, strict=True))


def explanations(parts: Sequence[str]) -> dict[tuple[str, str, str], str]:
    """(part, line, what it became) -> why no test can kill it."""
    rows = tomllib.loads(KNOWN.read_text(encoding="utf-8")).get("mutant", []) if KNOWN.exists() else []
    return {(r["part"], r["line"], r["became"]): r["why"] for r in rows if r["part"] in parts}


_INTRO = """\
# Mutation testing

<!-- Written by `make mutation`; do not edit. -->

`make mutation` changes one expression or statement of the C that decides motion at a time (a comparison, an
operator, a constant, a condition forced, a statement removed, a return value) and demands that a C test of that
part fails. What passes with the object code of the original at -O2, or of another one that passed, is not counted.
What survives must be explained in `tools/mutation_known.toml`; an unexplained survivor, or an explanation that fits
nothing any more, is an error.

| Part | Mutants | Killed | Survived, explained | Unexplained |
|---|---:|---:|---:|---:|
"""


def _digest(part: str) -> str:
    """Of the part and its tests: a result is of these."""
    files = [CSRC / f"{part}.c", *(CSRC / "tests" / f"{test}.c" for test in TESTS[part])]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def _earlier() -> dict[str, Counter[str]]:
    """The results of earlier runs with the same code and tests, in the order of TESTS."""
    found = {part: json.loads((OUT / f"{part}.json").read_bytes()) for part in TESTS if (OUT / f"{part}.json").exists()}
    return {part: Counter(row["counts"]) for part, row in found.items() if row["source"] == _digest(part)}


def document(results: dict[str, Counter[str]], known: dict[tuple[str, str, str], str]) -> str:
    """docs/mutation.md."""
    lines = [_INTRO]
    for part in TESTS:
        if part not in results:
            lines.append(f"| `{part}` | not run on this code | | | |\n")
            continue
        counts = results[part]
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
    parser.add_argument("--write-doc", action="store_true", help="docs/mutation.md, with earlier results of this code")
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
    for part, counts in results.items():
        unexplained = [asdict(m) for m in survivors if m.part == part]
        (OUT / f"{part}.json").write_text(
            json.dumps({"source": _digest(part), "counts": dict(counts), "unexplained": unexplained}, indent=1)
        )
    if options.write_doc:
        DOCUMENT.write_text(document(_earlier() | results, explanations(list(TESTS))), encoding="utf-8")
    total = sum(results.values(), Counter())
    print(f"{total['killed'] + total['explained'] + total['unexplained']} mutants: {total['killed']} killed, "
          f"{total['explained']} explained, {total['unexplained']} unexplained; "
          f"{total['same']} of the same code and {total['invalid']} that do not compile left out")
    return 1 if survivors or known.keys() - used else 0


if __name__ == "__main__":
    raise SystemExit(main())
