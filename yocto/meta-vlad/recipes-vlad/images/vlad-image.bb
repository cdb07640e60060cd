SUMMARY = "An image that is a robot arm's brain: vlad, ssh, and nothing with a screen"
DESCRIPTION = "core-image-minimal's base with the daemon and ssh. VLAD_IMAGE_BENCH = \"1\" adds the benchmarks and tests."
LICENSE = "MIT"

inherit core-image features_check

REQUIRED_DISTRO_FEATURES = "systemd"

# nooelint: oelint.vars.mispell.unknown - ours
VLAD_IMAGE_BENCH ?= "0"

IMAGE_FEATURES += "ssh-server-openssh"
IMAGE_INSTALL = "\
    packagegroup-core-boot \
    packagegroup-vlad \
    kernel-modules \
    ${@'packagegroup-vlad-bench' if bb.utils.to_boolean(d.getVar('VLAD_IMAGE_BENCH')) else ''} \
    ${CORE_IMAGE_EXTRA_INSTALL} \
"
