# nooelint: oelint.var.mandatoryvar.HOMEPAGE - there is no public page to name; README.md is beside the layer
SUMMARY = "Runs a Vision-Language-Action policy on a robot arm's own board"
DESCRIPTION = "The daemon, its control program and its tools: frames in over V4L2, servo commands out over a \
serial bus, a LeRobot policy in between, and a hard check that no action is late."
SECTION = "robotics"
LICENSE = "Apache-2.0"
LIC_FILES_CHKSUM = "file://LICENSE;md5=3b83ef96387f14655fc854ddc3c6bd57"

DEPENDS += "python3-cython-native"

# Layer and source are one repository, so the source is what is checked out beside the layer: its last commit,
# not its working tree. A product pins a copy of its own, by a git:// URL and a commit.
PV = "0.1.0+git"
VLAD_SRC_URI ?= "git://${VLAD_CHECKOUT};protocol=file;nobranch=1;usehead=1"
VLAD_SRCREV ?= "${AUTOREV}"
SRC_URI = "${VLAD_SRC_URI};destsuffix=${BP}"
SRCREV = "${VLAD_SRCREV}"
# Where the checkout lies is no reason to build anew.
SRC_URI[vardepsexclude] += "VLAD_CHECKOUT"

inherit features_check python_setuptools_build_meta systemd useradd

REQUIRED_DISTRO_FEATURES = "systemd"

# linuxpy is GPL-3.0-or-later: without it cameras are named by their path, and `vlad cameras` is missing.
# cryptography is for bundles that must be signed.
PACKAGECONFIG ??= ""
PACKAGECONFIG[sign] = ",,,python3-cryptography"
PACKAGECONFIG[v4l2] = ",,,python3-linuxpy"

# A layer that was copied out of its repository would end every parse with an error of git's.
# nooelint: oelint.task.noanonpython
python () {
    tree = d.getVar("VLAD_CHECKOUT")
    if tree in d.getVar("VLAD_SRC_URI") and not os.path.exists(os.path.join(tree, ".git")):
        raise bb.parse.SkipRecipe("%s is no git checkout of vlad: set VLAD_SRC_URI and VLAD_SRCREV" % tree)
}

do_install:append() {
    # Looked for in PATH by the unit.
    ln -sr ${D}${PYTHON_SITEPACKAGES_DIR}/vlad/_native/vlad-safe-stop ${D}${bindir}/vlad-safe-stop

    install -d ${D}${systemd_system_unitdir}
    install -m 0644 ${S}/systemd/vlad.service ${S}/systemd/vlad-devices.target ${D}${systemd_system_unitdir}
    dropins='${D}${systemd_system_unitdir}/dev-vlad\x2dbus.device.d'
    install -d "$dropins"
    install -m 0644 ${S}/systemd/vlad-bus.device.conf "$dropins/vlad.conf"

    install -D -m 0644 ${S}/systemd/sysusers.conf ${D}${nonarch_libdir}/sysusers.d/vlad.conf
    install -D -m 0644 ${S}/systemd/tmpfiles.conf ${D}${nonarch_libdir}/tmpfiles.d/vlad.conf
    install -D -m 0644 ${S}/systemd/tmpfiles-imx95.conf ${D}${nonarch_libdir}/tmpfiles.d/vlad-imx95.conf

    install -d ${D}${nonarch_base_libdir}/udev/rules.d
    install -m 0644 ${S}/systemd/70-vlad.rules ${S}/systemd/69-vlad-names.rules.example \
        ${D}${nonarch_base_libdir}/udev/rules.d

    # install.sh does the above where there is no package; only the examples stay.
    rm -r ${D}${datadir}/vlad/systemd

    install -d ${D}${datadir}/vlad/suites
    cp -R --no-preserve=ownership ${S}/bench ${S}/tests ${S}/tools ${S}/configs ${S}/pyproject.toml \
        ${D}${datadir}/vlad/suites
    # Suites of the development machine alone.
    for suite in fuzz reference replay systemd tflite_runtime vm yocto; do
        rm -rf ${D}${datadir}/vlad/suites/tests/$suite
    done
}

PACKAGE_BEFORE_PN = "${PN}-imx95 ${PN}-suites"

# Beside the packages that they are of.
# nooelint: oelint.var.order.SUMMARY
SUMMARY:${PN}-imx95 = "Clock and kernel workers of the i.MX 95, set at boot"
SUMMARY:${PN}-suites = "Benchmarks and tests of vlad, to run on the board"

SYSTEMD_SERVICE:${PN} = "vlad.service"
# There is nothing to start before somebody has written /etc/vlad/vlad.toml.
SYSTEMD_AUTO_ENABLE:${PN} = "disable"

# As systemd/sysusers.conf says, which is installed too; tests/yocto compares them. By this class the user is
# there in a read-only root file system as well.
USERADD_PACKAGES = "${PN}"
GROUPADD_PARAM:${PN} = "--system vlad; --system vlad-operator"
# What sysusers.conf says, so a path and no variable.
# nooelint: oelint.vars.pathhardcode.localstatedir
USERADD_PARAM:${PN} = "--system --gid vlad --groups dialout,video --comment 'vlad robot arm' \
    --home-dir /var/lib/vlad --no-create-home --shell /sbin/nologin vlad"

FILES:${PN} += "\
    ${systemd_system_unitdir} \
    ${nonarch_libdir}/sysusers.d \
    ${nonarch_libdir}/tmpfiles.d/vlad.conf \
    ${nonarch_base_libdir}/udev/rules.d \
"
# Packages of this recipe alone have no other files to keep.
# nooelint: oelint.var.filesoverride
FILES:${PN}-imx95 = "${nonarch_libdir}/tmpfiles.d/vlad-imx95.conf"
# nooelint: oelint.var.filesoverride
FILES:${PN}-suites = "${datadir}/vlad/suites"

# By sub-package of Python; yocto/check.sh compares them with what the daemon imports.
RDEPENDS:${PN} += "\
    python3-compression \
    python3-core \
    python3-crypt \
    python3-ctypes \
    python3-curses \
    python3-difflib \
    python3-fcntl \
    python3-html \
    python3-io \
    python3-json \
    python3-mcap \
    python3-mmap \
    python3-msgspec \
    python3-netclient \
    python3-numbers \
    python3-numpy \
    python3-pyserial \
    python3-resource \
    python3-simplejpeg \
    python3-statistics \
    python3-structlog \
    python3-terminal \
    python3-threading \
    python3-tomllib \
"
RDEPENDS:${PN}-imx95 = "${PN}"
RDEPENDS:${PN}-suites = "\
    ${PN} \
    python3-hypothesis \
    python3-modules \
    python3-pytest \
    python3-pytest-benchmark \
"
