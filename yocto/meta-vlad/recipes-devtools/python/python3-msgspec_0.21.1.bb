SUMMARY = "Serialization and validation of JSON, MessagePack, YAML and TOML"
DESCRIPTION = "Declares messages as Python types; decodes and validates in one pass, in C."
HOMEPAGE = "https://jcristharif.com/msgspec/"
BUGTRACKER = "https://github.com/jcrist/msgspec/issues"
SECTION = "devel/python"
LICENSE = "BSD-3-Clause"
LIC_FILES_CHKSUM = "file://LICENSE;md5=c21402f8022478021f697044388b97c4"

DEPENDS += "python3-setuptools-scm-native"

SRC_URI += "file://0001-pyproject-setuptools-of-2024.patch"
SRC_URI[sha256sum] = "2313508e394b0d208f8f56892ca9b2799e2561329de9763b19619595a6c0f72c"

inherit pypi python_setuptools_build_meta

# There is no git history in an sdist.
export SETUPTOOLS_SCM_PRETEND_VERSION = "${PV}"

RDEPENDS:${PN} += "\
    python3-core \
    python3-datetime \
    python3-json \
    python3-netclient \
    python3-numbers \
"

BBCLASSEXTEND = "native nativesdk"
