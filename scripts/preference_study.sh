#!/usr/bin/env bash
# The study of preferences in docs/results.md, command by command: about two hours on two cores.
#
# Begun again, it goes on where it stopped. ROOT=... chooses the folder.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=${ROOT:-runs/preference-study}
pianist() { .venv/bin/pianist "$@"; }
steps() { find "$root/base/checkpoints" -name 'step_*' -printf '%f\n' | sort | tail -n 3 | sed 's/step_0*//'; }

# The policy to be fine-tuned: Twinkle, 52 minutes.
[[ -e $root/base/report.html ]] || {
    rm -rf "$root/base"
    pianist train --root-dir "$root" --name base --max-minutes 52 --max-steps 5000000 \
        --environment-name RoboPianist-debug-TwinkleTwinkleRousseau-v0 \
        --trim-silence --gravity-compensation --reduced-action-space --action-reward-observation \
        --primitive-fingertip-collisions --batch-size 64 --update-to-data-ratio 0.2 \
        --eval-interval 100000
}

# Its last three checkpoints, three noise levels, six seeds: 54 segments, rated by a formula.
compgen -G "$root/base/collections/*/ratings.sqlite" >/dev/null || {
    # shellcheck disable=SC2046 # one word a checkpoint
    pianist segments base --root-dir "$root" --checkpoints $(steps) --noise 0.05 0.1 0.2 --seeds 6
    pianist rate "$root/base" --simulate note-f1
}

# Three methods, three seeds each.
for seed in 1 2 3; do
    for method in cpl behaviour-cloning cpl-behaviour-cloning; do
        [[ ! -e $root/$method-$seed/report.html ]] || continue
        rm -rf "${root:?}/$method-$seed"
        pianist cpl "$root/base" --load-checkpoint "$root/base" --raters "simulated note-f1" \
            --root-dir "$root" --name "$method-$seed" --seed "$seed" --method "$method" \
            --max-steps 400 --auditions 15
    done
done

.venv/bin/python -m benchmarks.preference_study "$root"
