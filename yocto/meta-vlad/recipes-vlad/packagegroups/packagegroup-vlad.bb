SUMMARY = "vlad, and what makes it useful on a board"
DESCRIPTION = "The daemon and what it recommends on this machine: an inference runtime, the NPU's delegate."

# By machine, so before the class.
PACKAGE_ARCH = "${MACHINE_ARCH}"

inherit packagegroup

RDEPENDS:${PN} = "v4l-utils vlad"
# The override is of meta-freescale, as below.
# nooelint: oelint.vars.specific
RDEPENDS:${PN}:append:mx95-nxp-bsp = " vlad-imx95"

# NXP's: meta-imx-ml or meta-freescale-ml. Recommended, so that the layer is usable without either.
# ONNX Runtime brings its Python module, and since LF6.12 the NPU's execution provider.
VLAD_INFERENCE ?= ""
# nooelint: oelint.vars.specific
VLAD_INFERENCE:mx95-nxp-bsp ?= "onnxruntime tensorflow-lite tensorflow-lite-neutron-delegate neutron"
RRECOMMENDS:${PN} = "${VLAD_INFERENCE}"
