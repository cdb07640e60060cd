"""docs/bundle.md against the schema: every field is there, with its unit and its meaning, and no other."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from vlad import manifest

DOCUMENT = (Path(__file__).resolve().parents[2] / "docs/bundle.md").read_text()
PARTS: dict[str, type[msgspec.Struct]] = {
    "Manifest": manifest._Manifest,
    **{
        name: part
        for name, part in vars(manifest).items()
        if isinstance(part, type) and issubclass(part, msgspec.Struct) and not name.startswith("_")
    },
}


def own_fields(part: str) -> list[msgspec.structs.FieldInfo]:
    """Without those that stand under the part that it extends."""
    extended = {
        field.name
        for base in PARTS[part].__mro__[1:]
        if base in PARTS.values()
        for field in msgspec.structs.fields(base)
    }
    return [field for field in msgspec.structs.fields(PARTS[part]) if field.name not in extended]


def rows(part: str) -> dict[str, list[str]]:
    """Field -> unit, meaning of the table under a part's heading."""
    sections = re.split(r"^### `(\w+)`\n", DOCUMENT, flags=re.MULTILINE)
    text = dict(zip(sections[1::2], sections[2::2], strict=True)).get(part, "")
    lines = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("| `")]
    return {name.strip(" `"): [cell.strip() for cell in rest] for name, *rest in lines}


def test_the_parts_are_those_of_the_schema() -> None:
    assert {"Manifest", "Block", "Golden"} <= set(PARTS)
    assert set(re.findall(r"^### `(\w+)`", DOCUMENT, flags=re.MULTILINE)) == set(PARTS)


@pytest.mark.parametrize("part", PARTS)
def test_every_field_has_a_unit_and_a_meaning(part: str) -> None:
    documented = rows(part)
    assert list(documented) == [field.encode_name for field in own_fields(part)]
    for name, cells in documented.items():
        assert len(cells) == 2 and all(cells), f"{part}.{name}: give unit (or –) and meaning"


@pytest.mark.parametrize("part", PARTS)
def test_a_number_has_a_unit(part: str) -> None:
    """`–` is for what is no quantity; of numbers, that is an index, an identifier or a version."""
    plain = {"format_version", "task", "token_ids"}
    for field in own_fields(part):
        kind = msgspec.inspect.type_info(field.type)
        kind = getattr(kind, "item_type", kind)
        if isinstance(kind, (msgspec.inspect.IntType, msgspec.inspect.FloatType)) and field.name not in plain:
            assert rows(part)[field.encode_name][0] != "–", f"{part}.{field.name}"
