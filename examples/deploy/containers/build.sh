#!/bin/sh
# Builds the image `flower-fleet`: ./build.sh WHEEL [APP] [PLATFORM]
#   WHEEL     dist/flower_compress-*.whl
#   APP       folder of the Flower app, by default ../app
#   PLATFORM  linux/amd64 or linux/arm64, by default this machine's
set -eu
here=$(cd "$(dirname "$0")" && pwd)
if [ $# -lt 1 ] || [ ! -f "$1" ]; then
    echo "usage: $0 WHEEL [APP] [PLATFORM]; python -m build --wheel makes the wheel" >&2
    exit 2
fi
engine=
reason='neither docker nor podman is installed'
for each in docker podman; do
    command -v "$each" >/dev/null 2>&1 || continue
    if said=$("$each" info 2>&1); then
        engine=$each
        break
    fi
    reason="$each is installed, but its engine does not answer: $(echo "$said" | tail -n 1)"
done
if [ -z "$engine" ]; then
    echo "No container engine: $reason" >&2
    echo "Start one, or use the units in examples/deploy/systemd, which need none." >&2
    exit 3
fi
context=$(mktemp -d)
trap 'rm -rf "$context"' EXIT
mkdir "$context/wheels"
cp "$1" "$context/wheels/"
cp "$here/Dockerfile" "$here/../train.py" "$context/"
cp -R "${2:-$here/../app}" "$context/app"
"$engine" build ${3:+--platform "$3"} --tag flower-fleet "$context"
echo "flower-fleet: $("$engine" run --rm flower-fleet flower-supernode --version)"
