#!/bin/sh
# What the aarch64 tests need, in build/aarch64: an arm64 Python of Debian 12 (root/) and, for it, the built runtime wheel with
# nothing but its declared dependencies (site/), as on a board. Needs root for `apt-get install qemu-user`; safe to run again.
#   sh tests/aarch64/setup.sh PYTHON
set -eu
python=$1
home=$(pwd)/build/aarch64
mkdir -p "$home/lists/partial" "$home/debs" "$home/root" "$home/wheels"
if ! command -v qemu-aarch64 >/dev/null; then
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends qemu-user >/dev/null
fi
if [ ! -e "$home/root/usr/bin/python3.11" ]; then
  # Lists of their own: this machine's apt stays as it is.
  apt="apt-get -qq -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o Dir::State::Lists=$home/lists
    -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= -o APT::Sandbox::User=root"
  $apt update
  (cd "$home/debs" && $apt download libc6 libgcc-s1 libstdc++6 libgomp1 python3.11-minimal libpython3.11-minimal libpython3.11-stdlib \
    zlib1g libexpat1 libssl3 libffi8 libbz2-1.0 liblzma5 libsqlite3-0 libreadline8 libuuid1 libncursesw6 libtinfo6 libcrypt1 \
    libnsl2 libtirpc3 libdb5.3)
  for deb in "$home"/debs/*.deb; do dpkg -x "$deb" "$home/root"; done
fi
rm -rf "$home/site" "$home/wheels"
"$python" -m build --wheel --no-isolation --outdir "$home/wheels" runtime >/dev/null
"$python" -m pip install --quiet --disable-pip-version-check --no-compile --target "$home/site" --only-binary=:all: \
  --implementation cp --python-version 311 --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 \
  --platform manylinux_2_17_aarch64 --platform manylinux2014_aarch64 "$home"/wheels/*.whl
echo "aarch64: $(qemu-aarch64 --version | head -1); runtime wheel and its dependencies in build/aarch64/site"
