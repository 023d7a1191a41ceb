#!/bin/sh
# Install the Debian packages that the Makefile needs (with the argument "bench" those of its peers
# too, with "fuzz" what fuzzing needs), or say in one line what is missing where that is not
# possible: not root, not Debian.
set -eu
python=${PYTHON3:-python3}
missing=
packages=

# need PACKAGE WHAT TEST…: unless the test succeeds, WHAT is missing and PACKAGE provides it.
need() {
	package=$1 what=$2
	shift 2
	if ! "$@" >/dev/null 2>&1; then
		missing="$missing${missing:+, }$what"
		packages="$packages $package"
	fi
}

python_header() {
	test -e "$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h"
}

libfuzzer() {
	test -e "$(clang -print-file-name=libclang_rt.fuzzer-x86_64.a)"
}

PATH=$PATH:/usr/sbin:/sbin
need python3 "Python 3.11 or later" "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'
need python3-venv "Python's venv and ensurepip" "$python" -c 'import ensurepip, venv'
need python3-dev "Python.h" python_header
need gcc "gcc" command -v gcc
need libc6-dev "<linux/kvm.h>" test -e /usr/include/linux/kvm.h
need binutils "ld" command -v ld
need acpica-tools "iasl" command -v iasl
need e2fsprogs "mke2fs" command -v mke2fs
need kmod "depmod" command -v depmod
need mmdebstrap "mmdebstrap" command -v mmdebstrap
need apt "apt-get" command -v apt-get
need qemu-system-common "qemu-storage-daemon" command -v qemu-storage-daemon
need qemu-utils "qemu-img" command -v qemu-img
need libslirp0 "libslirp" sh -c 'ldconfig -p | grep -q "libslirp\.so\.0"'
need libslirp-dev "<libslirp.h>" test -e /usr/include/slirp/libslirp.h
need passt "passt" command -v passt
need iproute2 "ip" command -v ip
need tshark "tshark" command -v tshark
need gdb "gdb" command -v gdb
need tmux "tmux" command -v tmux
if [ "${1-}" = bench ]; then
	need qemu-system-x86 "qemu-system-x86_64" command -v qemu-system-x86_64
fi
if [ "${1-}" = fuzz ]; then
	need clang "clang" command -v clang
	need libclang-rt-14-dev "libFuzzer" libfuzzer
fi

debian=$(. /etc/os-release 2>/dev/null && echo "${ID-}")
if [ -z "$missing" ]; then
	if apt-cache show linux-image-cloud-amd64 >/dev/null 2>&1 || [ "$(id -u)" != 0 ]; then
		exit
	fi
elif [ "$(id -u)" != 0 ] || [ "$debian" != debian ]; then
	echo "Missing: $missing. Install them, or run this as root on Debian 12, where it does so." >&2
	exit 1
fi
echo "Installing Debian packages:${packages:- none, fetching the package lists}"
apt-get -qq update
if [ -n "$packages" ]; then
	# shellcheck disable=SC2086  # a list of words
	DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install $packages >/dev/null
fi
