SUMMARY = "vlad's benchmarks and tests, to run on a board without a network"
DESCRIPTION = "The suites, pytest and pytest-benchmark, and cyclictest, beside which the servo loop is measured."

inherit packagegroup

RDEPENDS:${PN} = "\
    rt-tests \
    stress-ng \
    vlad-suites \
"
