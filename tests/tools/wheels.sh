#!/bin/sh
# Builds the sdist, and from it a wheel of this Python for any Linux since glibc 2.17, into dist/; then tries both as users
# would: where no compiler and no source is in reach, with NumPy alone, then under pytest. All else lands in build/wheels.
#
# The kernels are compiled by this machine's gcc against the headers and libraries of an older Debian, unpacked, not
# installed: what they ask of glibc is then what that had.
# Usage: tests/tools/wheels.sh python-with-build-and-auditwheel [arguments of pytest]
set -eu
cd "$(dirname "$0")/../.."
python=$(realpath -s "$1") && shift
suite=bullseye # the oldest that Debian's mirrors still carry
most_in_wheel=3100000 most_installed=7500000 # what 20 tables of kernels take, 4.7 MB of code; 2 and 5 MB were wished for

for tool in gcc apt-get dpkg-deb; do
  command -v $tool >/dev/null && continue
  echo "wheels.sh: $tool is missing; it needs Debian. Elsewhere: cibuildwheel (pyproject.toml), in a container" >&2
  exit 1
done

mkdir -p build/wheels/apt/lists/partial build/wheels/apt/archives/partial build/wheels/apt/parts
work=$PWD/build/wheels
root=$work/root

if [ ! -e "$root/made" ]; then
  mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Origin: Debian' 'Label: Debian' | head -n 1)
  test -n "$mirror" || { echo "wheels.sh: apt knows no mirror of Debian; remedy: apt-get update" >&2; exit 1; }
  rm -rf "$root"
  : >"$work/apt/status"
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" >"$work/apt/sources.list"
  cat >"$work/apt/conf" <<END
Dir::State "$work/apt";
Dir::State::status "$work/apt/status";
Dir::Cache "$work/apt";
Dir::Etc::SourceList "$work/apt/sources.list";
Dir::Etc::SourceParts "$work/apt/parts";
APT::Sandbox::User "root";
END
  (
    export APT_CONFIG="$work/apt/conf"
    cd "$work/apt/archives"
    apt-get --quiet=2 update
    apt-get --quiet=2 download libc6 libc6-dev linux-libc-dev libcrypt-dev libgomp1
    for package in *.deb; do dpkg-deb --extract "$package" "$root"; done
  )
  # The linker follows links that begin with / out of the root
  find "$root" -type l -lname '/*' | while read -r link; do ln -sfn "$root$(readlink "$link")" "$link"; done
  # Alone in a folder: the linker and auditwheel look there for libgomp, and for nothing else
  mkdir "$root/gomp"
  cp -L "$root"/usr/lib/*/libgomp.so.1 "$root/gomp/"
  ln -s libgomp.so.1 "$root/gomp/libgomp.so"
  touch "$root/made"
fi

rm -rf dist "$work/dist" "$work/tried" "$work/sdist" "$work/venv"
old=$root/usr/lib/$(gcc -print-multiarch)
cc="gcc --sysroot=$root -B$old -L$old -L$root/gomp" # which looks in folders of its own first, sysroot or not
# LDSHARED: without the folders of this Python, which its own would write into the libraries
CC=$cc LDSHARED="$cc -shared" "$python" -m build --outdir "$work/dist" . >"$work/build.log" 2>&1 ||
  { tail -n 40 "$work/build.log" >&2; exit 1; }
mkdir dist && cp "$work"/dist/*.tar.gz dist/
LD_LIBRARY_PATH="$root/gomp" PATH="$(dirname "$python"):$PATH" \
  "$python" -m auditwheel repair --strip --wheel-dir dist "$work"/dist/*.whl

"$python" -m venv "$work/venv"
alone() { (cd "$work/tried" && PATH="$work/venv/bin" CC=none "$work/venv/bin/python" "$@"); }
mkdir "$work/tried"
alone -m pip install --quiet --only-binary=:all: "$(realpath dist/*.whl)"
awk '/^```/ { if (inside) exit; inside = 1; next } inside' README.md >"$work/tried/tour.py"
echo 'print("README.md:", out.shape, out.dtype)' >>"$work/tried/tour.py"
alone tour.py
alone -m pyattn info

size=$(wc -c <"$(echo dist/*.whl)")
installed=$(cd "$work/venv"/lib/python3*/site-packages && find pyattn pyattn.libs pyattn-* -type f ! -name '*.pyc' -print0 |
  du --bytes --total --files0-from=- | tail -n 1 | cut -f 1)
echo "$(basename dist/*.whl): $size bytes, installed $installed without bytecode"
test "$size" -lt $most_in_wheel && test "$installed" -lt $most_installed ||
  { echo "wheels.sh: over $most_in_wheel bytes, or $most_installed installed" >&2; exit 1; }

# The tests as the sdist brings them, and not its package
mkdir "$work/sdist" && tar -xzf dist/*.tar.gz -C "$work/sdist" --strip-components 1
(cd "$work/sdist" && cp -r tests bench csrc pyproject.toml setup.py "$work/tried/")
alone -m pip install --quiet --only-binary=:all: "$(realpath dist/*.whl)[test]"
# Beside one another, threads must not spin while they wait
export OMP_WAIT_POLICY=passive OPENBLAS_NUM_THREADS=1
alone -m pytest -n 2 --dist worksteal "$@"
