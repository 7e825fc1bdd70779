#!/usr/bin/env bash
# One command from a fresh clone to a result. Needs git, a compiler, and Python 3.11, 3.12 or 3.13 (or uv, which
# brings one); everything else is installed into .venv beside this file. Running it again is quick when nothing
# changed.
#
#   bash setup.sh            install, and say what to do next
#   bash setup.sh demo       install, then run the notebooks on the toy world (CPU)
#   bash setup.sh lab        install, then open copies of the notebooks (runs/lab) in JupyterLab
#   bash setup.sh test       install, then lint, unit tests and notebook tests
#   bash setup.sh --gpu ...  also install flash-attn, built for this machine's CUDA, or else its ready-made kernels;
#                            without both, attention is sdpa
#   bash setup.sh --with deepspeed ...
#                            also install an extra of pyproject.toml
#
# The exact versions are in constraints.txt.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
# Each notebook and test starts a Python of its own: without bytecode each would compile all libraries again.
unset PYTHONDONTWRITEBYTECODE

say() { printf '%s\n' "setup.sh: $*"; }
die() { printf '%s\n' "setup.sh: $*" >&2; exit 1; }
usage() { sed -n '2,/^$/{/^#/s/^# \{0,1\}//p}' setup.sh; }

# Is $1 a Python of version 3.$2, or without $2 of any version that is supported?
is_python() {
  "$1" -c 'import sys
major, minor = sys.version_info[:2]
sys.exit(major != 3 or minor not in [int(one) for one in sys.argv[1:] or (11, 12, 13)])' "${@:2}" 2>/dev/null
}

# Prints the Python to use, 3.11 before 3.12 before 3.13; nothing where there is none.
find_python() {
  local minor candidate
  for minor in 11 12 13; do
    for candidate in "python3.$minor" python3 python; do
      if command -v "$candidate" >/dev/null && is_python "$candidate" "$minor"; then
        "$candidate" -c 'import sys; print(sys.executable)'
        return
      fi
    done
  done
}

find_uv() {
  local candidate
  for candidate in uv .venv/bin/uv .uv/bin/uv; do
    if "$candidate" --version >/dev/null 2>&1; then
      printf '%s\n' "$candidate"
      return
    fi
  done
}

# A uv on the PATH is used where it runs; otherwise one is installed into .venv, where PEP 668 allows it.
uv_install() {
  local uv
  uv="$(find_uv)"
  if [[ -z "$uv" ]]; then
    say "installing uv into .venv"
    .venv/bin/python -m pip --version >/dev/null 2>&1 || .venv/bin/python -m ensurepip >/dev/null 2>&1 || true
    .venv/bin/python -m pip install --quiet uv || die "uv could not be installed; the message above says why"
    uv=.venv/bin/uv
  fi
  "$uv" pip install --quiet --python .venv/bin/python --constraints constraints.txt "$@"
}

# Makes .venv with a Python that uv downloads; any other Python can install uv itself, into .uv.
bring_python() {
  local uv=uv
  if ! uv --version >/dev/null 2>&1; then
    uv=.uv/bin/uv
    "$uv" --version >/dev/null 2>&1 || python3 -m pip install --quiet --target .uv uv 2>/dev/null ||
      die "no Python 3.11, 3.12 or 3.13 found, and no uv that could bring one; install one of them, for example" \
        "with your system's packages (python3.12, python3.12-venv), pyenv or conda, and run this again"
  fi
  say "no Python 3.11, 3.12 or 3.13 found; uv brings 3.11"
  rm -rf .venv
  UV_PYTHON_DOWNLOADS=automatic "$uv" venv --quiet --python 3.11 .venv ||
    die "uv could not bring a Python (the message above says why); install Python 3.11, 3.12 or 3.13 yourself," \
      "and run this again"
}

make_venv() {
  if [[ -x .venv/bin/python ]] && is_python .venv/bin/python; then return; fi
  if [[ -e .venv && ! -e .venv/pyvenv.cfg ]]; then
    die ".venv exists but is not a virtual environment; move it away and run this again"
  fi
  local python uv
  python="$(find_python)"
  if [[ -z "$python" ]]; then
    bring_python
    return
  fi
  say "making .venv with $python"
  rm -rf .venv
  uv="$(find_uv)"
  if [[ -n "$uv" ]]; then
    "$uv" venv --quiet --python "$python" .venv
  else
    "$python" -m venv .venv ||
      die "Python could not make a virtual environment; on Debian and Ubuntu install the package python3-venv"
  fi
}

install_package() {
  local stamp=.venv/.repic-core-installed wanted
  wanted="$PWD $extras $(cksum pyproject.toml constraints.txt)"
  if [[ -f "$stamp" && "$(<"$stamp")" == "$wanted" ]] && .venv/bin/python -c 'import repic_core' 2>/dev/null; then
    return
  fi
  say "installing repic-core and its packages into .venv (a few minutes the first time)"
  uv_install -e ".[$extras]" ||
    die "the packages could not be installed; the message above says why." \
      "(uv does not read pip's settings: behind a mirror, set UV_DEFAULT_INDEX)"
  printf '%s\n' "$wanted" >"$stamp"
}

install_flash_attn() {
  local log=.venv/flash-attn.log
  if .venv/bin/python -c 'import flash_attn' 2>/dev/null; then return; fi
  if ! .venv/bin/python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null; then
    say "flash-attn skipped: PyTorch sees no CUDA device here; attention will be sdpa"
    return
  fi
  say "installing flash-attn, which may have to be compiled and take long (log: $log)"
  # Its build needs the torch that is installed, so no isolation, and the build tools beside it.
  if ! { uv_install ninja packaging psutil setuptools wheel &&
    uv_install --no-build-isolation-package flash-attn -e ".[$extras,gpu]"; } >"$log" 2>&1; then
    say "flash-attn could not be installed (why: $log)"
    install_kernels "$log"
  elif ! .venv/bin/python -c 'import flash_attn' >>"$log" 2>&1; then
    "$(find_uv)" pip uninstall --python .venv/bin/python flash-attn >>"$log" 2>&1
    say "flash-attn does not load here, so it was removed (why: $log)"
    install_kernels "$log"
  else
    say "flash-attn installed; half-precision models on CUDA will use it"
  fi
}

install_kernels() {
  if uv_install -e ".[$extras,kernels]" >>"$1" 2>&1; then
    say "its ready-made kernels will be used where there is one for this card; the first load fetches it from the hub"
  else
    say "the package for its ready-made kernels could not be installed either; attention will be sdpa, all else works"
  fi
}

run_demo() {
  .venv/bin/python -m repic_core notebooks -p overwrite True --open
}

run_tests() {
  say "lint"
  .venv/bin/ruff check .
  .venv/bin/ruff format --check .
  # Two processes of one thread each: with more threads than cores, small models are many times slower.
  say "unit tests"
  OMP_NUM_THREADS=1 .venv/bin/python -m pytest -q -n 2 --dist loadfile --ignore tests/notebook_runs
  say "notebook tests"
  .venv/bin/python -m pytest -q tests/notebook_runs
}

command=install gpu=no extras=dev
while [[ $# -gt 0 ]]; do
  case "$1" in
    demo | lab | test) command="$1" ;;
    --gpu) gpu=yes ;;
    --with)
      [[ -n "${2:-}" && "$(<pyproject.toml)" == *$'\n'"$2 = ["* ]] ||
        die "--with ${2:-}: no extra of pyproject.toml; they are listed there, under optional-dependencies"
      extras="$extras,$2"
      shift
      ;;
    -h | --help) usage && exit 0 ;;
    *) usage >&2 && die "unknown argument '$1'" ;;
  esac
  shift
done

# Python comes from this machine where it has one, models from this repository: only packages are fetched.
export UV_PYTHON_DOWNLOADS=never HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1 \
  GRADIO_ANALYTICS_ENABLED=False WANDB_MODE=offline TOKENIZERS_PARALLELISM=false

make_venv
install_package
if [[ "$gpu" == yes ]]; then install_flash_attn; fi

case "$command" in
  demo) run_demo ;;
  lab) .venv/bin/python -m repic_core notebooks --lab ;;
  test) run_tests ;;
  install)
    say "ready. Next: 'bash setup.sh demo' to see everything happen on a small model,"
    say "'bash setup.sh lab' to open the notebooks; README.md tells the steps for a GPU."
    ;;
esac
