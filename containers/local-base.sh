#!/usr/bin/env bash
# A base image for hosts without a registry: a minimal Debian made by debootstrap from the distribution's own archive, with a CPython 3.12
# of this host, its C compiler left out. For tests and for the CPU demo; it is not byte-identical from one day to the next, since the
# archive moves: images for others are built on the digests that the Containerfiles name.
#   containers/local-base.sh PYTHON_PREFIX NAME [SUITE [PACKAGES]]      needs root, debootstrap and buildah
# PYTHON_PREFIX is the folder that holds bin/python3.12, NAME the image to make, SUITE Debian's name (default bookworm), PACKAGES more of
# Debian's, with commas: the CPU demo wants bubblewrap,libnuma1,git,mount,python3 (the sandboxes' own Python).
set -euo pipefail

prefix="$(realpath "${1:?PYTHON_PREFIX}")"
name="${2:?NAME}"
suite="${3:-bookworm}"
packages="ca-certificates${4:+,$4}"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

debootstrap --variant=minbase --include="$packages" "$suite" "$work/root" > "$work/log" 2>&1 || { tail "$work/log" >&2; exit 1; }

# The Python, at the path it was built for: without its tests and without what was installed into it, with the libraries of this host that
# the base lacks, and readable for everybody.
mkdir -p "$work/root$prefix"
cp -a "$prefix/." "$work/root$prefix/"
rm -rf "$work/root$prefix/lib/python3.12/test" "$work/root$prefix/lib/python3.12/site-packages/"*
find "$work/root$prefix" -name __pycache__ -type d -prune -exec rm -rf {} +
folder="$prefix"
while [ "$folder" != / ]; do
  chmod a+rx "$work/root$folder"
  folder="$(dirname "$folder")"
done
ln -s "$prefix/bin/python3.12" "$work/root/usr/local/bin/python3.12"
find "$prefix/bin/python3.12" "$prefix/lib" -name '*.so*' -o -name python3.12 -type f | xargs ldd 2> /dev/null \
  | sed -n 's|.*=> \(/[^ ]*\) .*|\1|p' | sort -u | while read -r library; do
  case "$library" in "$prefix"/*) continue ;; esac
  if [ ! -e "$work/root$library" ]; then
    mkdir -p "$work/root$(dirname "$library")"
    cp -L "$library" "$work/root$library"
  fi
done
chroot "$work/root" /sbin/ldconfig
chroot "$work/root" /usr/local/bin/python3.12 -c 'import ctypes, lzma, sqlite3, ssl'

# Certificates of this host, which may know a proxy's; every tool in the image is told to use them.
cp /etc/ssl/certs/ca-certificates.crt "$work/root/etc/ssl/certs/ca-certificates.crt"
rm -rf "$work/root/var/cache/apt" "$work/root/var/lib/apt/lists" "$work/root/var/log"/*

container="$(buildah from scratch)"
buildah add --quiet "$container" "$work/root" / > /dev/null
buildah config --env SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt --env UV_SYSTEM_CERTS=1 "$container"
buildah commit --quiet --rm --timestamp 0 "$container" "$name"
