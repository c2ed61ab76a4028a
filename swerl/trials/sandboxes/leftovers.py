"""Ending what an agent left running in a sandbox whose process 1 is not ours (Docker, Kubernetes, any other environment of Harbor).

`SNAPSHOT` names the processes that are there before the agent (process id and start time, which together name one process for good). Given
that list as its first word, `END_OTHERS` kills all others but process 1 and itself, twice, so that what forked meanwhile goes too, and
prints the command lines of what it kills. Both are POSIX shell for a command as root, and use nothing but what is built into the shell:
every program in the sandbox may be the agent's own by then, and there may be no room for another process.

`EMPTY_TRUSTED` makes the places that a verifier in the same sandbox reads and writes real and empty, whatever the agent put there: a link
is removed, never followed. A place that is a mount keeps its directory and loses what is in it.
"""

_EACH = r"""
started() { s=; read -r s < "/proc/$1/stat" || return 1; s=${s##*) }; set -- $s; s=${20}; }
for round in 1 2; do
  for d in /proc/[0-9]*; do
    p=${d#/proc/}
    [ "$p" -ne 1 ] && [ "$p" -ne $$ ] && started "$p" 2>/dev/null || continue
    DO
  done
done
true
"""
SNAPSHOT = _EACH.replace("for round in 1 2", "for round in 1").replace("DO", 'echo "$p:$s"')
_KILL = r"""case " $0 " in *" $p:$s "*) continue;; esac
    line=; read -r line < "/proc/$p/cmdline" || :
    kill -9 "$p" && [ -n "$line" ] && echo "$line"
"""
END_OTHERS = "exec 2>/dev/null\n" + _EACH.replace("DO", _KILL.rstrip())

EMPTY_TRUSTED = r"""
[ -L /logs ] && rm -f /logs
for place in /tests /solution /logs/verifier; do
  if [ -L "$place" ]; then rm -f "$place"; else rm -rf "$place" 2>/dev/null; fi
  [ -d "$place" ] && find "$place" -mindepth 1 -delete
done
mkdir -p /logs/verifier /logs/agent /logs/artifacts && chmod 777 /logs/verifier
"""
