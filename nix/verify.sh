#!/usr/bin/env bash
# Proof of the flake on a host with network and Nix (2.8 or newer): builds the environments, enters the shells, loads an image.
# What was run, what was not and why goes into a record, one line a step; the record names the lock it speaks of.
#   nix/verify.sh [--record FILE] [--logs FOLDER] [--not-run REASON] [STEP ...]
# Without steps all run in order. A step whose need failed is not run. --not-run writes the record of a host where nothing can be run.
# Exit code 0 only when every asked step passed.
set -u

cd "$(dirname "$0")/.." || exit 2
record=docs/results/nix.jsonl
logs="${TMPDIR:-/tmp}/swerl-nix-verify"
reason_all=""
asked=()
while [ $# -gt 0 ]; do
  case "$1" in
    --record) record="$2"; shift 2 ;;
    --logs) logs="$2"; shift 2 ;;
    --not-run) reason_all="$2"; shift 2 ;;
    -h | --help) sed -n '2,7s/^# //p' "$0"; exit 0 ;;
    -*) echo "unknown option $1" >&2; exit 2 ;;
    *) asked+=("$1"); shift ;;
  esac
done

export NIX_CONFIG="experimental-features = nix-command flakes
${NIX_CONFIG:-}"
nix=(nix --print-build-logs)

# name | what must have passed before | command
steps=(
  "inputs||nix flake archive --no-update-lock-file"
  "lock-unchanged|inputs|nix flake metadata --no-update-lock-file && git diff --exit-code flake.lock"
  "evaluate|inputs|nix flake check --no-build --no-update-lock-file"
  "format|inputs|nix fmt -- --check flake.nix nix"
  "wheelhouse|evaluate|nix build --no-link .#wheelhouse"
  "env-trials|evaluate|nix build --out-link $logs/env-trials .#env-trials"
  "env-cpu|evaluate|nix build --out-link $logs/env-cpu .#env-cpu"
  "env-gpu|evaluate|nix build --out-link $logs/env-gpu .#env-gpu"
  "env-verify|env-cpu|$logs/env-cpu/bin/swerl env verify --env $logs/env-cpu"
  "checks|env-gpu|nix flake check --no-update-lock-file"
  "develop|env-cpu|nix develop --command swerl --help"
  "develop-trials|env-trials|nix develop .#trials --command harbor --help"
  "develop-gpu|env-gpu|nix develop .#gpu --command python -c 'import torch; assert torch.version.cuda == \"13.0\"; print(torch.cuda.is_available())'"
  "cuda|develop-gpu|nix develop .#gpu --command python -c 'import torch; print(torch.ones(8, device=\"cuda\").sum().item())'"
  "unresolved|env-gpu|! find -L $logs/env-gpu/lib -name '*.so*' -type f -print0 | xargs -0 ldd 2>/dev/null | grep 'not found' | grep -v -e libcuda.so.1 -e libnvidia-ml.so.1"
  "image-trials|env-trials|nix build --out-link $logs/image-trials .#image-trials && $logs/image-trials | docker load"
  "image-gpu|env-gpu|nix build --out-link $logs/image-gpu .#image-gpu && $logs/image-gpu | docker load"
  "image-twice|image-trials|cmp <($logs/image-trials | sha256sum) <($logs/image-trials | sha256sum)"
  "image-run|image-trials|docker run --rm \$(docker images --format '{{.Repository}}:{{.Tag}}' swerl-trials | head -n 1) --help"
)

mkdir -p "$logs" "$(dirname "$record")"
declare -A state
failed=0
: > "$record.new"

note() { # step state seconds detail
  printf '{"step":"%s","state":"%s","seconds":%s,"detail":"%s"}\n' "$1" "$2" "$3" "$4" >> "$record.new"
  printf '%-16s %-8s %5ss  %s\n' "$1" "$2" "$3" "$4"
}

printf '{"lock":"%s","flake_lock":"%s","nix":"%s","system":"%s","time":"%s"}\n' \
  "$(sha256sum uv.lock | cut -d' ' -f1)" "$(sha256sum flake.lock | cut -d' ' -f1)" "$(nix --version 2>/dev/null || echo absent)" \
  "$(uname -sm)" "$(date -u +%Y-%m-%dT%H:%M:%SZ)" >> "$record.new"

for step in "${steps[@]}"; do
  IFS='|' read -r name need command <<< "$step"
  if [ ${#asked[@]} -gt 0 ] && [[ " ${asked[*]} " != *" $name "* ]]; then
    note "$name" not-run 0 "not asked for"
    # A step that was not asked for does not stand in the way of one that was.
    state[$name]=passed
    continue
  fi
  if [ -n "$reason_all" ]; then
    note "$name" not-run 0 "$reason_all"
    failed=1
    continue
  fi
  if ! command -v nix > /dev/null; then
    note "$name" not-run 0 "nix is not installed"
    state[$name]=not-run failed=1
    continue
  fi
  if [ -n "$need" ] && [ "${state[$need]:-}" != passed ]; then
    note "$name" not-run 0 "needs $need"
    state[$name]=not-run failed=1
    continue
  fi
  started=$SECONDS
  if bash -c "set -o pipefail; ${command/#nix /${nix[*]} }" > "$logs/$name.log" 2>&1; then
    state[$name]=passed
    note "$name" passed $((SECONDS - started)) ""
  else
    state[$name]=failed failed=1
    reason="$(grep -m1 -E '^(error|.*error:)' "$logs/$name.log" | tr -d '"\\\n' | tr -c '[:print:]' ' ' | cut -c1-160)"
    note "$name" failed $((SECONDS - started)) "${reason:-see the log}"
  fi
done
mv "$record.new" "$record"
echo "record: $record    logs: $logs"
exit $failed
