SUMMARY = "JPEG encoding and decoding of NumPy arrays"
DESCRIPTION = "A thin module over libjpeg-turbo's TurboJPEG API; here the library of the image, not a copy."
HOMEPAGE = "https://github.com/jfolz/simplejpeg"
BUGTRACKER = "https://github.com/jfolz/simplejpeg/issues"
SECTION = "devel/python"
LICENSE = "MIT"
LIC_FILES_CHKSUM = "file://LICENSE;md5=4e1b2459f5d0026e696701cd45973647"

DEPENDS += "libjpeg-turbo python3-cython-native python3-numpy"

SRC_URI += "file://0001-build-against-the-system-s-libjpeg-turbo.patch"
SRC_URI[sha256sum] = "5ac7d9489eeb812c2e7ea5c283994a29d9fefdfe5ed7b86c09d485e0dd366689"

inherit pypi python_setuptools_build_meta

# It calls macros of NumPy with PyObject pointers, which GCC 14 refuses.
CFLAGS += "-Wno-error=incompatible-pointer-types"

# NumPy's headers from the target's sysroot, where NumPy 2 has them or where NumPy 1 has.
do_compile:prepend() {
    for core in _core core; do
        include="${STAGING_DIR_TARGET}${PYTHON_SITEPACKAGES_DIR}/numpy/$core/include"
        [ ! -d "$include" ] || break
    done
    export NUMPY_INCLUDE_DIR="$include"
}

RDEPENDS:${PN} += "\
    python3-core \
    python3-numpy \
"
