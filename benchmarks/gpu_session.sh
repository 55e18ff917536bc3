#!/usr/bin/env bash
# Everything that needs an NVIDIA GPU, in under nine minutes, into one result file with the hardware's card.
#
#   benchmarks/gpu_session.sh [--quick] [--slide SLIDE.svs] [--out FOLDER]
#
# Needs python with torch, triton, timm, onnx and onnxruntime, nothing installed from here: the checkout is put on the
# path. What is missing is skipped by name. Wheels in ./wheels (imagecodecs, openslide-bin, pylance …) are unpacked
# beside it first, for machines that reach no registry.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-python3}
if compgen -G "wheels/*.whl" >/dev/null; then
    "$python" -m pip install --quiet --no-deps --no-index --target build/wheels wheels/*.whl || true
    export PYTHONPATH="$PWD/build/wheels${PYTHONPATH:+:$PYTHONPATH}"
fi
export PYTHONPATH="$PWD:$PWD/cli:$PWD/kernels:$PWD/benchmarks${PYTHONPATH:+:$PYTHONPATH}"
export BEPH_STORE_CACHE=${BEPH_STORE_CACHE:-$PWD/build/cache}
exec timeout 535 "$python" benchmarks/gpu_session.py "$@"
