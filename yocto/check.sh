#!/bin/sh
# What bitbake itself says of meta-vlad. Parses and plans; fetches and builds nothing.
#
#     yocto/check.sh DIRECTORY [STEP ...]      STEP: variables unpack parse plan layer; the first two take seconds
#
# DIRECTORY holds checkouts of one release: bitbake, openembedded-core and meta-openembedded, or what `kas checkout`
# made of them. With meta-freescale and meta-imx beside them, the i.MX 95 is checked, too. The layer is taken from the
# last commit of this tree. As root it runs as the user $VLAD_YOCTO_USER (builder): bitbake refuses root.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
sources=${1-}
if [ -z "$sources" ] || [ ! -d "$sources/openembedded-core/meta" ] || [ ! -x "$sources/bitbake/bin/bitbake" ] ||
    [ ! -d "$sources/meta-openembedded/meta-python" ]; then
    echo "check.sh: SKIPPED, NOTHING WAS CHECKED BY BITBAKE: '$sources' does not hold bitbake, openembedded-core and" \
        "meta-openembedded" >&2
    exit 0
fi
sources=$(cd "$sources" && pwd)
shift
steps=${*:-variables unpack parse plan layer}
user=${VLAD_YOCTO_USER-builder}

work=$(mktemp -d "${TMPDIR:-/var/tmp}/vlad-yocto.XXXXXX")
if [ -n "${VLAD_YOCTO_KEEP-}" ]; then echo "check.sh: everything is kept in $work"; else trap 'rm -rf "$work"' EXIT; fi
git clone -q --no-hardlinks "$here/.." "$work/vlad"
layer=$work/vlad/yocto/meta-vlad
as_user=
if [ "$(id -u)" = 0 ]; then
    id "$user" >/dev/null 2>&1 || { echo "check.sh: bitbake refuses root: useradd -m $user" >&2; exit 1; }
    as_user="setpriv --reuid=$user --regid=$(id -g "$user") --clear-groups"
fi

# configure NAME MACHINE DISTRO LAYER...: a build directory
configure() {
    build=$work/$1
    mkdir -p "$build/conf"
    {
        echo "MACHINE = \"$2\""
        echo "DISTRO = \"$3\""
        echo 'DISTRO_FEATURES:append = " vlad"'
        echo 'INIT_MANAGER = "systemd"'
        echo 'CONF_VERSION = "2"'
        echo 'ACCEPT_FSL_EULA = "1"'
        echo 'BB_NO_NETWORK = "1"'
        echo 'CONNECTIVITY_CHECK_URIS = ""'
        echo 'BB_HASHSERVE = ""'
        echo 'BB_SIGNATURE_HANDLER = "OEBasicHash"'
        echo 'INHERIT:remove = "uninative"'
        echo 'BB_NUMBER_PARSE_THREADS = "2"'
        # meta-imx asks for layers that are not needed to parse what is checked here.
        # ... and bitbake of scarthgap can be told so.
        [ "$1" = generic ] || ! grep -q scarthgap "$core/conf/layer.conf" || echo 'BB_DANGLINGAPPENDS_WARNONLY = "1"'
        [ "$1" = generic ] || echo 'BBMASK += "meta-imx-bsp/recipes-security meta-imx-bsp/recipes-bsp/trusted"'
    } > "$build/conf/local.conf"
    shift 3
    echo "BBPATH = \"$build\"" > "$build/conf/bblayers.conf"
    echo 'BBFILES ?= ""' >> "$build/conf/bblayers.conf"
    echo "BBLAYERS = \"$*\"" >> "$build/conf/bblayers.conf"
    [ -z "$as_user" ] || chown -R "$user" "$work"
}

# in_build COMMAND...: with bitbake's environment; its output is shown when it fails, or has errors in it
in_build() {
    echo "check.sh: $(basename "$build"): $*"
    # shellcheck disable=SC2086 # $as_user is several words or none
    if ! $as_user env -i HOME="$work" LC_ALL=en_US.UTF-8 BUILDDIR="$build" BBPATH="$build" \
        PATH="$sources/bitbake/bin:$sources/openembedded-core/scripts:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin" \
        sh -c 'cd "$BUILDDIR" && exec nice "$@"' - "$@" > "$build/log" 2>&1; then
        tail -n 40 "$build/log" >&2
        echo "check.sh: FAILED: $*" >&2
        exit 1
    fi
    if grep -E '^(ERROR|WARNING):.*(vlad|simplejpeg|structlog|mcap|msgspec|linuxpy)' "$build/log" >&2; then
        echo "check.sh: FAILED: bitbake is not content with the layer" >&2
        exit 1
    fi
}

check() {
    for step in $steps; do
        case $step in
            parse) in_build bitbake -p; grep -E '^Parsing of' "$build/log" ;;
            variables)
                for recipe in $recipes; do
                    # With -b, without parsing all layers; but it leaves bbappends out.
                    in_build bitbake -b "$recipe" -e
                    mv "$build/log" "$build/$(basename "$recipe" .bb).env"
                done
                PYTHONDONTWRITEBYTECODE=1 python3 "$here/check_variables.py" "$build" "$sources/openembedded-core" "$here/.."
                ;;
            unpack) in_build bitbake -b "$vlad" -c unpack ;;
            plan)
                if [ -n "$kernel" ]; then
                    in_build bitbake -e "$kernel"
                    mv "$build/log" "$build/$kernel.env"
                    python3 -B "$here/check_variables.py" "$build" "$sources/openembedded-core" "$here/.."
                fi
                in_build bitbake -n vlad-image packagegroup-vlad-bench; grep -E 'Attempted|tasks' "$build/log" | tail -n 1
                ;;
        esac
    done
}

core=$sources/openembedded-core/meta
oe=$sources/meta-openembedded
vlad=$layer/recipes-vlad/vlad/vlad_git.bb
own="$vlad $layer/recipes-vlad/packagegroups/packagegroup-vlad.bb"
recipes="$own $layer/recipes-vlad/images/vlad-image.bb $(echo "$layer"/recipes-devtools/python/*.bb)"
kernel=
configure generic qemuarm64 nodistro "$core" "$oe/meta-oe" "$oe/meta-python" "$layer"
check

case " $steps " in *" layer "*)
    configure layer qemuarm64 nodistro "$core"
    sed -i -e '/^DISTRO_FEATURES/d' "$build/conf/local.conf"
    in_build yocto-check-layer --no-auto-dependency --dependency "$oe/meta-oe" "$oe/meta-python" -- "$layer"
    grep -E '^INFO: .*(PASS|FAIL|skip)|^INFO: Ran|^INFO: vlad' "$build/log" || cat "$build/log"
esac

if [ -d "$sources/meta-imx/meta-imx-bsp" ] && [ -d "$sources/meta-freescale" ]; then
    recipes=$own kernel=linux-imx
    for machine in imx95-19x19-lpddr5-evk imx95-15x15-lpddr4x-frdm; do
        if [ ! -e "$sources/meta-imx/meta-imx-bsp/conf/machine/$machine.conf" ]; then
            echo "check.sh: SKIPPED: this meta-imx has no machine $machine" >&2
            continue
        fi
        configure "$machine" "$machine" fsl-imx-wayland "$core" "$sources"/meta-yocto/meta-poky "$sources"/poky/meta-poky \
            "$oe/meta-oe" "$oe/meta-python" "$oe/meta-multimedia" "$oe/meta-networking" "$sources/meta-freescale" \
            "$sources/meta-imx/meta-imx-bsp" "$sources/meta-imx/meta-imx-sdk" "$sources/meta-imx/meta-imx-ml" "$layer"
        check
    done
else
    echo "check.sh: SKIPPED for the i.MX 95: no meta-freescale and meta-imx in $sources" >&2
fi
echo "check.sh: all that was to be checked holds"
