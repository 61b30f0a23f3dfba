#!/usr/bin/env bash
# Lets an agent that was built for another processor live a whole day in a minute: enrolled, with readings from a real broker, a first
# model, answers, everything at the hub, and then a new model. The agent runs under qemu; broker and hub run here.
#
#     cross/smoke.sh TARGET
#
# Needs mosquitto, mosquitto-clients, jq and qemu-user-static (Debian, Ubuntu), and cross/build.sh TARGET edge-agent before. The hub is the
# one of this machine: HUB says which, by default the one that `cargo build` makes.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
. "$root/cross/targets.sh"
. "$root/cross/site.sh"

target=${1:?"say a target: ${STATIC_TARGETS[*]} ${GPU_TARGETS[*]}"}
check_target "$target"
program=$root/target/cross/$target/edge-agent
[ -x "$program" ] || die "run an agent for $target: build it first with cross/build.sh $target edge-agent"
emulate=("$(qemu_of "$target")")
[[ $target != "$(uname -m)"-* ]] || emulate=()
# What a static agent may have (design: 12 MiB).
MOST_BYTES=$((12 * 1024 * 1024))

NEEDED="mosquitto, mosquitto-clients, jq and qemu-user-static"
need mosquitto mosquitto_pub mosquitto_sub jq "${emulate[@]}"
need_hub
start_site
agent_toml agent.toml "127.0.0.1:$broker"
logs+=(agent.log)

say "a box is let in"
"${emulate[@]}" "$program" enroll --config "$work/agent.toml" --token "$(ctl enroll create --agent box-1 | jq -r .token)"
"${emulate[@]}" "$program" run --config "$work/agent.toml" >agent.log 2>&1 &
agent_process=$!
processes+=("$agent_process")
until_true "the agent is connected" is agents '.[0].connected' true

say "a first model"
readings 1500 100 true
until_true "every reading is at the hub" all_at_hub
ctl train pump-anomaly --wait --timeout "$WAIT_S" | jq -r '"run \(.run): \(.state), version \(.version // "none")"'
until_true "the box serves version 1" serves 1

say "answers"
mosquitto_sub -h 127.0.0.1 -p "$broker" -C 1 -W "$WAIT_S" -t 'tideline/box-1/prediction/#' >answer.json &
listener=$!
sleep 1
readings 1 60 false
wait "$listener"
jq -e '.anomaly == true and .version == 1' answer.json >/dev/null || die "get an anomaly for a pump that runs dry: $(cat answer.json)"
jq -r '"score \(.score), threshold \(.threshold): anomaly"' answer.json

say "a new model"
readings 3000 102 true
until_true "every reading is at the hub" all_at_hub
ctl train pump-anomaly --wait --timeout "$WAIT_S" | jq -r '"run \(.run): \(.state)"'
# A stage is over only with answers.
readings 200 102 true
until_true "the box serves version 2" serves 2

say "what it took"
until_true "every reading is at the hub" all_at_hub
echo "$sent published, $(ctl ledger | jq -r '.[0].at_hub') at the hub"
bytes=$(stat -c %s "$program")
printf '%s: %s bytes; resident %s%s\n' "$target" "$bytes" "$(awk '/^VmRSS/ { print $2, $3 }' "/proc/$agent_process/status")" \
    "$([ ${#emulate[@]} -eq 0 ] || echo ', the emulator among it')"
is_gpu "$target" || [ "$bytes" -le "$MOST_BYTES" ] || die "keep the agent below $MOST_BYTES bytes"
kill "$agent_process"
wait "$agent_process" || die "stop the agent well"
echo "$target: enrolled, answered, delivered, and took a new model"
