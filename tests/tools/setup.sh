#!/bin/sh
# Copyright (c) 2026, ballast.qemu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# What a machine needs before `make` can do its work. Missing packages are installed for root, and named to everybody else.
#   setup.sh venv       the development environment, .venv
#   setup.sh packages   what test guests need: QEMU
#   setup.sh browser    what looks at pages: Chromium
set -eu
cd "$(dirname "$0")/../.."
PYTHON=${PYTHON:-python3}

# quiet COMMAND... : shows what a command prints only where it fails
quiet() {
    log=$(mktemp)
    "$@" >"$log" 2>&1 </dev/null || { cat "$log" >&2; rm -f "$log"; exit 1; }
    rm -f "$log"
}

apt_get() { quiet env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 "$@"; }

require() {
    [ $# = 0 ] && return
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        echo "Missing on this machine: $*. Install it with:" >&2
        echo "    sudo apt-get update && sudo apt-get install --no-install-recommends $*" >&2
        exit 1
    fi
    echo "Installing $*"
    (apt_get update) || echo "Going on with the package lists at hand" >&2
    apt_get install --yes --no-install-recommends "$@"
}

without_venv() { "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null || echo "$(basename "$PYTHON")-venv"; }

without_browser() { command -v chromium >/dev/null || echo chromium fonts-dejavu-core; }

without_qemu() { command -v qemu-system-x86_64 >/dev/null || echo qemu-system-x86; }

# The package names are words of their own.
# shellcheck disable=SC2046
case $1 in
    packages) require $(without_venv) $(without_qemu) ;;
    browser) require $(without_browser) ;;
    venv)
        "$PYTHON" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || {
            echo "Development needs Python 3.11, 3.12 or 3.13, which $PYTHON is not: try make PYTHON=python3.12" >&2
            exit 1
        }
        require $(without_venv)
        echo "Preparing the development environment in .venv"
        "$PYTHON" -m venv --clear .venv
        quiet .venv/bin/python -m pip install --disable-pip-version-check --requirement tests/requirements.txt
        touch .venv/ready
        ;;
esac
