SUMMARY = "Reader and writer of the MCAP log file format"
DESCRIPTION = "A container of timestamped messages with an index, which robotics tools read."
HOMEPAGE = "https://mcap.dev/"
BUGTRACKER = "https://github.com/foxglove/mcap/issues"
SECTION = "devel/python"
LICENSE = "MIT"
# The sdist has no licence file: the line of its metadata.
LIC_FILES_CHKSUM = "file://PKG-INFO;beginline=6;endline=6;md5=2862203650706153a696787039ebd509"

SRC_URI[sha256sum] = "d9aa1d9706ada964740536c7598b735a5aab677493d52c2be59fbd7467ec5664"

inherit pypi python_setuptools_build_meta

RDEPENDS:${PN} += "\
    python3-compression \
    python3-io \
    python3-lz4 \
    python3-zstandard \
"

BBCLASSEXTEND = "native nativesdk"
