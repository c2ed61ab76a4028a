#!/usr/bin/env bash
# Everything a fresh machine needs: Python 3.12 (found, not downloaded), uv, two environments from one uv.lock, bubblewrap.
#
#   scripts/bootstrap.sh [cpu|gpu]     default: gpu where the NVIDIA driver answers, else cpu
#
# .venv/train  verl, vLLM, Ray, torch     .venv/trials  Harbor     .venv/uv  uv, if the machine has none
# What is up to date (same lock, same extra, same Python) is left alone in a fraction of a second. FORCE=1 makes it anew.
# Exit codes: 0 done, 1 something is missing and is named, with what to do.
set -euo pipefail

UV_VERSION=0.13.9
UV_MINIMUM=0.9
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$root"
began=$SECONDS
made=0

say() { printf '%s\n' "$*"; }
die() { # id, what, remedy
  printf '%s %s\n    do: %s\n' "$1" "$2" "$3" >&2
  exit 1
}

extra="${1:-}"
if [ -z "$extra" ]; then
  if nvidia-smi -L >/dev/null 2>&1; then extra=gpu; else extra=cpu; fi
fi
case "$extra" in cpu | gpu) ;; *) die SWERL-E101 "there is no extra '$extra'" "make setup EXTRA=cpu or EXTRA=gpu" ;; esac
[ "$(uname -s)-$(uname -m)" = Linux-x86_64 ] ||
  die SWERL-E102 "this is $(uname -s) on $(uname -m); uv.lock holds Linux on x86_64 only" "use such a machine, or a container of that kind"

# A candidate counts only if it runs: pyenv's shims exist for versions that are not active.
is_312() { "$1" -c 'import sys, venv; sys.exit(sys.version_info[:2] != (3, 12))' >/dev/null 2>&1; }

find_python() {
  local found candidate
  if [ -n "${SWERL_PYTHON:-}" ]; then # what was asked for, or nothing
    if found="$("$SWERL_PYTHON" -c 'import sys, venv; sys.version_info[:2] == (3, 12) or sys.exit("it is " + sys.version.split()[0])' 2>&1)"; then
      "$SWERL_PYTHON" -c 'import sys; print(sys.executable)'
      return
    fi
    die SWERL-E109 "SWERL_PYTHON=$SWERL_PYTHON is no Python 3.12 that works: ${found##*$'\n'}" "set it to the path of one, or unset it"
  fi
  for candidate in python3.12 python3 python; do
    if found="$(command -v "$candidate")" && is_312 "$found"; then
      "$found" -c 'import sys; print(sys.executable)'
      return
    fi
  done
  for candidate in "${PYENV_ROOT:-${HOME:-}/.pyenv}"/versions/3.12*/bin/python3.12 /usr/local/bin/python3.12 /opt/python*/bin/python3.12 \
    /opt/python/3.12*/bin/python3.12; do
    if [ -x "$candidate" ] && is_312 "$candidate"; then
      printf '%s\n' "$candidate"
      return
    fi
  done
  if command -v uv >/dev/null && found="$(UV_PYTHON_DOWNLOADS=never uv python find 3.12 2>/dev/null)" && is_312 "$found"; then
    printf '%s\n' "$found"
  fi
}

at_least() { [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]; }

find_uv() { # python
  local found version
  for found in "$(command -v uv || true)" "$root/.venv/uv/bin/uv"; do
    if [ -x "$found" ] && version="$("$found" --version 2>/dev/null | cut -d' ' -f2)" && at_least "$version" "$UV_MINIMUM"; then
      printf '%s\n' "$found"
      return
    fi
  done
  say "installing uv $UV_VERSION into .venv/uv" >&2
  "$1" -m venv "$root/.venv/uv" >&2 ||
    die SWERL-E104 "Python $1 cannot make a virtual environment" "install its venv module (Debian: apt install python3.12-venv)"
  "$root/.venv/uv/bin/python" -m pip install --quiet --disable-pip-version-check "uv==$UV_VERSION" >&2 ||
    die SWERL-E105 "uv could not be installed" "check that this machine reaches PyPI, or put uv >= $UV_MINIMUM on PATH"
  printf '%s\n' "$root/.venv/uv/bin/uv"
}

stamp_of() { # extra of the environment
  { cat uv.lock pyproject.toml packages/*/pyproject.toml && printf '%s\n' "$1" "$root" && "$python" -VV; } | sha256sum | cut -d' ' -f1
}

quieter() { # place, command: on a terminal uv draws its progress; elsewhere its one line a package says nothing, and how far it is does
  local place="$1" code=0 never beat
  shift
  if [ -t 2 ]; then
    "$@"
    return
  fi
  exec {never}<> <(:)
  while ! read -rt 10 -u "$never" && kill -0 $$ 2>/dev/null; do
    say "  $((SECONDS - began)) s: $place is $(du -sh "$place" 2>/dev/null | cut -f1)"
  done 9>&- &
  beat=$!
  "$@" 2> >(grep --line-buffered -v '^ [-+~] ' >&2) || code=$?
  kill -KILL "$beat" 2>/dev/null || true
  wait "$beat" 2>/dev/null || true
  exec {never}>&-
  return "$code"
}

sync() { # name, extra
  local place="$root/.venv/$1" stamp
  stamp="$(stamp_of "$2")"
  if [ "${FORCE:-}" != 1 ] && [ "$(cat "$place/.swerl-stamp" 2>/dev/null)" = "$stamp" ] && [ -x "$place/bin/swerl" ] &&
    "$place/bin/python" -c '' 2>/dev/null; then # its interpreter may have been removed, or lie in another user's home
    return
  fi
  [ -z "$unwritable" ] || die SWERL-E110 "$root/.venv cannot be written ($unwritable), and .venv/$1 is not what this user can run" \
    "let the owner of the checkout run make setup, with a Python that every user may run; or use a clone of your own"
  mkdir -p "${UV_CACHE_DIR:-${XDG_CACHE_HOME:-${HOME:-}/.cache}/uv}" 2>/dev/null ||
    die SWERL-E111 "HOME=${HOME:-} cannot be written, and uv keeps there what it fetches" "set HOME, or UV_CACHE_DIR, to a directory of yours"
  say "making .venv/$1 (extra $2) from uv.lock"
  made=1
  rm -f "$place/.swerl-stamp"
  # Compiled once here instead of by every process of every run, and by content (PEP 552): the same bytes on every machine, and no look at
  # the source's time at each import. PYTHONDONTWRITEBYTECODE, where it is set, would prevent it.
  quieter "$place" env -u PYTHONDONTWRITEBYTECODE -u VIRTUAL_ENV UV_PYTHON_DOWNLOADS=never UV_PROJECT_ENVIRONMENT="$place" \
    PYC_INVALIDATION_MODE=UNCHECKED_HASH \
    "$uv" sync --frozen --compile-bytecode --python "$python" --extra "$2" --extra dev ||
    die SWERL-E106 "uv could not make .venv/$1" "see its message above; a package that cannot be fetched needs PyPI or a mirror set for uv"
  "$python" scripts/leave_out.py "$place"
  printf '%s\n' "$stamp" >"$place/.swerl-stamp"
}

debian_packages() { # what this machine lacks of the little that does not come from PyPI
  local missing=() libraries
  command -v bwrap >/dev/null || missing+=(bubblewrap)
  command -v git >/dev/null || missing+=(git)
  libraries="$(PATH="$PATH:/sbin:/usr/sbin" ldconfig -p)"
  if [ "$extra" = cpu ] && [[ "$libraries" != *libnuma.so.1* ]]; then missing+=(libnuma1); fi
  printf '%s\n' "${missing[@]}"
}

install_debian_packages() {
  local missing
  mapfile -t missing < <(debian_packages | grep . || true)
  [ ${#missing[@]} -gt 0 ] || return 0
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    say "installing ${missing[*]} with apt"
    # --reinstall: what was removed behind dpkg's back counts as installed there
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends --reinstall "${missing[@]}"; } >/dev/null ||
      die SWERL-E107 "apt could not install ${missing[*]}" "install them by hand and run this again"
    missing="$(debian_packages | grep . || true)"
    [ -z "$missing" ] || die SWERL-E107 "apt has installed, and this shell still does not find: ${missing//$'\n'/ }" "put it on PATH (now $PATH)"
  else
    die SWERL-E108 "missing and not mine to install (no root, or no apt): ${missing[*]}" \
      "have them installed (Debian: sudo apt install ${missing[*]}), then run this again"
  fi
}

# A checkout that this user cannot write will do as long as its environments are up to date.
if ! unwritable="$({ mkdir -p .venv && : >>.venv/.lock; } 2>&1)"; then
  unwritable="${unwritable##*: }"
else
  exec 9>>.venv/.lock
  flock -n 9 || { say "waiting for another set-up of this checkout" && flock 9; }
fi

python="$(find_python)"
[ -n "$python" ] || die SWERL-E103 "no Python 3.12 on PATH, under ~/.pyenv/versions, or known to uv" \
  "install one (Debian 13: apt install python3.12-venv; else pyenv install 3.12 or uv python install 3.12), or set SWERL_PYTHON to its path"
install_debian_packages
uv="$(find_uv "$python")"
sync train "$extra"
sync trials trials
if [ "$made" = 1 ]; then
  say "ready in $((SECONDS - began)) s: .venv is $(du -sh .venv | cut -f1) ($("$python" -V), $("$uv" --version | cut -d' ' -f1-2), extra $extra)"
  [ "${SETUP_FOR:-setup}" != setup ] || say "next: make demo"
else
  say "environments are up to date (extra $extra)"
fi
