#!/usr/bin/env bash
# Builds for 64-bit ARM and runs the tests under emulation, for processors of four kinds: plain NEON, dotprod,
# i8mm, and i8mm with SVE. Needs Debian 12 on x86-64, and root for the packages that are missing.
#
#   scripts/check_aarch64.sh kernels   the kernels and the choice between them (2 minutes)
#   scripts/check_aarch64.sh native    every native test that an emulator can run, for the last of them (15 minutes)
#   scripts/check_aarch64.sh goldens   the golden data through the native program, with every table of kernels
#   scripts/check_aarch64.sh python    the Python module and the golden data, with every table of kernels
#   scripts/check_aarch64.sh           all of these
#
# `goldens` and `python` need the golden data (CONTRIBUTING.md) and PYTHON, the Python of an environment that has
# this version of the package, its test requirements and torch, for `python` also pybind11: .venv/bin/python unless
# set. Python 3.11 of the other architecture is unpacked under build/aarch64/python; nothing outside of build/ is
# changed but for packages of the host.
set -euo pipefail
cd "$(dirname "$0")/.."

build=build/aarch64
sysroot=/usr/aarch64-linux-gnu
# A processor, and the table that must be the best one there.
processors=(cortex-a53:neon neoverse-n1:dotprod max,sve=off:i8mm max:i8mm)

step() { printf '\n== aarch64: %s (%ss)\n' "$1" "$SECONDS"; }
fail() { printf '%s\n' "$1" >&2; exit 1; }

emulate() { # PROCESSOR PROGRAM ARGUMENT...
  qemu-aarch64 -L "$sysroot" -cpu "$1" "${@:2}"
}

install_tools() {
  local packages=(g++-aarch64-linux-gnu qemu-user doctest-dev ninja-build cmake)
  dpkg -s "${packages[@]}" >/dev/null 2>&1 && return
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
}

configure() { # OPTION...
  cmake --no-warn-unused-cli -S . -B $build -G Ninja -DCMAKE_TOOLCHAIN_FILE=scripts/aarch64.cmake -DCHATGLM_TESTS=ON \
    -DCHATGLM_WERROR=ON "$@" >/dev/null
}

# Instructions beyond NEON stay in the files that are compiled for them, and these give away one function each,
# so that the linker cannot put a copy of theirs where an older processor runs it.
check_objects() {
  local object name
  while IFS= read -r object; do
    name=$(basename "$object" .cpp.o)
    case $name in
      *i8mm) ;;
      *dotprod) ! aarch64-linux-gnu-objdump -d "$object" | grep -qw smmla || fail "$object: has smmla" ;;
      *) ! aarch64-linux-gnu-objdump -d "$object" | grep -qwE 'sdot|smmla' || fail "$object: has sdot" ;;
    esac
    case $name in
      neon | dotprod | i8mm) name+='_kernels()' ;;
      ceilings_neon | ceilings_dotprod | ceilings_i8mm) name=${name#ceilings_}'_ceilings()' ;;
      *) continue ;;
    esac
    [ "$(aarch64-linux-gnu-nm -C "$object" | grep -c ' [TWVBD] ')" = 1 ] &&
      aarch64-linux-gnu-nm -C "$object" | grep -q " T chatglm::cpu::$name" || fail "$object: has other symbols"
  done < <(find $build/CMakeFiles -name '*.cpp.o')
}

# The tests also run, in processes of their own, the tables that a processor lacks: the emulator tells of these
# illegal instructions, which must come.
check_kernels() {
  step "kernels: build"
  configure
  cmake --build $build --parallel "$(nproc)" --target test_backend | tail -1
  check_objects
  local processor
  for processor in "${processors[@]}"; do
    step "kernels: ${processor%:*}"
    CHATGLM_TEST_BEST_ISA=${processor#*:} emulate "${processor%:*}" $build/test_backend
    CHATGLM_ISA=neon emulate "${processor%:*}" $build/test_backend --test-case='tables come*'
  done
  CHATGLM_ISA=i8mm emulate neoverse-n1 $build/test_backend --test-case='tables come*'
}

# What qemu-user cannot run: 7.2 ends every forked process that starts a thread with a failed assertion of its own
# (qemu_plugin_vcpu_init_hook).
not_emulated='a forked process begins afresh*'

check_native() {
  step "native: build"
  configure
  cmake --build $build --parallel "$(nproc)" | tail -1
  check_objects
  local test isa
  for test in $build/test_*; do
    step "native: $(basename "$test")"
    emulate max "$test" --test-case-exclude="$not_emulated"
  done
  for isa in dotprod neon generic; do
    step "native: long contexts, $isa"
    CHATGLM_ISA=$isa emulate max $build/test_model --test-case='long contexts*'
  done
}

# The host converts the checkpoints, for which it has torch.
use_host_python() {
  python=$(realpath -s "${PYTHON:-.venv/bin/python}")
  export CHATGLM_TEST_CONVERTED=$PWD/$build/converted
  rm -rf "$CHATGLM_TEST_CONVERTED"
  mkdir -p "$CHATGLM_TEST_CONVERTED"
}

# From another folder than that of the sources, which Python would import.
host_pytest() { (cd "$CHATGLM_TEST_CONVERTED" && "$python" -m pytest "$@"); }

check_goldens() {
  use_host_python
  step "goldens: build the native program"
  configure
  cmake --build $build --parallel "$(nproc)" --target chatglm | tail -1
  local processor
  for processor in "${processors[@]}"; do
    step "goldens: native program, ${processor%:*}"
    CHATGLM_TEST_NATIVE="qemu-aarch64 -L $sysroot -cpu ${processor%:*} $PWD/$build/chatglm" \
      host_pytest "$PWD/tests/python/test_native_program.py"
  done
}

# Python of the other architecture: packages that apt fetches by lists of its own, so that the machine's are
# left alone, and wheels.
unpack_python() { # FOLDER
  [ -x "$1/root/usr/bin/python3.11" ] && [ -d "$1/site/pytest" ] && return
  mkdir -p "$1/apt/lists/partial" "$1/debs" "$1/root"
  touch "$1/apt/status"
  cat >"$1/apt.conf" <<END
APT::Architecture "arm64";
APT::Architectures { "arm64"; };
APT::Sandbox::User "root";
Dir::State "$1/apt";
Dir::State::status "$1/apt/status";
Dir::Cache "$1/apt";
END
  APT_CONFIG=$1/apt.conf apt-get update -qq
  (cd "$1/debs" && APT_CONFIG=$1/apt.conf apt-get download -qq libc6 libgcc-s1 libstdc++6 zlib1g libbz2-1.0 \
    liblzma5 libexpat1 libssl3 libffi8 libuuid1 python3.11-minimal libpython3.11-minimal libpython3.11-stdlib \
    libpython3.11-dev)
  local deb
  for deb in "$1"/debs/*.deb; do dpkg-deb -x "$deb" "$1/root"; done
  # Debian's pyconfig.h includes the one of the architecture from a folder that the compiler does not search.
  cp "$1/root/usr/include/aarch64-linux-gnu/python3.11/pyconfig.h" "$1/root/usr/include/python3.11/pyconfig.h"
  "$python" -m pip install --quiet --target "$1/site" --platform manylinux2014_aarch64 --python-version 3.11 \
    --only-binary=:all: 'numpy>=1.24' 'gguf>=0.17' 'pytest>=8' 'safetensors>=0.4' 'tqdm>=4.66' \
    'huggingface_hub>=0.26'
}

check_python() {
  use_host_python
  local folder=$PWD/$build/python goldens=$PWD/tests/python/test_goldens.py pybind11
  pybind11=$("$python" -m pybind11 --cmakedir) || fail "$python has no pybind11: install it there"
  step "python: unpack"
  unpack_python "$folder"

  step "python: build the module"
  configure -DCHATGLM_PYTHON=ON -Dpybind11_DIR="$pybind11" -DPython_EXECUTABLE="$python" \
    -DPython_INCLUDE_DIR="$folder/root/usr/include/python3.11" -DPYTHON_MODULE_EXTENSION=.so \
    -DCMAKE_INTERPROCEDURAL_OPTIMIZATION=OFF
  cmake --build $build --parallel "$(nproc)" --target _C | tail -1
  rm -rf "$folder/package"
  mkdir "$folder/package"
  cp -r chatglm_cpp "$folder/package/"
  cp -r convert "$folder/package/chatglm_cpp/convert"
  cp $build/_C.so "$folder/package/chatglm_cpp/"

  # The host converts, and compares its own results on the way.
  step "python: golden data on this machine"
  host_pytest "$goldens"

  local sysroot=$folder/root processor
  for processor in "${processors[@]:0:3}"; do
    step "python: golden data, ${processor%:*}"
    (cd "$folder" && PYTHONPATH=$folder/package:$folder/site OPENBLAS_NUM_THREADS=1 \
      emulate "${processor%:*}" "$folder/root/usr/bin/python3.11" -B -m pytest -p no:cacheprovider "$goldens")
  done
}

checks=("$@")
[ $# -gt 0 ] || checks=(kernels native goldens python)
install_tools
for check in "${checks[@]}"; do
  case $check in
    kernels | native | goldens | python) "check_$check" ;;
    *) fail "There is no check '$check': kernels, native, goldens or python." ;;
  esac
done
step "done"
