#!/usr/bin/env bash
# Compiles and links the library and the native programs for other systems, with zig's compiler and system
# headers (pip install ziglang). Takes minutes for each target, the first time.
#
#   bash scripts/check_cross.sh                       macOS on Apple's chips, and Windows on x86-64
#   bash scripts/check_cross.sh x86_64-macos.11.0     these targets of zig's
#
# The programs lie in build/cross/TARGET afterwards. PYTHON names the Python that has ziglang (python3).
set -euo pipefail
cd "$(dirname "$0")/.."

python="${PYTHON:-python3}"
"$python" -c "import ziglang" || { echo "check_cross.sh: run $python -m pip install ziglang" >&2; exit 1; }
targets=("$@")
[ ${#targets[@]} -gt 0 ] || targets=(aarch64-macos.11.0 x86_64-windows-gnu)

# CMake wants one program for each tool.
tool() {  # FOLDER NAME ZIG_ARGUMENT...
  printf '#!/bin/sh\nexec "%s" -m ziglang %s "$@"\n' "$(command -v "$python")" "${*:3}" >"$1/$2"
  chmod +x "$1/$2"
}

for target in "${targets[@]}"; do
  printf '\n== %s (%ss)\n' "$target" "$SECONDS"
  case "$target" in
    *-macos*) system=Darwin ;;
    *-windows*) system=Windows ;;
    *-linux*) system=Linux ;;
    *) echo "check_cross.sh: $target is no macOS, Windows or Linux" >&2; exit 2 ;;
  esac
  folder="$PWD/build/cross/$target"
  mkdir -p "$folder/tools"
  tool "$folder/tools" cc cc -target "$target"
  tool "$folder/tools" c++ c++ -target "$target"
  for name in ar ranlib rc; do tool "$folder/tools" "$name" "$name"; done
  cmake -S . -B "$folder" -G Ninja -DCMAKE_SYSTEM_NAME="$system" -DCMAKE_SYSTEM_PROCESSOR="${target%%-*}" \
    -DCMAKE_C_COMPILER="$folder/tools/cc" -DCMAKE_CXX_COMPILER="$folder/tools/c++" \
    -DCMAKE_AR="$folder/tools/ar" -DCMAKE_RANLIB="$folder/tools/ranlib" -DCMAKE_RC_COMPILER="$folder/tools/rc" \
    -DCHATGLM_TOOLS=ON -DCHATGLM_WERROR=ON >/dev/null
  cmake --build "$folder" --parallel "$(nproc)"
  ls -l "$folder"/chatglm "$folder"/chatglm-bench "$folder"/*.exe 2>/dev/null || true
done
