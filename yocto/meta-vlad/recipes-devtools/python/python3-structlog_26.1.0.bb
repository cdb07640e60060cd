SUMMARY = "Structured logging for Python"
DESCRIPTION = "Loggers that carry key-value pairs, and the chain of processors that renders them."
HOMEPAGE = "https://www.structlog.org/"
BUGTRACKER = "https://github.com/hynek/structlog/issues"
SECTION = "devel/python"
LICENSE = "MIT | Apache-2.0"
LIC_FILES_CHKSUM = "file://LICENSE-APACHE;md5=2ee41112a44fe7014dce33e26468ba93 \
                    file://LICENSE-MIT;md5=0473cdcf9c6ed3f81c08d886870daea5"

DEPENDS += "python3-hatch-fancy-pypi-readme-native python3-hatch-vcs-native"

SRC_URI[sha256sum] = "f63a716cbd1b1291cf7661de7794b455acfa4c43c5bcf1630e6ad5ddc1adb3b7"

inherit pypi python_hatchling

RDEPENDS:${PN} += "\
    python3-asyncio \
    python3-core \
    python3-datetime \
    python3-json \
    python3-logging \
    python3-netclient \
    python3-numbers \
    python3-pickle \
"

BBCLASSEXTEND = "native nativesdk"
