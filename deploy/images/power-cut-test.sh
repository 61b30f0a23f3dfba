#!/usr/bin/env bash
# Takes the power from a whole machine again and again, while readings come in and while it takes a new model, and lets it boot:
# it must come up every time, serve the old model or the new one and never none, and lose nothing that was acknowledged.
#
#     deploy/images/power-cut-test.sh arm64|amd64 [CUTS]        50 cuts, if nobody says
#
# Needs what boot-test.sh needs. A machine that is imitated takes a minute or two to boot, so 50 cuts take an hour or two.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
. "$root/cross/targets.sh"
arch=${1:?"say amd64 or arm64"}
cuts=${2:-50}
. "$root/deploy/images/machine.sh"
start_site "$HUB_AT"

version() { ctl agents | jq -r '.[] | select(.agent == "edge-1") | .serving.version // 0'; }
# Readings that the broker has: what the box has not acknowledged by then waits there.
offer() {
    readings "$@"
    offered=$((offered + $1))
}
offered=0
# A thousand readings in three seconds.
stream() {
    local part
    for part in $(seq 20); do
        readings 50 100 false
        sleep 0.1
    done
}
held() { ctl ledger | jq -r '[.[] | select(.agent == "edge-1") | .at_hub] | add // 0'; }
all_held() { [ "$(held)" -eq "$offered" ]; }

say "a box that serves version 1"
prepare_image
start_machine "$arch" edge.img
until_true "the box is connected" on box .connected true
offer 1500 100 true
until_true "every reading is at the hub" on all_held
ctl train pump-anomaly --wait --timeout "$WAIT_S" | jq -r '"run \(.run): \(.state), version \(.version // "none")"'
answers() {
    offer 1 100 false
    [ "$(version)" -ge 1 ]
}
until_true "the box serves version 1" on answers

for ((cut = 1; cut <= cuts; cut++)); do
    # Every fifth time a new model is on its way, and the cut comes somewhere between its offer and its trial.
    before=$(version)
    if ((cut % 5 == 0)); then
        offer 1500 $((100 + cut % 10 / 5 * 2)) true
        until_true "every reading is at the hub" on all_held
        # Not every version is let out; then there are only readings.
        during="readings"
        ! ctl train pump-anomaly --wait --timeout "$WAIT_S" >/dev/null || during="a model"
    else
        during="readings"
    fi
    # A stream of readings that goes on beyond the cut.
    stream &
    feeder=$!
    wait_ms=$((RANDOM % 3000))
    sleep "$(printf '%d.%03d' $((wait_ms / 1000)) $((wait_ms % 1000)))"
    cut_power
    wait "$feeder" || die "publish the readings"
    offered=$((offered + 1000)) sent=$((sent + 1000))
    until_true "the hub sees that the box is gone" box .connected false
    begun=$SECONDS
    start_machine "$arch" edge.img
    until_true "the box is back after cut $cut" on box .connected true
    until_true "every reading is at the hub after cut $cut" on all_held
    after=$(version)
    [ "$after" -ge "$before" ] || die "serve a model after cut $cut: it served $before, and now serves $after"
    printf 'cut %d, %d ms into %s: back after %d s, version %s, %d readings of %d\n' \
        "$cut" "$wait_ms" "$during" $((SECONDS - begun)) "$after" "$(held)" "$offered"
done
stop_machine
printf '%s: %d cuts, %d readings offered, %d at the hub\n' "$arch" "$cuts" "$offered" "$(held)"
