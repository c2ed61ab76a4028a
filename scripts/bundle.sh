#!/usr/bin/env bash
# The GPU environment of uv.lock, made under build/ and packed for a host without network; what the host has (INVENTORY) is left out.
#   scripts/bundle.sh [INVENTORY] [options of `swerl env bundle`]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

uv="$(command -v uv || echo .venv/uv/bin/uv)"
python="$(.venv/train/bin/python -c 'import sys; print(sys.base_prefix)')/bin/python3.12"
UV_PYTHON_DOWNLOADS=never UV_PROJECT_ENVIRONMENT=build/gpu "$uv" sync --frozen --extra gpu --no-install-project --python "$python"
"$python" scripts/leave_out.py build/gpu

words=()
if [ $# -gt 0 ] && [ -f "$1" ]; then
  words+=(--inventory "$1")
  shift
fi
rm -rf build/bundle
exec .venv/train/bin/swerl env bundle --train build/gpu --trials .venv/trials "${words[@]}" --out build/bundle "$@"
