#!/usr/bin/env bash
# Makes .venv: the project and all it needs, at pinned versions. Python 3.10 and 3.11 on Linux x86-64
# get those of constraints.txt, with Reverb; Python 3.12 and 3.13 those of constraints-py312.txt.
#
# Returns at once when nothing has changed since the last time. An environment whose install was
# interrupted, or whose folder or Python has moved, is thrown away and made anew. Missing system
# packages are installed when run as root; anyone else is told the command that does it.
# `setup.sh test` also installs what tests drive, where that can be done: a browser, and an ssh server
# for the hosts that root's tests make.
# PYTHON=... chooses the interpreter, VENV=... another folder than .venv. Exit code 2: something has to
# be installed by hand first.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PATH=$PATH:/usr/sbin:/sbin # ldconfig is there, and not every user's PATH is

say() { printf 'setup: %s\n' "$*"; }
stop() {
    say "$*" >&2
    exit 2
}

# --- Which Python -----------------------------------------------------------------------------

# Prints the version, the executable (that behind an active environment), where Python.h is, and the
# file of the versions. Those with Reverb come first: its wheels are for them alone.
probe='import platform, sys, sysconfig
with_reverb = sys.platform == "linux" and platform.machine() == "x86_64"
if not ((3, 10) if with_reverb else (3, 12)) <= sys.version_info < (3, 14): sys.exit(1)
constraints = "constraints.txt" if sys.version_info < (3, 12) else "constraints-py312.txt"
print("%d.%d.%d" % sys.version_info[:3], sys._base_executable, sysconfig.get_path("include"), constraints, sep="\n")'

for candidate in ${PYTHON:-python3.11 python3.10 python3.12 python3.13 python3}; do
    found=$("$candidate" -c "$probe" 2>/dev/null) && break
done
[[ -n $found ]] ||
    stop "needs Python 3.10 to 3.13 (3.12 or 3.13 on other machines than Linux x86-64)," \
        "but ${PYTHON:-python3} is not that; PYTHON=... names one"
{ read -r version && read -r python && read -r headers && read -r constraints; } <<<"$found"

# --- Is there anything to do? -------------------------------------------------------------------

venv=${VENV:-.venv}
stamp=$venv/setup-stamp
identity="Python $version, $python, $PWD"
wanted="$identity, $(cat "$constraints" pyproject.toml | sha256sum)"
unchanged() {
    present=$(cat "$stamp" 2>/dev/null || true)
    [[ $present == "$wanted" ]]
}
purpose=${1:-}
find_missing_for_tests() {
    browser=() hosts=()
    [[ $purpose == test ]] || return 0
    command -v chromium >/dev/null || browser=(chromium fonts-dejavu-core)
    ((EUID == 0)) || return 0
    command -v sshd >/dev/null || hosts+=(openssh-server)
    command -v ssh >/dev/null || hosts+=(openssh-client)
    command -v ip >/dev/null || hosts+=(iproute2)
    command -v rsync >/dev/null || hosts+=(rsync)
}
find_missing_for_tests
! unchanged || ((${#browser[@]} + ${#hosts[@]})) || exit 0

exec 9<>"$constraints" # locked, so that a second setup waits for the first and then looks again
flock -n 9 || {
    say "waiting for the setup that is running in another terminal"
    flock 9
}
! unchanged || ((${#browser[@]} + ${#hosts[@]})) || exit 0

# --- System packages ----------------------------------------------------------------------------

includes() { gcc -fsyntax-only -x c - <<<"#include <$1>" 2>/dev/null; }

# Tries each thing, and collects the Debian and Ubuntu packages of what is not there.
find_missing() {
    needed=() sound=() video=()
    local minor=${version%.*} libraries
    "$python" -c 'import ensurepip, venv' 2>/dev/null || needed+=("python$minor-venv")
    [[ -e $headers/Python.h ]] || needed+=("python$minor-dev")
    [[ ${#needed[@]} == 0 || $python == /usr/bin/* ]] ||
        stop "$python has no ensurepip or no Python.h: install a complete Python $minor"
    includes stdio.h || needed+=(gcc libc6-dev)
    includes portaudio.h || needed+=(portaudio19-dev) # PyAudio is compiled: it has no Linux wheel

    libraries=$(ldconfig -p 2>/dev/null || true)
    [[ $libraries == *libfluidsynth.so.3* ]] || sound+=(libfluidsynth3)
    [[ $libraries == *libEGL.so.1* ]] || video+=(libegl1)
    [[ $libraries == *libOpenGL.so.0* || $libraries == *libGL.so.1* ]] || video+=(libopengl0)
    # EGL draws with the graphics card's own driver or with Mesa's.
    [[ $libraries == *libEGL_nvidia.so* ]] || compgen -G '/usr/lib*/*/dri/*_dri.so' >/dev/null ||
        video+=(libgl1-mesa-dri)
    # Where EGL does not start there is OSMesa.
    [[ ${#video[@]} == 0 || $libraries == *libOSMesa.so* ]] || video+=(libosmesa6)
    find_missing_for_tests
    missing=("${needed[@]}" "${sound[@]}" "${video[@]}" "${browser[@]}" "${hosts[@]}")
}

apt() { DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 "$@"; }
apt_install() { # shows a dot for every ten lines of apt's, and its errors
    say "installing system packages: $*"
    apt install -y --no-install-recommends "$@" 2> >(grep -E '^(E:|dpkg: error)' >&2) |
        { while mapfile -n 10 lines && ((${#lines[@]})); do printf .; done && echo; }
}

find_missing
if ((${#missing[@]})); then
    advice="apt-get update && apt-get install -y --no-install-recommends"
    if ! command -v apt-get >/dev/null; then
        advice="install what Debian calls"
    elif ((EUID)); then
        advice=${advice//apt-get/sudo apt-get}
    else
        say "updating the list of system packages"
        apt -qq update || say "that failed: the old list is used"
        # If not everything can be had, then at least what is needed.
        apt_install "${missing[@]}" || ((${#needed[@]} == 0)) || apt_install "${needed[@]}" || true
        find_missing
    fi
    if ((${#needed[@]})); then
        say "system packages are missing. Run this once, then the same make command again:" >&2
        stop "  $advice ${missing[*]}"
    fi
    ((${#sound[@]} == 0)) || say "everything but sound will work; for sound: $advice ${sound[*]}"
    ((${#video[@]} == 0)) || say "everything but video will work; for video: $advice ${video[*]}"
    ((${#browser[@]} == 0)) || say "tests in a browser will be left out; for them: $advice ${browser[*]}"
    ((${#hosts[@]} == 0)) || say "tests on several hosts will be left out; for them: $advice ${hosts[*]}"
fi
! unchanged || exit 0 # Only things for tests were missing.

# --- The environment --------------------------------------------------------------------------------------

rm -f "$stamp" # no stamp: not complete
if [[ $present == "$identity, "* ]]; then
    say "$constraints or pyproject.toml has changed: updating $venv"
else
    say "creating $venv with Python $version and the packages of $constraints"
    rm -rf "$venv"
    "$python" -m venv "$venv"
    say "installing about 3 GB of pinned Python packages, which takes 1 to 5 minutes"
fi

log=$venv/setup.log
: >"$log"
pip_install() {
    # Compiling all modules beforehand would take as long again; most are never imported.
    "$venv/bin/python" -m pip --disable-pip-version-check \
        install -c "$constraints" --no-compile "$@" &>>"$log"
}

# Says how far pip is: every ten seconds, or on a terminal every second in one line.
watch_pip() {
    local seconds=10 form='setup: %s\n'
    [[ ! -t 1 ]] || seconds=1 form='\rsetup: %s'
    while sleep $seconds && kill -0 $$ 2>/dev/null; do
        # shellcheck disable=SC2059 # the form is one of the two above
        printf "$form" "$(grep -cE '\.(whl|gz) \(' "$log") packages fetched, $(
            find "$venv/lib" -maxdepth 3 -name '*.dist-info' | wc -l) installed"
    done
}

watch_pip 9<&- &
trap 'kill $! 2>/dev/null || true' EXIT
trap 'echo && say "interrupted; the next run starts afresh" && exit 130' INT
# The build tools first, so that PyAudio and the project are built with the pinned ones.
install_all() {
    pip_install pip setuptools wheel || return
    [[ $version != 3.13.* ]] || pip_install --no-build-isolation ./scripts/labmaze_stand_in || return
    pip_install --no-build-isolation -e '.[dev]'
}
if ! install_all; then
    [[ ! -t 1 ]] || echo
    tail -n 15 "$log" | cut -c 1-300 >&2
    say "pip failed (more in $log). The next run starts afresh" >&2
    exit 1
fi
[[ ! -t 1 ]] || echo

printf '%s\n' "$wanted" >"$stamp"
say "$venv is ready"
