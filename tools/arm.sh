#!/bin/sh
# Builds Squint for 64-bit ARM on an x86-64 machine and tests it with an emulator: cross compiler, qemu-user, and
# ARM's libraries in a folder of their own, all from Debian 12. Nothing that is installed is changed.
# Usage: tools/arm.sh [TEST...] (default: checkasm and the unit tests of kernels; "all": all of them).
set -eu
cd "$(dirname "$0")/.."
out=$PWD/build-arm
root=$out/root
packages="gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user mmdebstrap meson ninja-build pkg-config python3"
libraries="libc6-dev,libgomp1,libstdc++6,libdnnl-dev,libjansson-dev,libpcre2-dev,libutf8proc-dev,libjpeg62-turbo-dev"
libraries="$libraries,libpng-dev,libwebp-dev,libavformat-dev,libavcodec-dev,libavutil-dev,libswscale-dev,libcmocka-dev"

missing=""
for p in $packages; do
    dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing="$missing $p"
done
if [ -n "$missing" ]; then
    echo "arm: first install them: sudo apt-get install --no-install-recommends$missing" >&2
    exit 1
fi

# Unpacked only: no ARM program runs here, so no root is needed.
if [ ! -f "$root/complete" ]; then
    mkdir -p "$out"
    mode=root
    [ "$(id -u)" -eq 0 ] || mode=chrootless
    mmdebstrap --mode=$mode --architectures=arm64 --variant=extract --include="$libraries" bookworm "$root"
    touch "$root/complete"
fi

cat >"$out/cross.ini" <<EOF
[constants]
root = '$root'
lib = root + '/usr/lib/aarch64-linux-gnu'
[binaries]
c = ['aarch64-linux-gnu-gcc', '--sysroot=' + root]
ar = 'aarch64-linux-gnu-ar'
strip = 'aarch64-linux-gnu-strip'
pkgconfig = 'pkg-config'
exe_wrapper = ['qemu-aarch64', '-L', root, '-cpu', 'max']
[properties]
sys_root = root
pkg_config_libdir = [lib + '/pkgconfig', root + '/usr/share/pkgconfig']
[host_machine]
system = 'linux'
cpu_family = 'aarch64'
cpu = 'aarch64'
endian = 'little'
EOF
[ -f "$out/build/build.ninja" ] || meson setup "$out/build" --cross-file "$out/cross.ini"
ninja -C "$out/build"

case "${1:-}" in
"") set -- checkasm matmul isas ;;
all) set -- ;;
esac
OMP_NUM_THREADS=${OMP_NUM_THREADS:-2} meson test -C "$out/build" --no-rebuild --print-errorlogs -t 20 "$@"
