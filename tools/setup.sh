#!/bin/sh
# Installs what Squint builds and tests with: Debian 12 packages only. Does nothing when all are there.
set -eu
packages="gcc clang libomp-dev libclang-rt-14-dev clang-format meson ninja-build pkg-config
 libdnnl-dev libopenblas-dev liblapacke-dev libjansson-dev libpcre2-dev libutf8proc-dev
 libjpeg62-turbo-dev libpng-dev libwebp-dev libavformat-dev libavcodec-dev libavutil-dev libswscale-dev
 libcmocka-dev python3"
missing=""
for p in $packages; do
    dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing="$missing $p"
done
[ -n "$missing" ] || exit 0
run=""
if [ "$(id -u)" -ne 0 ]; then
    run=sudo
    command -v sudo >/dev/null || {
        echo "setup: not root and no sudo; install:$missing" >&2
        exit 1
    }
fi
echo "setup: installing$missing"
$run apt-get update -q
# shellcheck disable=SC2086
DEBIAN_FRONTEND=noninteractive $run apt-get install -y -q --no-install-recommends $missing
