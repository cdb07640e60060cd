"""Builds the C core once as a static library, the Cython modules over it, and vlad-safe-stop.

Switches (environment): VLAD_SANITIZE=1 (ASan + UBSan), VLAD_COVERAGE=1 (gcov), VLAD_DEBUG=1
(-O0, assertions, Cython bounds checks), VLAD_MARCH=cortex-a55 (-mcpu/-march; kernels choose by the
processor that they run on, whatever this says).
CC, CFLAGS, LDFLAGS and LDSHARED of a cross build are obeyed; what the target is, the compiler says.
Everything else is in pyproject.toml.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent
MAINS = {"safe_stop.c"}
CORE = sorted(str(p.relative_to(ROOT)) for p in (ROOT / "csrc").glob("*.c") if p.name not in MAINS)
HEADERS = sorted(str(p.relative_to(ROOT)) for p in (ROOT / "csrc").glob("*.h"))
SAFE_STOP = "vlad/_native/vlad-safe-stop"
FUSED = "vlad/_native/vlad-fused.so"  # operators for ONNX Runtime
FUSED_SOURCES = sorted(str(p.relative_to(ROOT)) for p in (ROOT / "csrc/fused").glob("*.c"))
FUSED_HEADERS = sorted(str(p.relative_to(ROOT)) for p in (ROOT / "csrc/fused").glob("*.h"))
KERNELS = {  # files that end so are of this machine, and compiled so; csrc/Makefile has the same
    "_amx.c": ("x86_64", ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512bf16", "-mamx-tile",
                          "-mamx-bf16"]),
    # Scheduling loads more ahead than there are registers; sums and products are rounded where the source says.
    "_neon.c": ("aarch64", ["-fno-schedule-insns", "-ffp-contract=off"]),
}

DEBUG = os.environ.get("VLAD_DEBUG") == "1"
WARNINGS = ["-Wall", "-Wextra", "-Wshadow", "-Wconversion"]
FLAGS = ["-std=gnu11", "-fPIC", "-pthread", *(["-O0", "-g3"] if DEBUG else ["-O2", "-g", "-DNDEBUG"])]
LINK = ["-pthread"]
if os.environ.get("VLAD_SANITIZE") == "1":
    FLAGS += ["-fsanitize=address,undefined", "-fno-omit-frame-pointer"]
    LINK += ["-fsanitize=address,undefined"]
if os.environ.get("VLAD_COVERAGE") == "1":
    FLAGS += ["--coverage", "-O0"]
    LINK += ["--coverage"]


class BuildNative(build_ext):
    """build_ext that first compiles csrc/ into one archive and links vlad-safe-stop from it."""

    def build_extensions(self) -> None:
        asked = subprocess.run([*self.compiler.compiler_so, "-dumpmachine"], capture_output=True, text=True, check=True)
        machine = asked.stdout.partition("-")[0]  # of the target: "x86_64", "aarch64"
        if march := os.environ.get("VLAD_MARCH"):
            FLAGS.append(f"-{'mcpu' if machine == 'aarch64' else 'march'}={march}")  # of the extensions, too
        objects = self.compiler.compile(
            CORE, output_dir=self.build_temp, include_dirs=["csrc"],
            extra_postargs=FLAGS + WARNINGS, depends=HEADERS,
        )
        self.compiler.create_static_lib(objects, "vladcore", output_dir=self.build_temp)
        for extension in self.extensions:
            extension.library_dirs.append(self.build_temp)
        if (ROOT / "csrc/safe_stop.c").exists():
            main = self.compiler.compile(
                ["csrc/safe_stop.c"], output_dir=self.build_temp, include_dirs=["csrc"],
                extra_postargs=FLAGS + WARNINGS, depends=HEADERS,
            )
            self.compiler.link_executable(
                main, str(Path(self.build_lib) / SAFE_STOP), libraries=["vladcore"],
                library_dirs=[self.build_temp], extra_postargs=LINK,
                extra_preargs=shlex.split(os.environ.get("LDFLAGS", "")),  # setuptools gives them to libraries only
            )
        self.build_fused(machine)
        super().build_extensions()

    def build_fused(self, target: str) -> None:
        """The operators, with the kernels of the machine that is built for. Once loaded they stay: threads of any
        age end through scratch.c.
        """
        objects = []
        for source in FUSED_SOURCES:
            machine, flags = next((of for end, of in KERNELS.items() if source.endswith(end)), (target, []))
            if machine == target:
                objects += self.compiler.compile(
                    [source], output_dir=self.build_temp, depends=FUSED_HEADERS,
                    extra_postargs=[*FLAGS, "-O3", "-fvisibility=hidden", *WARNINGS, *flags],
                )
        self.compiler.link_shared_object(objects, str(Path(self.build_lib) / FUSED),
                                         extra_postargs=[*LINK, "-Wl,-z,nodelete"])

    def copy_extensions_to_source(self) -> None:
        """What --inplace does with extensions, for the program too."""
        super().copy_extensions_to_source()
        for name in (SAFE_STOP, FUSED):
            built = Path(self.build_lib) / name
            if built.exists():
                self.copy_file(str(built), str(ROOT / name))


setup(
    license="Apache-2.0",
    ext_modules=cythonize(
        [
            Extension(
                f"vlad._native.{path.stem}", [str(path.relative_to(ROOT))],
                include_dirs=["csrc"], libraries=["vladcore"], depends=[*CORE, *HEADERS],
                extra_compile_args=FLAGS, extra_link_args=LINK,
            )
            for path in sorted((ROOT / "vlad/_native").glob("*.pyx"))
        ],
        compiler_directives={
            "language_level": 3, "boundscheck": DEBUG, "wraparound": False,
            "initializedcheck": DEBUG, "embedsignature": True,
        },
        build_dir="build/cython",
    ),
    cmdclass={"build_ext": BuildNative},
)
