#!/bin/sh
# An arm64 root for user-mode emulation, in DIR: Debian's Python and C libraries, unpacked and not installed (no
# maintainer script runs, so nothing needs emulation and nothing outside DIR changes), and the Python packages of
# this machine's environment as aarch64 wheels.
#
#   tools/aarch64/root.sh DIR PYTHON     PYTHON: the environment whose releases are taken
set -eu
mkdir -p "$1"
dir=$(cd "$1" && pwd) python=$2
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
apt=$dir/apt sysroot=$dir/sysroot site=$dir/site

# A private state of apt, of arm64 alone, with this machine's sources.
rm -rf "$apt" "$sysroot" "$site"
mkdir -p "$apt/state/lists/partial" "$apt/cache/archives/partial" "$apt/sources" "$sysroot" "$site"
touch "$apt/state/status"
for from in /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list; do
    [ ! -s "$from" ] || cp "$from" "$apt/sources/debian.${from##*.}"
done
cat > "$apt/apt.conf" <<CONF
APT::Architecture "arm64"; APT::Architectures { "arm64"; };
Dir::State "$apt/state"; Dir::State::status "$apt/state/status"; Dir::Cache "$apt/cache";
Dir::Etc::sourcelist "/dev/null"; Dir::Etc::sourceparts "$apt/sources";
APT::Install-Recommends "false"; APT::Sandbox::User "root"; Debug::NoLocking "true";
CONF
APT_CONFIG=$apt/apt.conf apt-get update -qq
if ! APT_CONFIG=$apt/apt.conf apt-get install -y -qq --download-only "python$version-minimal" \
    "libpython$version-stdlib" "libpython$version-dev" libstdc++6 libgomp1 > "$apt/log" 2>&1; then
    cat "$apt/log" >&2
    echo "aarch64: this Debian has no Python $version for arm64: make .venv with its own python3" >&2
    exit 1
fi
for link in bin sbin lib; do
    mkdir -p "$sysroot/usr/$link"
    ln -s "usr/$link" "$sysroot/$link"
done
for package in "$apt"/cache/archives/*.deb; do
    dpkg-deb --fsys-tarfile "$package" | tar -x -C "$sysroot" --keep-directory-symlink
done
rm -rf "$apt" "$sysroot"/usr/share/doc "$sysroot/usr/lib/python$version"/config-*/*.a
find "$sysroot/usr/lib" -name 'libpython*.a' -delete

# The releases that the tests run with here.
"$python" -m pip list --format=freeze --exclude-editable > "$dir/releases.txt"
compact=$(echo "$version" | tr -d .)
"$python" -m pip install -q --target "$site" --constraint "$dir/releases.txt" --only-binary=:all: \
    --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 --platform manylinux_2_24_aarch64 \
    --platform manylinux_2_17_aarch64 --platform manylinux2014_aarch64 \
    --python-version "$version" --implementation cp --abi "cp$compact" --abi abi3 --abi none \
    numpy onnxruntime onnx pyarrow rich tokenizers msgspec structlog pyserial simplejpeg mcap pytest hypothesis
