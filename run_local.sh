#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Sets up an environment in .venv beside this file and runs Dynabeam in it; see usage() below.
# Needs a Python and, for the first start only, a package index. Later starts call no installer.

set -eu

oldest=3.10
newest=3.13
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd -P)
venv=$here/.venv
log=$venv/setup.log
stamp=$venv/setup.stamp

usage() {
    cat <<'END'
./run_local.sh [OPTIONS]           set up, then the demo: simulated AWS, changing tables, replication, proof
./run_local.sh test [ARGUMENTS]    set up, then all tests, or pytest with the arguments
./run_local.sh flink [OPTIONS]     set up, then the demo on a real Flink, until Ctrl-C; needs Java 17 and Maven
./run_local.sh COMMAND [OPTIONS]   set up, then `dynabeam COMMAND`
./run_local.sh help                this text

The first start installs about 180 packages (1.3 GB) into .venv, in a minute or two.
A package index, proxy or certificate of your own: pip's variables, such as PIP_INDEX_URL, are respected.
END
}

fail() {
    printf '%s\n' "$@" >&2
    exit 1
}

# Ends with 0 if the interpreter will do; else with one of the numbers that find_python tells apart.
probe='
import sys
low, high = (tuple(int(part) for part in word.split(".")) for word in sys.argv[1:3])
if sys.version_info[:2] < low:
    sys.exit(81)
if sys.version_info[:2] > high:
    sys.exit(82)
try:
    import ensurepip, venv
except ImportError:
    sys.exit(83)
'

# Waits for the lock on file descriptor 9, which stays with the shell that opened it.
lock='
import fcntl
try:
    fcntl.flock(9, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    print("Another start is setting up .venv: waiting for it ...", flush=True)
    fcntl.flock(9, fcntl.LOCK_EX)
'

find_python() {
    seen=
    no_venv=
    for name in python3 python3.13 python3.12 python3.11 python3.10; do
        path=$(command -v "$name") || continue
        # Being on the path is not enough: version managers put wrappers there that refuse to start.
        verdict=0
        "$path" -c "$probe" "$oldest" "$newest" >/dev/null 2>&1 || verdict=$?
        case $verdict in
            0) python=$path; return ;;
            81) seen="$seen
  $path is older than $oldest" ;;
            82) seen="$seen
  $path is newer than $newest, for which not all packages exist yet" ;;
            83) no_venv=${no_venv:-$path} ;;
            *) seen="$seen
  $path does not start" ;;
        esac
    done
    if [ -n "$no_venv" ]; then
        version=$("$no_venv" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
        fail "$no_venv (Python $version) cannot make environments: its venv or ensurepip module is missing." \
            "Debian, Ubuntu: apt-get install python$version-venv. Then start this again."
    fi
    fail "Dynabeam needs Python $oldest to $newest, and found none as python3 or python3.13 to python3.10.${seen:-}" \
        "Install one (Debian, Ubuntu: apt-get install python3 python3-venv; macOS: brew install python@3.13)," \
        "put it on the PATH and start this again."
}

# What the environment depends on. The folder belongs to it: scripts in .venv name it.
wanted() {
    (cd "$here" && cat setup.py pyproject.toml requirements.lock transforms/version_info.py) | cksum
    printf '%s\n' "$here"
}

# One interpreter start notices what a stamp cannot: that the Python below .venv has gone or changed.
is_healthy() {
    "$venv/bin/python" -c "$probe
import pip" "$oldest" "$newest" >/dev/null 2>&1
}

is_ready() {
    [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$(wanted)" ] && is_healthy
}

# step TEXT COMMAND...: one line per step, with a clock on a terminal. Output goes to the log.
step() {
    text=$1
    shift
    begin=$(date +%s)
    ticker=
    if [ -t 1 ]; then
        # Ends by itself should this script be killed.
        (while kill -0 $$ 2>/dev/null; do printf '\r%s … %s s' "$text" $(($(date +%s) - begin)); sleep 1; done) &
        ticker=$!
    else
        printf '%s …' "$text"
    fi
    verdict=0
    "$@" >>"$log" 2>&1 || verdict=$?
    stop_ticker
    [ ! -t 1 ] || printf '\r%s …' "$text"
    if [ "$verdict" -ne 0 ]; then
        printf ' failed\n\n'
        tail -n 20 "$log" >&2
        fail '' "The whole log: $log" \
            'Without a connection, or behind a proxy? Set PIP_INDEX_URL, PIP_PROXY or PIP_CERT.' \
            'Otherwise remove .venv and start this again.'
    fi
    printf ' %s s\n' $(($(date +%s) - begin))
}

stop_ticker() {
    if [ -n "${ticker:-}" ]; then
        kill "$ticker" 2>/dev/null || :
        wait "$ticker" 2>/dev/null || :
        ticker=
    fi
}

# Only what the lock names, each file with a hash that it names, and the package itself, built by the
# locked setuptools. Older pips fail to see that a requirement with an extra is in the lock, so they do
# not look for more by themselves: whether anything is missing, and fits, is checked at the end.
install_packages() {
    cd "$here"
    set -- "$venv/bin/python" -m pip --disable-pip-version-check --no-input
    "$@" install --progress-bar off --no-deps --require-hashes -r requirements.lock &&
        "$@" install --progress-bar off --no-deps --no-build-isolation -e . &&
        "$@" check
}

set_up() {
    trap stop_ticker EXIT
    trap 'echo; exit 130' INT
    trap 'exit 143' TERM
    find_python
    # Two first starts at once must not install into one folder. The lock ends with this process
    # (and its children); where the file system has none, go without.
    exec 9<"$here/setup.py"
    "$python" -c "$lock" 2>/dev/null || :
    if ! is_ready; then
        rm -f "$stamp"
        if is_healthy; then
            : >"$log"
        else
            rm -rf "$venv"
            mkdir "$venv"
            step "Making .venv with $("$python" --version) ($python)" "$python" -m venv "$venv"
        fi
        step 'Installing about 180 packages into .venv, once' install_packages
        wanted >"$stamp.new"
        mv "$stamp.new" "$stamp"
    fi
    exec 9<&-
    trap - EXIT INT TERM
}

case ${1:-} in
    help | -h | --help)
        usage
        exit 0
        ;;
esac

is_ready || set_up

case ${1:-} in
    test)
        shift
        cd "$here"
        # Without arguments: everything, on four processes, which wait more than they work. With
        # arguments the caller decides.
        [ $# -gt 0 ] || set -- -n 4 --dist loadfile
        exec "$venv/bin/python" -m pytest "$@"
        ;;
    flink)
        shift
        cd "$here"
        exec "$venv/bin/python" -m tests.runners.flink_demo "$@"
        ;;
    '' | -*)
        exec "$venv/bin/dynabeam" demo "$@"
        ;;
    *)
        exec "$venv/bin/dynabeam" "$@"
        ;;
esac
