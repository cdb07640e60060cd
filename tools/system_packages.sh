#!/bin/sh
# Installs the named Debian packages that are missing, and says which. Elsewhere it names them.
set -eu
missing=
for package in "$@"; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q "ok installed" ||
        missing="$missing $package"
done
[ -n "$missing" ] || exit 0
if ! command -v apt-get >/dev/null; then
    echo "setup: not a Debian system: please install what these packages hold:$missing" >&2
    exit 0
fi
sudo=
if [ "$(id -u)" != 0 ]; then
    sudo=$(command -v sudo) || { echo "setup: please install as root:$missing" >&2; exit 1; }
fi
echo "setup: installing Debian packages:$missing"
$sudo apt-get update -qq
DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends $missing >/dev/null
