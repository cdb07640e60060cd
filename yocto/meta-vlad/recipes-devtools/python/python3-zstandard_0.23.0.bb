SUMMARY = "Bindings of the Zstandard compression library"
DESCRIPTION = "meta-python has it since walnascar; this recipe is for scarthgap alone."
HOMEPAGE = "https://github.com/indygreg/python-zstandard"
BUGTRACKER = "https://github.com/indygreg/python-zstandard/issues"
SECTION = "devel/python"
LICENSE = "BSD-3-Clause"
LIC_FILES_CHKSUM = "file://LICENSE;md5=3ae87c50fd64b6f0942823686871e758"

SRC_URI[sha256sum] = "b2d8c62d08e7255f68f7a740bae85b3c9b8e5466baa9cbf7f57f1cde0ac6bc09"

# Its pyproject.toml asks for a setuptools older than any release has, so setup.py.
inherit pypi setuptools3

# The C extension with the libzstd of the sdist, as the wheel has it.
SETUPTOOLS_BUILD_ARGS = "--no-cffi-backend"

RDEPENDS:${PN} += "\
    python3-core \
    python3-io \
"

# A class for one recipe would be longer.
# nooelint: oelint.task.noanonpython
python () {
    if "scarthgap" not in (d.getVar("LAYERSERIES_CORENAMES") or "").split():
        raise bb.parse.SkipRecipe("meta-python has python3-zstandard since walnascar")
}

BBCLASSEXTEND = "native nativesdk"
