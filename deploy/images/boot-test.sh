#!/usr/bin/env bash
# From a prepared image to the first prediction at the hub: a whole machine under qemu boots it, installs the agent from its boot
# partition with no network but the hub and a broker, is let in, takes the hub's model and answers. Then it takes another program from
# the hub, and in the end the token must be gone.
#
#     deploy/images/boot-test.sh arm64|amd64
#
# Needs qemu-system-arm and qemu-efi-aarch64, or qemu-system-x86 and ovmf; mosquitto, mosquitto-clients, jq; and before it
# cross/build.sh and deploy/packages/build.sh for the static target. Without an image in TIDELINE_IMAGE it builds one
# (deploy/images/build.sh) and keeps it in target/images. TIDELINE_KVM=1 uses this machine's own processor for amd64.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
. "$root/cross/targets.sh"
arch=${1:?"say amd64 or arm64"}
target=$([ "$arch" = arm64 ] && echo aarch64-unknown-linux-musl || echo x86_64-unknown-linux-musl)
program=$root/target/cross/$target/edge-agent
[ -x "$program" ] || die "find $program: build it with cross/build.sh $target edge-agent"
. "$root/deploy/images/machine.sh"
start_site "$HUB_AT"

say "a first model, learnt from a box of this machine"
agent_toml agent.toml "127.0.0.1:$broker"
agent=$(dirname "$hub")/edge-agent
ctl enroll create --agent teacher --address "127.0.0.1:$link" | jq -r .token >teacher.token
"$agent" enroll --config "$work/agent.toml" --token-file teacher.token
"$agent" run --config "$work/agent.toml" 2>teacher.log &
teacher=$!
processes+=("$teacher")
until_true "the teacher is connected" is agents '.[0].connected' true
readings 1500 100 true
until_true "every reading is at the hub" all_at_hub
ctl train pump-anomaly --wait --timeout "$WAIT_S" | jq -r '"run \(.run): \(.state), version \(.version // "none")"'
until_true "the teacher serves version 1" serves 1
kill "$teacher"
wait "$teacher" || die "stop the teacher well"

say "an image for a box"
"$hub" key create --output release.key >release.pub
printf '[update]\ntrust = ["%s"]\ninterval_ms = 5000\nsettle_ms = 10000\n' "$(cat release.pub)" >more.toml
prepare_image
# What lies on the card is a token like every other: some letters that stand nowhere else.
token=$(grep -a -o 'tle1_[A-Za-z0-9_-]*' edge.img | sort -u)
[ "$(wc -w <<<"$token")" -eq 1 ] || die "find one token on the prepared image: found '$token'"

say "it boots"
begun=$SECONDS
start_machine "$arch" edge.img
until_true "the box is let in" on is identities '.[] | select(.agent == "edge-1") | .agent' edge-1
printf 'let in after %s s\n' $((SECONDS - begun))
until_true "the box is connected" on box .connected true
printf 'connected after %s s\n' $((SECONDS - begun))
answers() {
    readings 1 100 false
    box .serving.version 1
}
until_true "the box's first prediction is at the hub" on answers
printf 'first prediction at the hub after %s s\n' $((SECONDS - begun))
answered=$((SECONDS - begun))

say "it takes another program"
of_box() { [ "$(ctl programs boxes | jq -r ".[] | select(.agent == \"edge-1\") | $1" 2>/dev/null)" = "$2" ]; }
until_true "the box takes programs" on of_box .accepts true
number=$(ctl programs boxes | jq '.[] | select(.agent == "edge-1") | .number + 1')
"$hub" package program "$program" --target "$target" --number "$number" --key release.key --output next.tidp
file=$(ctl programs add next.tidp | jq -r .file)
offered=$SECONDS
ctl programs offer "$file" --agents edge-1 >/dev/null
until_true "the box keeps the program" on of_box .outcome kept
kept=$((SECONDS - offered))
of_box .number "$number" || die "see that the box runs number $number"
# A service manager that took the change for a stop would kill the box within its TimeoutStopSec, 30 s.
connections() { grep 'an agent connected' hub.log | grep -c 'edge-1'; }
before=$(connections)
sleep 40
on box .connected true || die "see that the box is still connected"
[ "$(connections)" -eq "$before" ] || die "see that the new program runs on: the box connected anew"
printf 'fetched, started in the place of the installed one, proven and kept after %s s, and it runs on\n' "$kept"
stop_machine

say "the token"
if grep -a -q -F "$token" edge.img; then
    die "find the token gone: it is still on the disk"
fi
echo "gone from the disk"
printf '%s: from power on to the first prediction at the hub in %s s\n' "$arch" "$answered"
