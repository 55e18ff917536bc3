#!/usr/bin/env bash
# Makes beph-mini from nothing but slides and tile images, with the product's own commands.
#
#   benchmarks/train_beph_mini.sh OUT "SLIDES…" "IMAGE FOLDERS…" [PROBE.csv]
#
# OUT       where everything goes; run it again to go on after a stop
# SLIDES    H&E slides or folders of them, kept as tiles at 0.5, 1 and 2 µm/px
# IMAGES    folders of H&E tile images without labels
# PROBE     a table path,label,case_id of images, to see the encoder grow by; its labels are not trained on
#
# The one that ships: seven slides of the Pathology Atlas, CMU-1-Small-Region and the fields of EBHI-Seg; log in
# benchmarks/results/beph_mini.jsonl. STEPS and TOKENIZER_STEPS make it longer.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
out=$1 slides=$2 images=$3 probe=${4:-}
python=${PYTHON:-python3}
mkdir -p "$out"

[ -f "$out/lite0.safetensors" ] || "$python" "$here/lite0_weights.py" "$out/lite0.safetensors"
stores=()
for mpp in 0.5 1 2; do
    # shellcheck disable=SC2086  # several slides
    "$python" -m beph_store_cli ingest $slides --store "$out/tiles-$mpp" --mpp "$mpp" --keep-tiles
    stores+=("$out/tiles-$mpp")
done
# shellcheck disable=SC2086
"$python" -m beph_store_cli pretrain "${stores[@]}" $images --out "$out/pretrain" \
    --size mini --teacher timm:tf_efficientnet_lite0 --teacher-weights "$out/lite0.safetensors" \
    --tokenizer-steps "${TOKENIZER_STEPS:-250}" --steps "${STEPS:-600}" --batch 16 --lr 6e-4 --warmup 0.1 \
    --codes 2048 --distil 1 --scale 0.5 --precision bf16 --workers 1 --seed 0 \
    --name beph-mini --mpp 0.5 --licence Apache-2.0 \
    --log-every 25 --save-every 200 --probe-every 150 ${probe:+--probe "$probe"}
