#!/bin/sh
# Builds pyattn for ARM64 on another machine and runs pytest on it: Debian's cross compiler, and qemu in place of the CPU.
# Everything lands in build/aarch64, nothing in the system: packages of Debian are unpacked there, not installed.
# Usage: tests/tools/aarch64.sh python-with-pip [arguments of pytest]
set -eu
cd "$(dirname "$0")/../.."
pip_python=$(realpath -s "$1") && shift

for tool in qemu-aarch64-static aarch64-linux-gnu-gcc apt-get dpkg-deb; do
  command -v $tool >/dev/null && continue
  echo "aarch64.sh: $tool is missing; remedy, on Debian: apt-get install qemu-user-static gcc-aarch64-linux-gnu" >&2
  exit 1
done

mkdir -p build/aarch64/apt/lists/partial build/aarch64/apt/archives/partial
cd build/aarch64
root=$PWD/root

if [ ! -e venv/made ]; then
  rm -rf "$root" venv
  : >apt/status
  cat >apt/conf <<END
APT::Architecture "arm64";
APT::Architectures { "arm64"; };
Dir::State "$PWD/apt";
Dir::State::status "$PWD/apt/status";
Dir::Cache "$PWD/apt";
END
  export APT_CONFIG="$PWD/apt/conf"
  apt-get --quiet=2 update
  apt-get --quiet=2 --yes --no-install-recommends --download-only install python3 libpython3-dev libgomp1 libstdc++6
  for package in apt/archives/*.deb; do dpkg-deb --extract "$package" "$root"; done

  # What Python takes for its own executable, so that it finds its library, and its children are emulated as well
  cat >"$root/usr/bin/python" <<'END'
#!/bin/sh
root=$(dirname "$(readlink -f "$0")")/../..
exec qemu-aarch64-static -L "$root" -0 "$0" "$root/usr/bin/python3" "$@"
END
  chmod +x "$root/usr/bin/python"
  "$root/usr/bin/python" -m venv --without-pip venv
  "$pip_python" -m pip --python venv/bin/python install --quiet "cython>=3.0.11" "setuptools>=77" "numpy>=2.0"
  touch venv/made
fi

rm -rf csrc pyattn tests bench
(cd ../.. && cp -r csrc pyattn tests bench setup.py pyproject.toml README.md LICENSE* build/aarch64)
rm -f pyattn/_core/*.so
# Debian's Python.h includes a header by its architecture's name, which the cross compiler does not look for there.
CFLAGS="-idirafter $root/usr/include" \
  "$pip_python" -m pip --python venv/bin/python install --quiet --no-build-isolation --editable ".[test]"
# Threads that wait for work would take the CPU from those that are emulated
OMP_WAIT_POLICY=passive exec venv/bin/python -m pytest "$@"
