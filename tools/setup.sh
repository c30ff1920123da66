#!/bin/sh
# Make the virtual environment in $1 from the pinned versions. Installs uv into it; needs only Python 3.11
# or newer, and asks Debian for `python3-venv` where Python came without it, and for `softhsm2`, a token for tests.
set -eu
venv=${1:-.venv}
python=${PYTHON:-python3}

say() { printf '%s\n' "setup: $*" >&2; }

need_debian() { # package...
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        say "installing Debian package(s): $*"
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$@" >/dev/null
    else
        say "missing: $*. As root, run:  apt-get install $*   and then this command again."
        exit 1
    fi
}

want_debian() { # file package: for tests only, so nothing stops without it
    [ -e "$1" ] && return
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1 && (need_debian "$2"); then
        return
    fi
    say "$2 is missing; its tests are skipped. As root, run:  apt-get install $2"
}

command -v "$python" >/dev/null 2>&1 || need_debian python3
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    say "Python 3.11 or newer is needed; $("$python" --version) was found. Set PYTHON=/path/to/python3.11."
    exit 1
}

if ! [ -x "$venv/bin/pip" ]; then
    rm -rf "$venv"
    if ! "$python" -c 'import ensurepip' >/dev/null 2>&1; then
        need_debian python3-venv
    fi
    say "making $venv"
    "$python" -m venv "$venv"
fi

uv=$(sed -n 's/^uv==\([0-9.]*\).*/\1/p' requirements.lock)
[ -x "$venv/bin/uv" ] || "$venv/bin/pip" install --quiet --disable-pip-version-check "uv==$uv"
say "installing the pinned packages"
VIRTUAL_ENV=$venv "$venv/bin/uv" pip sync --quiet --compile-bytecode --require-hashes requirements.lock
VIRTUAL_ENV=$venv "$venv/bin/uv" pip install --quiet --no-deps --no-build-isolation --editable .
want_debian /usr/lib/softhsm/libsofthsm2.so softhsm2
touch "$venv/.ready"
say "ready"
