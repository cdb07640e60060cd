#!/bin/bash
# Makes build/vm/{vmlinux,initramfs.cpio,kernel-version} from Debian's own kernel package, once.
# Debian 12 or later, amd64. Needs qemu-system-x86 busybox-static kmod cpio (and apt-get to fetch
# the kernel: nothing is installed). The kernel's version moves with updates: it is resolved anew
# only when build/vm is empty.
set -euo pipefail
vm=$(cd "$(dirname "$0")/../.." && pwd)/build/vm

missing=()
for program in qemu-system-x86_64:qemu-system-x86 busybox:busybox-static modprobe:kmod cpio:cpio; do
    PATH=$PATH:/usr/sbin:/sbin command -v "${program%%:*}" >/dev/null || missing+=("${program##*:}")
done
if ((${#missing[@]})); then
    echo "tests/vm needs packages: apt-get install --no-install-recommends ${missing[*]}" >&2
    exit 2
fi
case $vm in /tmp/*) echo "tests/vm: the guest has its own /tmp; move the project elsewhere" >&2; exit 2 ;; esac

mkdir -p "$vm"
exec 9>"$vm/.lock"
flock 9
[[ -e $vm/kernel-version ]] && exit 0
cd "$vm"
rm -rf kernel initramfs ./*.deb
package=$(apt-cache depends linux-image-amd64 | awk '/Depends: linux-image/ {print $2; exit}')
[[ $package ]] || { echo "tests/vm: apt knows no linux-image-amd64 (apt-get update?)" >&2; exit 2; }
apt-get -qq -o APT::Sandbox::User=root download "$package"
dpkg -x "$package"_*.deb kernel
rm "$package"_*.deb
version=$(basename kernel/lib/modules/*)
modules=kernel/lib/modules/$version
/sbin/depmod -b "$vm/kernel" "$version"

# The uncompressed ELF image boots by PVH and spares the emulator the decompression.
python3 - "kernel/boot/vmlinuz-$version" vmlinux <<'P'
import lzma, struct, sys, zlib
image = open(sys.argv[1], "rb").read()
setup_sectors = image[0x1F1] or 4
offset, length = struct.unpack_from("<II", image, 0x248)
start = (setup_sectors + 1) * 512 + offset
payload = image[start:start + length]
if payload[:6] == b"\xfd7zXZ\0":
    elf = lzma.LZMADecompressor().decompress(payload)
else:
    elf = zlib.decompressobj(31).decompress(payload)
open(sys.argv[2], "wb").write(elf)
P

# busybox, the modules for a 9p root, and an init that overlays a tmpfs on the host's root.
mkdir -p initramfs/{bin,proc,sys,dev,mnt/lower,mnt/up,newroot,lib/modules}
cp "$(command -v busybox)" initramfs/bin/busybox
for applet in sh mount insmod mkdir switch_root; do ln -s busybox initramfs/bin/$applet; done
for module in virtio_pci 9pnet_virtio 9p overlay; do
    /sbin/modprobe -d "$vm/kernel" -S "$version" --show-depends $module
done | awk '$1 == "insmod" && !seen[$2]++ {print $2}' | while read -r file; do
    cp "$file" initramfs/lib/modules/
    echo "insmod /lib/modules/$(basename "$file")"
done >initramfs/load.sh
cat >initramfs/init <<'I'
#!/bin/sh
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
. /load.sh
options=trans=virtio,version=9p2000.L,msize=524288
mount -t 9p -o $options,ro,cache=loose root /mnt/lower
mount -t tmpfs tmpfs /mnt/up; mkdir -p /mnt/up/u /mnt/up/w
mount -t overlay -o lowerdir=/mnt/lower,upperdir=/mnt/up/u,workdir=/mnt/up/w root /newroot
mount -t 9p -o $options,rw out /newroot/mnt
for m in proc sys dev; do mount -o move /$m /newroot/$m; done
mount -t tmpfs tmpfs /newroot/tmp; mount -t tmpfs tmpfs /newroot/run
exec switch_root /newroot /bin/bash /mnt/boot.sh
I
chmod +x initramfs/init
(cd initramfs && find . | cpio -o -H newc --quiet) >initramfs.cpio
ls "$modules" >/dev/null
echo "$version" >kernel-version
