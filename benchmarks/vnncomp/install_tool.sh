#!/usr/bin/env bash
# Installs the tool, as VNN-COMP calls it: install_tool.sh v1
set -euo pipefail
[[ ${1:-} == v1 ]] || { echo "expected version v1, got '${1:-}'" >&2; exit 1; }
root=$(cd "$(dirname "$0")/../.." && pwd)
python3 -m venv "$root/.venv"
"$root/.venv/bin/pip" install --quiet "$root[onnx]" onnxruntime
if command -v nvidia-smi > /dev/null; then
    "$root/.venv/bin/pip" install --quiet "jax[cuda12]"
fi
"$root/.venv/bin/jaxbound" --version
