#!/bin/sh
# Makes the vlad of this environment the machine's: units, user, device rules, names in /usr/local/bin.
#
#     python3 -m venv /opt/vlad && /opt/vlad/bin/pip install vlad-*.whl
#     /opt/vlad/share/vlad/systemd/install.sh [--board imx95]
#
# Runs again after an upgrade. Starts and enables nothing. As root; also in a chroot that is to be flashed.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
prefix=$(cd "$here/../../.." && pwd)
board=
case $#:${1-} in
    0:) ;;
    2:--board) board=$2 ;;
    *) echo "usage: install.sh [--board imx95]" >&2; exit 2 ;;
esac
if [ -n "$board" ] && [ ! -e "$here/tmpfiles-$board.conf" ]; then
    echo "install.sh: no settings for a board named $board in $here" >&2
    exit 2
fi
safe_stop=$("$prefix/bin/python" -c 'from vlad.safe_stop import program; print(program())')
[ -x "$safe_stop" ] || { echo "install.sh: $safe_stop is not there or not executable" >&2; exit 1; }

local=/usr/local
mkdir -p $local/bin $local/lib/systemd/system $local/lib/sysusers.d $local/lib/tmpfiles.d $local/lib/udev/rules.d
for program in "$prefix/bin/vlad" "$prefix/bin/vladctl" "$safe_stop"; do
    ln -sfn "$program" "$local/bin/$(basename "$program")"
done
put() { install -m 644 "$here/$1" "$local/lib/$2"; }
put vlad.service systemd/system/
put vlad-devices.target systemd/system/
mkdir -p "$local/lib/systemd/system/dev-vlad\\x2dbus.device.d"
put vlad-bus.device.conf 'systemd/system/dev-vlad\x2dbus.device.d/vlad.conf'
put sysusers.conf sysusers.d/vlad.conf
put tmpfiles.conf tmpfiles.d/vlad.conf
[ -z "$board" ] || put "tmpfiles-$board.conf" "tmpfiles.d/vlad-$board.conf"
put 70-vlad.rules udev/rules.d/
put 69-vlad-names.rules.example udev/rules.d/

systemd-sysusers "$local/lib/sysusers.d/vlad.conf"
systemd-tmpfiles --create "$local/lib/tmpfiles.d/vlad.conf"
if [ -d /run/systemd/system ]; then
    [ -z "$board" ] || systemd-tmpfiles --boot --create "$local/lib/tmpfiles.d/vlad-$board.conf"
    udevadm control --reload
    udevadm trigger --subsystem-match=tty --subsystem-match=video4linux --subsystem-match=usb
    systemctl daemon-reload
fi
if [ ! -e /etc/vlad/vlad.toml ]; then
    echo "install.sh: now write /etc/vlad/vlad.toml (examples: $here/../configs), then: vlad doctor"
fi
