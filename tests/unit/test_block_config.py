"""`[block.*]`: what is in a worker, and what contradicts itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from vlad import config as configuration
from vlad.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
BLOCKS = ("vision", "prefill", "context", "expert", "policy")


def load(tmp_path: Path, extra: str) -> configuration.Config:
    text = (ROOT / "configs/so101-sim.toml").read_text().replace('"../vlad', f'"{ROOT}/vlad')
    path = tmp_path / "vlad.toml"
    path.write_text(text + extra)
    return configuration.load(path, machine=False)


def in_worker(config: configuration.Config) -> list[str]:
    return [name for name in BLOCKS if getattr(config.block, name).in_worker]


@pytest.mark.parametrize(("extra", "expected"), [
    ("", []),
    ("[block.expert]\nworker = true\n", ["expert"]),
    ('[block.vision]\nprovider = "NeutronExecutionProvider"\n', ["vision"]),
    ('[block.vision]\nprovider = "NeutronExecutionProvider"\nworker = false\n', []),
])
def test_accelerators_are_in_workers_and_the_cpu_is_not_unless_told(
    tmp_path: Path, extra: str, expected: list[str]
) -> None:
    config = load(tmp_path, "\n" + extra)
    assert in_worker(config) == expected
    everything = configuration.with_workers(config)
    assert in_worker(everything) == list(BLOCKS)
    assert everything.block.vision.provider == config.block.vision.provider


@pytest.mark.fault(40)
@pytest.mark.parametrize(("extra", "named"), [
    ("[block.expert]\ntimeout_ms = 900\n", r"block\.expert\.timeout_ms.*worker = true"),
    ("[block.vision]\nallow_cpu_fallback = true\n", r"block\.vision\.allow_cpu_fallback.*this is the CPU"),
    ('[block.vision]\nprovider_options = { a = "b" }\n', r"block\.vision\.provider_options.*this is the CPU"),
    ('[block.vision]\ndriver = "/lib/x.so"\n', r"vision\.driver.*needs block\.vision\.delegate"),
    ('[block.expert]\nfirmware = "/lib/x.elf"\n', r"expert\.firmware.*needs block\.expert\.delegate"),
    ('[block.vision]\ndelegate_options = { a = "b" }\n', r"vision\.delegate_options.*needs block\.vision\.delegate"),
    ('[block.vision]\nprovider = "NeutronExecutionProvider"\ndelegate = "/x.so"\n', r"vision\.delegate.*has one"),
    ("[block.prefill]\nworker = true\ntimeout_ms = 2000\n[stage.vision]\nbound_ms = 900\n",
     r"block\.prefill\.timeout_ms.*above stage\.vision\.bound_ms"),
    ("[block.head]\nworker = true\n", r"block\.head.*unknown"),
    ("[block.expert]\nworker = 1\n", r"block\.expert\.worker"),
    ("[block.expert]\nworker = true\ntimeout_ms = 1\n", r"block\.expert\.timeout_ms"),
])  # fmt: skip
def test_f40_what_cannot_hold_is_an_error_with_its_key(tmp_path: Path, extra: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        load(tmp_path, "\n" + extra)
