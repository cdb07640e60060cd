"""Which software OpenGL draws the pictures; to be settled before mujoco is first imported."""

from __future__ import annotations

import ctypes.util
import os
import sys

from vlad.errors import ConfigError


def choose() -> None:
    """Set MUJOCO_GL (to osmesa, or egl where only that is installed) unless it is set.

    mujoco reads it once, at its import. llvmpipe gets no threads of its own (LP_NUM_THREADS): they
    would fight the daemon for the cores and gain nothing at these picture sizes.
    """
    os.environ.setdefault("LP_NUM_THREADS", "0")
    if "MUJOCO_GL" not in os.environ and "mujoco" not in sys.modules:
        for backend, library in (("osmesa", "OSMesa"), ("egl", "EGL")):
            if ctypes.util.find_library(library):
                os.environ["MUJOCO_GL"] = backend
                return


def require() -> None:
    """Check that choose() found something.

    Raises:
        ConfigError: saying what to install.
    """
    if "MUJOCO_GL" not in os.environ:
        raise ConfigError(
            "cameras need software OpenGL: install libosmesa6 or libegl1 (or use --no-cameras), "
            "and set MUJOCO_GL=osmesa or egl where mujoco is imported before vlad.sim"
        )
