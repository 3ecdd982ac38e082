#!/usr/bin/env bash
# Decides an instance, as VNN-COMP calls it: run_instance.sh v1 CATEGORY ONNX VNNLIB RESULTS TIMEOUT
# PYTHON is what runs the tool, by default that of install_tool.sh.
set -uo pipefail
[[ ${1:-} == v1 && $# -eq 6 ]] || { echo "expected: v1 CATEGORY ONNX VNNLIB RESULTS TIMEOUT" >&2; exit 1; }
python=${PYTHON:-$(cd "$(dirname "$0")/../.." && pwd)/.venv/bin/python}
existing() { if [[ -e $1 ]]; then printf %s "$1"; else printf %s "$1.gz"; fi; }

"$python" -m jaxbound verify "$(existing "$3")" "$(existing "$4")" --out "$5" --timeout "$6"
code=$?
# Every verdict is a success: unsat, sat, unknown, timeout.
case $code in 0 | 1 | 3 | 4) exit 0 ;; *) exit "$code" ;; esac
