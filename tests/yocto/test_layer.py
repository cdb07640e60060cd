"""meta-vlad without bitbake: style, checksums, kas files, and that it agrees with the files that it installs.

What bitbake says of it: `make yocto SOURCES=...` (yocto/check.sh)."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

yaml = pytest.importorskip("yaml", reason="no kas here: pip install 'vlad[yocto]'")
jsonschema = pytest.importorskip("jsonschema", reason="no kas here: pip install 'vlad[yocto]'")
pytest.importorskip("oelint_adv", reason="no oelint-adv here: pip install 'vlad[yocto]'")

ROOT = Path(__file__).resolve().parents[2]
YOCTO = ROOT / "yocto"
LAYER = YOCTO / "meta-vlad"
RECIPES = sorted(LAYER.rglob("*.bb"))
METADATA = [*RECIPES, *sorted(LAYER.rglob("*.bbappend"))]
VLAD = (LAYER / "recipes-vlad/vlad/vlad_git.bb").read_text()
KAS = sorted((YOCTO / "kas").glob("*.yml"))
SERIES = ("scarthgap", "walnascar", "whinlatter", "wrynose")


def lint(paths: list[Path], release: str) -> list[str]:
    """Errors and warnings; whether home pages answer is for a machine with a network."""
    done = subprocess.run(
        [Path(sys.executable).parent / "oelint-adv", f"--release={release}", "--hide=info", "--quiet", "--jobs=2",
         "--suppress=oelint.vars.homepageping", "--color", *paths],
        capture_output=True, text=True, timeout=300, check=False)
    return [line for line in (done.stdout + done.stderr).splitlines() if re.search(r":(error|warning):", line)]


def value(text: str, name: str) -> str:
    """What a recipe assigns to `name`, on one line."""
    found = re.search(rf'^{re.escape(name)} \??\+?= "((?:[^"\\]|\\\n|\\.)*)"', text, re.MULTILINE)
    assert found, f"no {name}"
    return " ".join(found[1].replace("\\\n", " ").split())


@pytest.mark.parametrize("release", [SERIES[0], SERIES[-1]])
def test_oelint_finds_nothing(release: str) -> None:
    assert lint(METADATA, release) == []


def test_oelint_finds_a_mistake(tmp_path: Path) -> None:
    recipe = tmp_path / "broken_1.0.bb"
    recipe.write_text((LAYER / "recipes-devtools/python/python3-mcap_1.6.0.bb").read_text()
                      .replace("RDEPENDS:${PN}", "RDEPENDS_${PN}").replace('LICENSE = "MIT"\n', ""))
    said = "\n".join(lint([recipe], SERIES[0]))
    assert "LICENSE" in said and "RDEPENDS" in said, said


def test_every_exception_says_why() -> None:
    for path in [*METADATA, *LAYER.rglob("*.inc")]:
        lines = path.read_text().splitlines()
        for number, line in enumerate(lines):
            if "nooelint" in line:
                rules = re.findall(r"oelint[\w.]+", line)
                before = lines[number - 1] if number else ""
                told = " - " in line or before.startswith("#") or any(
                    rule in other and (lines[at - 1].startswith("#") or " - " in other)
                    for rule in rules for at, other in enumerate(lines[:number]) if at)
                assert told, f"{path.name}:{number + 1}: {line}"


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_licence_and_checksums_are_there(recipe: Path) -> None:
    text = recipe.read_text()
    assert value(text, "SUMMARY") and value(text, "DESCRIPTION")
    if "inherit packagegroup" in text or "core-image" in text:
        return  # no files of their own
    assert value(text, "LICENSE")
    assert re.search(r";md5=[0-9a-f]{32}\b", value(text, "LIC_FILES_CHKSUM"))
    if re.search(r"^inherit .*pypi", text, re.MULTILINE):
        assert re.fullmatch(r"[0-9a-f]{64}", value(text, "SRC_URI[sha256sum]"))
    for name in re.findall(r"file://([\w.-]+\.patch)", text):
        patch = (recipe.parent / recipe.stem.partition("_")[0] / name).read_text()
        assert "Upstream-Status: " in patch and "Signed-off-by: " in patch


def test_licence_of_the_daemon_is_the_one_of_this_tree() -> None:
    digest = hashlib.md5((ROOT / "LICENSE").read_bytes(), usedforsecurity=False).hexdigest()
    assert value(VLAD, "LIC_FILES_CHKSUM") == f"file://LICENSE;md5={digest}"
    assert f'version = "{value(VLAD, "PV").removesuffix("+git")}"' in (ROOT / "pyproject.toml").read_text()


def test_series() -> None:
    text = (LAYER / "conf/layer.conf").read_text()
    assert value(text, "LAYERSERIES_COMPAT_vlad").split() == list(SERIES)
    assert "imx" not in value(text, "LAYERDEPENDS_vlad"), "the layer is to parse without NXP's"


def test_user_is_the_one_of_sysusers() -> None:
    users, groups, member = {}, set(), set()
    for line in (ROOT / "systemd/sysusers.conf").read_text().splitlines():
        match line.split():
            case ["u", name, "-", *_]:
                users[name] = re.findall(r'"(.*)" (\S+)$', line)[0]
                groups.add(name)
            case ["g", name, "-"]:
                groups.add(name)
            case ["m", name, group]:
                member.add((name, group))
    ((user, (comment, home)),) = users.items()
    assert set(re.findall(r"--system ([\w-]+)", value(VLAD, "GROUPADD_PARAM:${PN}"))) == groups
    given = value(VLAD, "USERADD_PARAM:${PN}")
    for option in (f"--gid {user} ", f"--comment '{comment}'", f"--home-dir {home} ", "--system ", "/sbin/nologin "):
        assert option in given, option
    assert given.endswith(f" {user}")
    (supplementary,) = re.findall(r"--groups (\S+)", given)
    assert {(user, group) for group in supplementary.split(",")} == member


def test_every_file_of_systemd_is_installed() -> None:
    for path in (ROOT / "systemd").iterdir():
        assert path.name == "install.sh" or f"${{S}}/systemd/{path.name}" in VLAD, path.name


def test_fragments_are_named_and_well_formed() -> None:
    include = (LAYER / "recipes-kernel/linux/vlad-kernel.inc").read_text()
    fragments = sorted((LAYER / "recipes-kernel/linux/vlad-kernel").iterdir())
    assert {path.name for path in fragments} == set(re.findall(r"vlad-\w+\.cfg", include))
    for path in fragments:
        for line in path.read_text().splitlines():
            right = re.fullmatch(r"CONFIG_\w+=[ym]|# CONFIG_\w+ is not set|# (?!CONFIG_).*", line)
            assert right, f"{path.name}: {line}"


def test_fragments_have_what_the_doctor_wants() -> None:
    wanted = {"PREEMPT_RT=y", "HIGH_RES_TIMERS=y", "PSI=y", "IKCONFIG_PROC=y", "CPU_FREQ_GOV_PERFORMANCE=y",
              "CPU_ISOLATION=y", "USB_VIDEO_CLASS=m", "USB_ACM=m", "USB_SERIAL_CH341=m"}
    text = "\n".join(path.read_text() for path in (LAYER / "recipes-kernel/linux/vlad-kernel").iterdir())
    assert wanted <= set(re.findall(r"^CONFIG_(\w+=[ym])$", text, re.MULTILINE))
    assert "# CONFIG_RT_GROUP_SCHED is not set" in text


def schema() -> dict[str, object]:
    import kas

    loaded: dict[str, object] = json.loads((Path(str(kas.__file__)).parent / "schema-kas.json").read_text())
    return loaded


@pytest.mark.parametrize("path", KAS, ids=lambda path: path.stem)
def test_kas_file_is_right(path: Path) -> None:
    document = yaml.safe_load(path.read_text())
    jsonschema.validate(document, schema())
    for name in document["header"].get("includes", ()):
        assert (path.parent / name).exists(), name
    for name, repo in document.get("repos", {}).items():
        if "url" in repo:
            assert re.fullmatch(r"[0-9a-f]{40}", repo.get("commit", "")) or repo.get("tag"), f"{name} is not pinned"
        else:
            assert [layer for layer in repo["layers"] if not (ROOT / layer / "conf/layer.conf").exists()] == []


def test_a_misspelt_key_is_seen() -> None:
    document = yaml.safe_load((YOCTO / "kas/qemuarm64.yml").read_text())
    document["machin"] = document.pop("machine")
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, schema())


def test_kas_checks_out_what_is_local(tmp_path: Path) -> None:
    shutil.copytree(YOCTO, tmp_path / "yocto")
    core = tmp_path / "core"
    core.mkdir()
    (core / "oe-init-build-env").write_text('mkdir -p "$1/conf" && cd "$1"\n')  # kas looks for one
    (tmp_path / "yocto/kas/core.yml").write_text(
        "header: {version: 14, includes: [vlad.yml]}\nrepos: {core: {path: core, layers: {.: disabled}}}\n")
    done = subprocess.run(
        [Path(sys.executable).parent / "kas", "checkout", tmp_path / "yocto/kas/core.yml"], capture_output=True,
        text=True, timeout=120, cwd=tmp_path, env={**os.environ, "KAS_WORK_DIR": str(tmp_path)}, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "yocto/meta-vlad" in (tmp_path / "build/conf/bblayers.conf").read_text()
    assert 'DISTRO_FEATURES:append = " vlad"' in (tmp_path / "build/conf/local.conf").read_text()
