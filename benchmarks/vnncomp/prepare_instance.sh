#!/usr/bin/env bash
# Prepares an instance, as VNN-COMP calls it: prepare_instance.sh v1 CATEGORY ONNX VNNLIB
# Nothing is converted: it looks whether the files are there.
set -euo pipefail
[[ ${1:-} == v1 && $# -eq 4 ]] || { echo "expected: v1 CATEGORY ONNX VNNLIB" >&2; exit 1; }
for file in "$3" "$4"; do
    [[ -r $file || -r $file.gz ]] || { echo "$file is missing" >&2; exit 1; }
done
