#!/bin/bash
# Runs programs in a virtual machine with Debian's kernel: the host's root, read-only, under a
# tmpfs; real V4L2 drivers that the host has not. No KVM is needed; a boot takes about 6 s.
#
#     tests/vm/run.sh                       all of tests/vm/guest_*.py
#     tests/vm/run.sh tests/vm/guest_x.py   one
#
# Exit status 0 when each program ended with 0. Limit: $VM_TIMEOUT_S (default 240) per program.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
vm=$root/build/vm
"$root/tests/vm/prepare.sh"
version=$(cat "$vm/kernel-version")

boot() { # PROGRAM
    local out
    out=$(mktemp -d "$vm/out.XXXXXX")
    cat >"$out/boot.sh" <<G
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp PYTHONDONTWRITEBYTECODE=1
mkdir -p /lib/modules/$version /dev/pts /dev/shm
mount --bind $vm/kernel/lib/modules/$version /lib/modules/$version
mount -t devpts devpts /dev/pts; mount -t tmpfs tmpfs /dev/shm
cd $root
PYTHONPATH=$root $root/.venv/bin/python -u $1 >/mnt/log 2>&1
echo \$? >/mnt/status
sync; echo o >/proc/sysrq-trigger; sleep 10
G
    local started=$SECONDS
    timeout "${VM_TIMEOUT_S:-240}" qemu-system-x86_64 -M q35 -accel tcg,thread=multi -cpu max \
        -smp 2 -m 1G -nodefaults -nographic -no-reboot -serial stdio \
        -kernel "$vm/vmlinux" -initrd "$vm/initramfs.cpio" \
        -append "console=ttyS0 quiet panic=-1 mitigations=off nokaslr tsc=reliable" \
        -fsdev local,id=root,path=/,security_model=none,readonly=on,multidevs=remap \
        -device virtio-9p-pci,fsdev=root,mount_tag=root \
        -fsdev local,id=out,path="$out",security_model=none \
        -device virtio-9p-pci,fsdev=out,mount_tag=out >"$out/console" 2>&1 </dev/null || true
    echo "== $1: $((SECONDS - started)) s"
    cat "$out/log" 2>/dev/null || cat "$out/console"
    local status
    status=$(cat "$out/status" 2>/dev/null || echo "none: the guest did not come to its end")
    rm -rf "$out"
    [[ $status == 0 ]] || { echo "== $1: status $status" >&2; return 1; }
}

failed=0
if (($#)); then programs=("$@"); else programs=("$root"/tests/vm/guest_*.py); fi
for program in "${programs[@]}"; do
    boot "$(realpath "$program")" || failed=1
done
exit $failed
