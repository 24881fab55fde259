#!/bin/sh
# The key by which the SuperLink knows a device: ./make-device-key.sh FILE
# FILE stays on the device; FILE.pub is what is registered.
set -eu
if [ $# -ne 1 ]; then
    echo "usage: $0 FILE" >&2
    exit 2
fi
umask 077
mkdir -p "$(dirname "$1")"
ssh-keygen -q -t ecdsa -b 384 -N '' -C "$(basename "$1")" -f "$1"
echo "$1.pub"
