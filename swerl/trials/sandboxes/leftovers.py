"""Ending what an agent left running in a sandbox whose process 1 is not ours (Docker, Kubernetes, any other environment of Harbor).

`END_OTHERS` is a POSIX shell command for `environment.exec` as root. It spares process 1, itself, and the container's main command, with
which the container would end: the lowest-numbered child of process 1 and that one's own children, if they began within two seconds of
process 1 (the kernel's clock, which nobody can set back). Everything else is killed, twice, so that what forked meanwhile goes too.

`EMPTY_TRUSTED` makes the places that a verifier in the same sandbox reads and writes real and empty, whatever the agent put there: a link
is removed, never followed. A place that is a mount keeps its directory and loses what is in it.
"""

END_OTHERS = r"""
info() { sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -d' ' -f2,20; }
young() { [ $((${1#* } - born)) -le 200 ]; }
born=$(info 1); born=${born#* }; main=; keep=
for p in $(ls /proc | grep -E '^[0-9]+$' | sort -n); do
  [ "$p" -gt 1 ] || continue
  i=$(info "$p"); [ -n "$i" ] || continue
  if [ -z "$main" ] && [ "${i%% *}" = 1 ] && young "$i"; then main=$p; keep=" $p "; fi
  if [ -n "$main" ] && [ "${i%% *}" = "$main" ] && young "$i"; then keep="$keep $p "; fi
done
for round in 1 2; do
  for p in $(ls /proc | grep -E '^[0-9]+$'); do
    case "$keep" in *" $p "*) continue;; esac
    [ "$p" -eq 1 ] || [ "$p" -eq $$ ] || kill -9 "$p" 2>/dev/null
  done
done
true
"""

EMPTY_TRUSTED = r"""
[ -L /logs ] && rm -f /logs
for place in /tests /solution /logs/verifier; do
  if [ -L "$place" ]; then rm -f "$place"; else rm -rf "$place" 2>/dev/null; fi
  [ -d "$place" ] && find "$place" -mindepth 1 -delete
done
mkdir -p /logs/verifier /logs/agent /logs/artifacts && chmod 777 /logs/verifier
"""
