#!/bin/bash
# Makes build/systemd/{root,root.img,initramfs.cpio,vmlinux}: a Debian root tree with systemd, and in it
# vlad as its users install it, from the wheel: a virtual environment in /opt/vlad and install.sh.
# Nothing of the host's is touched. The tree is the host's Debian release on amd64, unconfigured: no
# maintainer script runs. Delete build/systemd for current packages; vlad itself is installed anew
# whenever a file of it changed.
set -euo pipefail
repo=$(cd "$(dirname "$0")/../.." && pwd)
here=$repo/tests/systemd
out=$repo/build/systemd
root=$out/root
python=$repo/.venv/bin/python
mkdir -p "$out"
exec 9>"$out/.lock"
flock 9

"$repo/tests/vm/prepare.sh" # Debian's kernel
version=$(cat "$repo/build/vm/kernel-version")

base_tree() {
    local apt=$out/apt sources
    rm -rf "$root" "$apt"
    mkdir -p "$apt"/{state/lists/partial,cache/archives/partial,sources}
    touch "$apt/state/status"
    for sources in /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list; do
        [[ -e $sources ]] && cp "$sources" "$apt/sources/" && break
    done
    cat >"$apt/apt.conf" <<C
APT::Architecture "amd64"; APT::Architectures { "amd64"; };
Dir::State "$apt/state"; Dir::State::status "$apt/state/status"; Dir::Cache "$apt/cache";
Dir::Etc::sourcelist "/dev/null"; Dir::Etc::sourceparts "$apt/sources";
APT::Install-Recommends "false"; Debug::NoLocking "true"; APT::Sandbox::User "root";
C
    # The private state believes that nothing is installed, and no package pulls in essentials: all by name.
    APT_CONFIG=$apt/apt.conf apt-get update -qq
    APT_CONFIG=$apt/apt.conf apt-get install -y --download-only -qq systemd systemd-sysv udev kmod \
        python3 python3-venv bash dash coreutils diffutils findutils grep gzip hostname sed util-linux mount \
        procps base-files base-passwd login passwd libc-bin libstdc++6 libgomp1 e2fsprogs >"$apt/log"
    mkdir -p "$root"/usr/{bin,sbin,lib,lib64}
    for d in bin sbin lib lib64; do ln -sfn usr/$d "$root/$d"; done
    for deb in "$apt"/cache/archives/*.deb; do
        dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$root" --keep-directory-symlink
    done
    rm -rf "$apt"
    cp "$root/usr/share/base-passwd/passwd.master" "$root/etc/passwd"
    cp "$root/usr/share/base-passwd/group.master" "$root/etc/group"
    ln -sfn dash "$root/usr/bin/sh"
    ln -sfn "$(cd "$root/usr/bin" && ls python3.? python3.?? 2>/dev/null | head -1)" "$root/usr/bin/python3"
    mkdir -p "$root"/{proc,sys,dev,run,tmp,mnt,root,var/lib,var/log/journal,etc/systemd/system/multi-user.target.wants}
    echo /dev/vda / ext4 rw 0 1 >"$root/etc/fstab"
    echo 0123456789abcdef0123456789abcdef >"$root/etc/machine-id" # else firstboot asks for a key
    echo vlad-test >"$root/etc/hostname"
    in_root ldconfig
    in_root systemd-sysusers
    local unit
    for unit in systemd-firstboot.service systemd-resolved.service systemd-timesyncd.service \
        systemd-networkd.service systemd-logind.service systemd-hwdb-update.service getty.target \
        e2scrub_reap.service e2scrub_all.timer apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer \
        fstrim.timer systemd-pstore.service ldconfig.service; do
        ln -sfn /dev/null "$root/etc/systemd/system/$unit"
    done
    ln -sfn /lib/systemd/system/multi-user.target "$root/etc/systemd/system/default.target"
    in_root useradd --no-create-home --shell /bin/sh stranger
    modules
    touch "$root/.base"
}

# With /proc and the harmless devices, so that programs of the tree run.
in_root() {
    unshare --mount --fork --pid bash -ec '
        root=$1; shift
        mount --make-rprivate /
        mount -t proc proc "$root/proc"; mount -t tmpfs tmpfs "$root/dev"
        for n in null zero urandom random; do touch "$root/dev/$n"; mount --bind "/dev/$n" "$root/dev/$n"; done
        exec chroot "$root" env -i PATH=/usr/sbin:/usr/bin HOME=/root "$@"' - "$root" "$@"
}

# Of the kernel, the drivers that the tests use.
modules() {
    local from=$repo/build/vm/kernel/lib/modules/$version to=$root/lib/modules/$version file
    mkdir -p "$to"
    cp "$from"/modules.{builtin,builtin.modinfo,order} "$to/"
    for module in virtio_console xhci_pci ftdi_sio vivid dummy_hcd cdc_acm libcomposite usb_f_acm ext4; do
        /sbin/modprobe -d "$repo/build/vm/kernel" -S "$version" --show-depends $module
    done | awk '$1 == "insmod" && !seen[$2]++ {print $2}' | while read -r file; do
        install -D -m 644 "$file" "$to/${file#*/"$version"/}"
    done
    /sbin/depmod -b "$root" "$version"
}

install_vlad() {
    local source wheels=$out/wheels
    source=$(mktemp -d "$out/source.XXXXXX")
    (cd "$repo" && git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents -t "$source")
    mkdir -p "$wheels"
    rm -f "$wheels"/vlad-*.whl
    "$python" -m pip wheel -q --no-deps --no-build-isolation -w "$wheels" "$source"
    "$python" -m pip wheel -q --find-links "$wheels" -w "$wheels" "$wheels"/vlad-*.whl
    rm -rf "$source" "$root/opt/vlad"
    mkdir -p "$root/mnt/wheels"
    cp "$wheels"/*.whl "$root/mnt/wheels/"
    in_root python3 -m venv /opt/vlad
    in_root /opt/vlad/bin/pip install -q --no-index --find-links /mnt/wheels vlad
    rm -rf "$root/mnt/wheels"
    in_root /opt/vlad/share/vlad/systemd/install.sh
}

# The shipped policy with one of its cameras: an emulated machine cannot draw three.
[[ -e $out/sweep.vlad ]] || "$python" -m vlad.main build "$repo/assets/sweep/checkpoint" \
    --dataset "$repo/assets/sweep/dataset" --units degrees --skip-camera gripper --skip-camera left \
    -o "$out/sweep.vlad" >/dev/null

host=$("$python" -c 'import sys; print(*sys.version_info[:2], sep=".")')
if [[ $(/usr/bin/python3 -c 'import sys; print(*sys.version_info[:2], sep=".")') != "$host" ]]; then
    echo "tests/systemd: .venv has Python $host, which is not this Debian's: make it with PYTHON=/usr/bin/python3" >&2
    exit 2
fi
[[ -e $root/.base && -d $root/lib/modules/$version ]] || base_tree
key=$(cd "$repo" && git ls-files -z --cached --others --exclude-standard vlad csrc systemd configs pyproject.toml setup.py |
    xargs -0 sha256sum | sha256sum)
if [[ $(cat "$out/installed" 2>/dev/null) != "$key" ]]; then
    rm -f "$out/installed" "$out/root.img"
    install_vlad
    echo "$key" >"$out/installed"
fi
# The image of the tree; what the tests put beside vlad is copied over it by the initramfs, once.
if [[ ! -e $out/root.img || ! -e $root/var/lib/vlad/sweep.vlad/manifest.json ]]; then
    mkdir -p "$root/etc/vlad" "$root/var/lib/vlad"
    cp "$repo/vlad/sim/assets/calibration.json" "$root/var/lib/vlad/"
    rm -rf "$root/var/lib/vlad/sweep.vlad" "$out/root.img"
    cp -r "$out/sweep.vlad" "$root/var/lib/vlad/"
    agent=etc/systemd/system/test-agent.service
    ln -sfn "/$agent" "$root/etc/systemd/system/multi-user.target.wants/test-agent.service"
    cp -r "$here/guest/." "$root/"
    mke2fs -q -t ext4 -d "$root" -L vlad-root "$out/root.new" 3G
    mv "$out/root.new" "$out/root.img"
fi
cp -r "$here/guest/." "$root/"

rm -rf "$out/initramfs"
mkdir -p "$out/initramfs"/{bin,proc,sys,dev,newroot,lib/modules,guest}
cp -r "$here/guest/." "$out/initramfs/guest/"
cp "$(command -v busybox)" "$out/initramfs/bin/busybox"
for applet in sh mount insmod switch_root sleep cp touch; do ln -s busybox "$out/initramfs/bin/$applet"; done
for module in virtio_pci virtio_blk ext4; do
    /sbin/modprobe -d "$repo/build/vm/kernel" -S "$version" --show-depends $module
done | awk '$1 == "insmod" && !seen[$2]++ {print $2}' | while read -r file; do
    cp "$file" "$out/initramfs/lib/modules/"
    echo "insmod /lib/modules/$(basename "$file")"
done >"$out/initramfs/load.sh"
cat >"$out/initramfs/init" <<'I'
#!/bin/sh
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
. /load.sh
while [ ! -b /dev/vda ]; do sleep 0.1; done
mount -t ext4 /dev/vda /newroot || exec sh
[ -e /newroot/.guest ] || { cp -r /guest/. /newroot/; touch /newroot/.guest; }
for m in proc sys dev; do mount -o move /$m /newroot/$m; done
exec switch_root /newroot /lib/systemd/systemd
I
chmod +x "$out/initramfs/init"
(cd "$out/initramfs" && find . | cpio -o -H newc --quiet) >"$out/initramfs.cpio"
