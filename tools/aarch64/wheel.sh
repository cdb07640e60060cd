#!/bin/sh
# The wheel for aarch64, cross-compiled for any such processor, in DIR/wheel, and unpacked in DIR/vlad.
#
#   tools/aarch64/wheel.sh DIR PYTHON    DIR: made by root.sh
set -eu
dir=$(realpath "$1") python=$2
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
include=$dir/sysroot/usr/include

# Where Python looks for how extensions are built: that of the root, under its own name.
mkdir -p "$dir/sysconfig"
cp "$dir/sysroot/usr/lib/python$version/_sysconfigdata__aarch64-linux-gnu.py" "$dir/sysconfig/"
rm -rf "$dir/wheel" "$dir/vlad" build/lib.linux-aarch64-*  # else what is no longer there stays in the wheel
env -u VLAD_MARCH -u VLAD_SANITIZE -u VLAD_COVERAGE -u VLAD_DEBUG \
    _PYTHON_HOST_PLATFORM=linux-aarch64 _PYTHON_SYSCONFIGDATA_NAME=_sysconfigdata__aarch64-linux-gnu \
    PYTHONPATH="$dir/sysconfig" CC=aarch64-linux-gnu-gcc AR=aarch64-linux-gnu-ar \
    LDSHARED="aarch64-linux-gnu-gcc -shared" CFLAGS="-I$include/python$version -I$include" \
    "$python" -m pip wheel -q --no-build-isolation --no-deps --wheel-dir "$dir/wheel" .
"$python" -m zipfile -e "$dir"/wheel/*.whl "$dir/vlad"
