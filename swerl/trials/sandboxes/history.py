"""A task's past, which may hold its fix, taken out of a sandbox before an agent comes.

`FORGET` is a shell script for the working directory. Wherever in the sandbox's own file system git keeps something (`.git` as a directory,
a file or a link, with its worktrees and submodules; bare repositories and stores that others borrow from, under any name; packs and
bundles), it goes, and so do the stores of other systems. Repositories at, above and below the working directory get one commit of what
lies there in their place, the inner ones first. What is part of a repository's own files (a test's fixture) stays. It fails where
something cannot be removed.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

_STORES = (".git", ".hg", ".svn", ".bzr")
_FILES = (".bundle", ".pack")

FORGET = r"""
set -e
command -v find >/dev/null
roots=/
[ "$(stat -c %d /)" = "$(stat -c %d .)" ] || roots="/ $PWD"
everywhere() { find $roots -xdev \( -path /proc -o -path /sys -o -path /dev \) -prune -o "$@"; }
above=$PWD
while [ -n "$above" ]; do
  if [ -e "$above/.git" ] || [ -L "$above/.git" ]; then : > "$above/.swerl-one"; fi
  above=${above%/*}
done
find "$PWD" -xdev -name .git -prune -exec sh -c 'for at; do : > "${at%/.git}/.swerl-one"; done' sh {} +
own='own() { git -c safe.directory="*" -C "${1%/*}/" ls-files --error-unmatch -- "$1" >/dev/null 2>&1; }; set -e'
everywhere -type d -name objects -exec sh -c "$own"'
for at; do
  [ -d "$at/pack" ] || [ -d "$at/info" ] || ls "$at" | grep -q "^[0-9a-f][0-9a-f]$" || continue
  store=${at%/objects}
  case $store in "" | */.git | */.git/*) continue;; esac
  if own "$store"; then continue; fi
  if [ -e "$store/HEAD" ]; then rm -rf "$store"; else rm -rf "$at"; fi
done' sh {} +
everywhere -type f \( -name "*.bundle" -o -name "*.pack" \) -exec sh -c "$own"'
for at; do
  case $(head -c 12 "$at" | tr -d "\0") in "# v2 git bun" | "# v3 git bun" | PACK*) ;; *) continue;; esac
  if own "$at"; then continue; fi
  rm -f "$at"
done' sh {} +
everywhere \( -name .git -o -name .hg -o -name .svn -o -name .bzr \) -prune -exec rm -rf {} +
one='
cd "$1"
rm .swerl-one
command -v git >/dev/null || exit 0
git init -q
git add -A 2>/dev/null
git -c user.name=task -c user.email=task@localhost -c core.hooksPath=/dev/null commit -q --allow-empty -m start'
find "$PWD" -xdev -depth -type d -exec sh -c 'for at; do [ ! -e "$at/.swerl-one" ] || sh -ec "$0" sh "$at" || exit 1; done' "$one" {} +
above=${PWD%/*}
while [ -n "$above" ]; do
  if [ -e "$above/.swerl-one" ]; then sh -ec "$one" sh "$above"; fi
  above=${above%/*}
done
"""


@cache
def may_be_in_image(rootfs: Path) -> bool:
    """`may_be_in` of a root filesystem, which stays as it is while a runner uses it."""
    return may_be_in(rootfs)


def may_be_in(directory: Path) -> bool:
    """Whether a directory of the host's holds anything that `FORGET` would look at. Blocks."""
    for _, below, files in os.walk(directory):
        if "objects" in below or any(name in _STORES for name in (*below, *files)) or any(name.endswith(_FILES) for name in files):
            return True
    return False
