#!/bin/sh
# A certificate authority, and a certificate for the SuperLink:
#   ./make-certs.sh FOLDER NAME_OR_ADDRESS...
# Each name and address by which a device or an operator reaches the SuperLink has to be
# given. localhost, 127.0.0.1 and ::1 are always in it, for the ServerApp beside it.
# An authority that is there already is kept, so that devices need no new ca.crt.
set -eu
if [ $# -lt 2 ]; then
    echo "usage: $0 FOLDER NAME_OR_ADDRESS..." >&2
    exit 2
fi
folder=$1
shift
umask 077
mkdir -p "$folder"
cd "$folder"

names='DNS:localhost,IP:127.0.0.1,IP:::1'
for each in "$@"; do
    case $each in
    localhost | 127.0.0.1 | ::1) ;;
    *:*) names="$names,IP:$each" ;;
    *[!0-9.]*) names="$names,DNS:$each" ;;
    *) names="$names,IP:$each" ;;
    esac
done

if [ ! -e ca.key ]; then
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-384 -noenc -sha384 \
        -days 3650 -subj '/CN=flower-fleet CA' -keyout ca.key -out ca.crt \
        -addext 'basicConstraints=critical,CA:TRUE,pathlen:0' \
        -addext 'keyUsage=critical,keyCertSign,cRLSign' 2>/dev/null
fi
openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-384 -noenc \
    -subj "/CN=$1" -keyout server.key -out server.csr 2>/dev/null
printf '%s\n' "subjectAltName=$names" 'basicConstraints=critical,CA:FALSE' \
    'keyUsage=critical,digitalSignature' 'extendedKeyUsage=serverAuth' \
    'authorityKeyIdentifier=keyid' > server.ext
openssl x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -sha384 \
    -days 825 -extfile server.ext -out server.crt 2>/dev/null
rm -f server.csr server.ext
chmod 644 ca.crt server.crt
openssl verify -CAfile ca.crt server.crt
openssl x509 -in server.crt -noout -enddate -ext subjectAltName
