SUMMARY = "Interface to Linux subsystems, video among them"
DESCRIPTION = "Finds V4L2 devices and reads and sets their modes and controls, without a line of C."
HOMEPAGE = "https://github.com/tiagocoutinho/linuxpy"
BUGTRACKER = "https://github.com/tiagocoutinho/linuxpy/issues"
SECTION = "devel/python"
LICENSE = "GPL-3.0-or-later"
LIC_FILES_CHKSUM = "file://LICENSE;md5=1ebbd3e34237af26da5dc08a4e440464"

SRC_URI += "file://0001-pyproject-setuptools-of-2024.patch"
SRC_URI[sha256sum] = "7b234291babc6176a1fe239624f8e1907fc89dc5f7397809360e50e0531c7752"

inherit pypi python_setuptools_build_meta

RDEPENDS:${PN} += "\
    python3-asyncio \
    python3-core \
    python3-ctypes \
    python3-datetime \
    python3-fcntl \
    python3-io \
    python3-logging \
    python3-math \
    python3-mmap \
    python3-numbers \
    python3-pprint \
    python3-stringold \
    python3-xml \
"

BBCLASSEXTEND = "native nativesdk"
