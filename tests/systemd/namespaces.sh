#!/bin/bash
# systemd as PID 1 in namespaces of its own, over build/systemd/root; the tree is never written.
#     namespaces.sh EXCHANGE_DIRECTORY BUS_PTY
# EXCHANGE_DIRECTORY is /mnt inside, with the agent's FIFOs and the journal's copy; BUS_PTY is
# /dev/vlad-bus there; /dev/shm is the host's, for the simulated cameras. As root. To be killed with
# SIGKILL: unshare holds SIGTERM back while its child lives.
set -euo pipefail
export root exchange=$1 bus=$2 T
root=$(cd "$(dirname "$0")/../.." && pwd)/build/systemd/root
T=$exchange/root
mkdir -p "$T"
hierarchy=/sys/fs/cgroup
[[ -e $hierarchy/cgroup.procs ]] || hierarchy=/sys/fs/cgroup/unified
group=$hierarchy/vlad-test.$$
mkdir "$group"
echo $$ >"$group/cgroup.procs"
exec unshare --mount --uts --ipc --net --pid --cgroup --fork --kill-child bash -ec '
    mount --make-rprivate /
    mount -t tmpfs tmpfs "$T"; mkdir "$T/u" "$T/w" "$T/root"; R=$T/root
    mount -t overlay -o lowerdir="$root",upperdir="$T/u",workdir="$T/w" ov "$R"
    mount -t proc proc "$R/proc"; mount -t sysfs -o ro sysfs "$R/sys"; mount -t cgroup2 cgroup2 "$R/sys/fs/cgroup"
    mount -t tmpfs -o mode=755 tmpfs "$R/dev"
    for n in null zero full random urandom tty; do touch "$R/dev/$n"; mount --bind "/dev/$n" "$R/dev/$n"; done
    mkdir "$R/dev/pts" "$R/dev/shm"; mount --bind /dev/shm "$R/dev/shm"
    mount -t devpts -o newinstance,ptmxmode=666,mode=620 devpts "$R/dev/pts"
    ln -s pts/ptmx "$R/dev/ptmx"; ln -s /proc/self/fd "$R/dev/fd"
    for i in 0:stdin 1:stdout 2:stderr; do ln -s "fd/${i%%:*}" "$R/dev/${i##*:}"; done
    touch "$R/dev/vlad-bus"; mount --bind "$bus" "$R/dev/vlad-bus"
    mount -t tmpfs tmpfs "$R/run"; mount -t tmpfs tmpfs "$R/tmp"; mount --bind "$exchange" "$R/mnt"
    : >"$R/etc/fstab"
    echo vlad-test >/proc/sys/kernel/hostname
    cd "$R"; mkdir -p oldroot; pivot_root . oldroot; umount -l /oldroot
    exec env -i container=vladns PATH=/usr/sbin:/usr/bin TERM=dumb /lib/systemd/systemd --log-target=console --show-status=0'
