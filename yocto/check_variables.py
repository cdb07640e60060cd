"""Judges what `bitbake -e` wrote: check_variables.py BUILD OPENEMBEDDED_CORE TREE. Called by check.sh.

BUILD has a NAME_VERSION.env for each recipe. Of RDEPENDS, it asks oe-core's own manifest which sub-package of Python
holds what the daemon imports."""

from __future__ import annotations

import ast
import json
import re
import sys
from pathlib import Path

NOT_ON_A_BOARD = {"sim", "train", "quantize", "build", "record", "dataset", "tflite", "plan", "evaluation"}
UNDER = ("demo.py", "report")  # of the package's own files: tools of the workstation


def variables(path: Path) -> dict[str, str]:
    """Name -> final value; functions are left out."""
    return dict(re.findall(r'^(?:export )?([\w:@+.-]+)="((?:[^"\\]|\\.)*)"$', path.read_text(), re.MULTILINE))


def imports(package: Path) -> set[str]:
    """Modules of the standard library that the daemon's part imports, anywhere in it."""
    found: set[str] = set()
    for path in package.rglob("*.py"):
        inside = path.relative_to(package)
        if inside.parts[0] in NOT_ON_A_BOARD or inside.name.startswith(UNDER):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module)
    return {name for name in found if name.partition(".")[0] in sys.stdlib_module_names}


def packages(manifest: Path, names: set[str]) -> set[str]:
    """The sub-packages, by oe-core's manifest. A module that it does not name is in the interpreter."""
    text = manifest.read_text()
    where: dict[str, str] = {}
    for package, entry in json.loads(re.sub(r"(?m)^#.*$", "", text)).items():
        for file in entry["files"]:
            if match := re.fullmatch(r"\$\{libdir\}/python\$\{PYTHON_MAJMIN\}/(?:lib-dynload/)?([\w/]+?)"
                                     r"/?(\.\*\.so|\.py|\.\*)?", file):
                where.setdefault(match[1].replace("/", "."), package)
    return {f"python3-{where[name]}" for module in names for name in (module, module.partition(".")[0])
            if name in where}


def main(build: Path, core: Path, tree: Path) -> None:
    env = {path.name.partition("_")[0].removesuffix(".env"): variables(path) for path in build.glob("*.env")}
    vlad, group = env["vlad"], env["packagegroup-vlad"]
    prefix = vlad["prefix"]

    needed = packages(core / "meta/recipes-devtools/python/python3/python3-manifest.json", imports(tree / "vlad"))
    missing = needed - set(vlad["RDEPENDS:vlad"].split())
    assert not missing, f"RDEPENDS:vlad lacks {sorted(missing)}"
    assert not {"onnxruntime", "linuxpy", "python3-linuxpy"} & set(vlad["RDEPENDS:vlad"].split())
    assert vlad["SYSTEMD_SERVICE:vlad"] == "vlad.service"
    assert vlad["SYSTEMD_AUTO_ENABLE:vlad"] == "disable"
    assert "--groups dialout,video" in vlad["USERADD_PARAM:vlad"]
    for path in (vlad["systemd_system_unitdir"], f"{prefix}/lib/sysusers.d", f"{prefix}/lib/tmpfiles.d/vlad.conf"):
        assert path in vlad["FILES:vlad"].split(), path
    assert vlad["FILES:vlad-imx95"].split() == [f"{prefix}/lib/tmpfiles.d/vlad-imx95.conf"]
    order = vlad["PACKAGES"].split()
    assert order.index("vlad-imx95") < order.index("vlad") > order.index("vlad-suites")
    assert "=native" not in vlad["CFLAGS"] + vlad["TUNE_CCARGS"]
    assert vlad["PACKAGE_ARCH"] == vlad["TUNE_PKGARCH"], "vlad is not to be built anew for each machine"
    imx95 = "mx95-nxp-bsp" in group["OVERRIDES"].split(":")
    recommended = set(group.get("RRECOMMENDS:packagegroup-vlad", "").split())
    assert ({"onnxruntime", "tensorflow-lite-neutron-delegate"} <= recommended) == imx95, recommended
    assert ("vlad-imx95" in group["RDEPENDS:packagegroup-vlad"].split()) == imx95
    if kernel := env.get("linux-imx"):
        for fragment in kernel["VLAD_KERNEL_FRAGMENTS"].split():
            assert f"file://{fragment}" in kernel["SRC_URI"], fragment
        assert "vlad-imx9.cfg" in kernel["VLAD_KERNEL_FRAGMENTS"]
    print(f"check_variables: {vlad['MACHINE']}: {vlad['TUNE_CCARGS'].strip()}; {len(needed)} sub-packages of Python; "
          f"recommended: {' '.join(sorted(recommended)) or 'nothing'}; recipes: {' '.join(sorted(env))}")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
