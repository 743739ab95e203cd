#!/usr/bin/env bash
# Twinkle Twinkle for 40 minutes, two seeds, ours and the single-process baseline, one at a time.
# Started again, it completes what is not complete. Nothing else should run beside it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
folder=runs/evidence
minutes=${MINUTES:-40}
for seed in ${SEEDS:-1 2}; do
    if ! grep -qs '"state": "finished"' $folder/ours-"$seed"/status.json; then
        rm -rf $folder/ours-"$seed"
        .venv/bin/pianist train --preset few-cores --root-dir $folder --name ours-"$seed" \
            --seed "$seed" --max-minutes "$minutes" --max-steps 50000000 --eval-interval 5000 \
            --environment-name RoboPianist-debug-TwinkleTwinkleRousseau-v0 --trim-silence \
            --gravity-compensation --reduced-action-space --control-timestep 0.05 \
            --n-steps-lookahead 10 --action-reward-observation --primitive-fingertip-collisions
    fi
    if [[ ! -e $folder/baseline-$seed/done.json ]]; then
        .venv/bin/python -m benchmarks.baseline_run --minutes "$minutes" --seed "$seed" \
            --folder $folder/baseline-"$seed"
    fi
done
.venv/bin/python -m benchmarks.learning_evidence $folder docs/learning
