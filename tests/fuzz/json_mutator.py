"""A mutator for libFuzzer that keeps JSON readable: nodes of the tree are dropped, doubled, moved or
replaced, so that the checks behind the parser are reached and not only the parser.
"""

from __future__ import annotations

import copy
import json
import random
from typing import Any

import atheris

Node = Any
ODD: tuple[Node, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**53, 2**64, -(2**63), 10**400, 0.0, -0.0, 1e-320, 1e308, float("inf"),
    float("-inf"), float("nan"), "", "\0", "../x", "/", "a" * 300, "é", "auto", "gripper", [], {}, [[]], {"": 0},
)  # fmt: skip


def _places(tree: Node) -> list[tuple[Node, Any]]:
    """Every (container, key) of a tree."""
    found, todo = [], [tree]
    while todo:
        node = todo.pop()
        keys = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
        for key in keys:
            found.append((node, key))
            todo.append(node[key])
    return found


def _near(value: Node, chance: random.Random) -> Node:
    """A value like this one, but another."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + chance.choice((-1, 1, -value, value, 1 << chance.randrange(64)))
    if isinstance(value, float):
        return value * chance.choice((-1.0, 0.5, 2.0, 1e6, 1.0000001))
    if isinstance(value, str):
        at = chance.randrange(len(value) + 1)
        return value[:at] + chance.choice(("", "_", "0", "/", "\n", value)) + value[at + chance.randrange(2) :]
    return copy.deepcopy(chance.choice(ODD))


def edit(tree: Node, chance: random.Random) -> Node:
    """One edit, in place where it can be; the tree."""
    places = _places(tree)
    if not places:
        return copy.deepcopy(chance.choice(ODD))
    node, key = chance.choice(places)
    other, name = chance.choice(places)
    kind = chance.randrange(7)
    if kind == 0:
        del node[key]
    elif kind == 1:
        node[key] = copy.deepcopy(chance.choice(ODD))
    elif kind in (2, 3):
        node[key] = _near(node[key], chance)
    elif kind == 4:
        node[key] = copy.deepcopy(other[name])
    elif kind == 5 and isinstance(node, list):
        node.insert(key, copy.deepcopy(node[key]))
    elif isinstance(node, dict):
        node[_near(key, chance)] = node.pop(key) if kind == 6 else copy.deepcopy(node[key])
    return tree


def mutate(data: bytes, max_size: int, seed: int) -> bytes:
    """libFuzzer's custom mutator. What is no JSON is mutated as bytes; JSON too, now and then."""
    chance = random.Random(seed)
    try:
        tree = json.loads(data)
    except (ValueError, RecursionError):
        return bytes(atheris.Mutate(data, max_size))
    if chance.randrange(20) == 0:
        return bytes(atheris.Mutate(data, max_size))
    for _ in range(chance.choice((1, 1, 2, 4))):
        tree = edit(tree, chance)
    text = json.dumps(tree).encode()
    return text if len(text) <= max_size else bytes(atheris.Mutate(data, max_size))
