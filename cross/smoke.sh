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
cd "$root"

target=${1:?"say a target: ${STATIC_TARGETS[*]} ${GPU_TARGETS[*]}"}
check_target "$target"
program=$root/target/cross/$target/edge-agent
[ -x "$program" ] || die "run an agent for $target: build it first with cross/build.sh $target edge-agent"
emulate=("$(qemu_of "$target")")
[[ $target != "$(uname -m)"-* ]] || emulate=()
# What a static agent may have (design: 12 MiB).
MOST_BYTES=$((12 * 1024 * 1024))
WAIT_S=180

for tool in mosquitto mosquitto_pub mosquitto_sub jq "${emulate[@]}"; do
    PATH=$PATH:/usr/sbin command -v "$tool" >/dev/null || die "find $tool: install mosquitto, mosquitto-clients, jq and qemu-user-static"
done
hub=${HUB:-}
if [ -z "$hub" ]; then
    say "building the hub of this machine"
    cargo build --locked -p cloud-hub --bin cloud-hub
    hub=$(cargo metadata --format-version 1 --no-deps --offline | jq -r .target_directory)/debug/cloud-hub
fi

work=$(mktemp -d)
processes=()
finish() {
    local code=$?
    # What ended already is not there to be stopped.
    for process in "${processes[@]}"; do kill "$process" 2>/dev/null || true; done
    wait 2>/dev/null || true
    if [ "$code" -ne 0 ]; then
        echo "the agent said:" >&2
        tail -n 30 "$work/agent.log" >&2 || true
    fi
    rm -rf "$work"
}
trap finish EXIT
cd "$work"

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
until_true() {
    local what=$1 deadline=$((SECONDS + WAIT_S))
    shift
    until "$@"; do
        [ $SECONDS -lt $deadline ] || die "see that $what within $WAIT_S s"
        sleep 0.2
    done
}
ctl() { "$hub" ctl --data "$work/hub" --hub "http://127.0.0.1:$api" --output json "$@"; }
is() { [ "$(ctl "$1" | jq -r "$2" 2>/dev/null)" = "$3" ]; }

broker=$(free_port) link=$(free_port) api=$(free_port)
printf 'listener %s 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\n' "$broker" >mosquitto.conf
PATH=$PATH:/usr/sbin mosquitto -c mosquitto.conf >mosquitto.log 2>&1 &
processes+=($!)
cat >hub.toml <<TOML
[hub]
data_directory = "hub"
[link]
listen = "127.0.0.1:$link"
public_addresses = ["127.0.0.1:$link"]
[api]
listen = "127.0.0.1:$api"
[samples]
compact_interval_ms = 500
[[model]]
name = "pump-anomaly"
streams = ["line1/*"]
recipe = "$root/deploy/recipes/autoencoder.toml"
[model.rollout]
min_answers = 50
[[model.rollout.stage]]
percent = 100
soak_s = 1
TOML
cat >agent.toml <<TOML
[agent]
state_directory = "state"
[mqtt]
url = "mqtt://127.0.0.1:$broker"
[[input]]
name = "pumps"
topic = "plant/{line}/{pump}/telemetry"
key = "{line}/{pump}"
time = { path = "\$.ts", unit = "s" }
known_normal = "\$.known_normal"
feature = [{ name = "flow", path = "\$.flow" }, { name = "current", path = "\$.current" }]
TOML
"$hub" serve --config hub.toml >hub.log 2>&1 &
processes+=($!)
until_true "the hub is up" ctl me >/dev/null 2>&1

say "a box is let in"
"${emulate[@]}" "$program" enroll --config "$work/agent.toml" --token "$(ctl enroll create --agent box-1 | jq -r .token)"
"${emulate[@]}" "$program" run --config "$work/agent.toml" >agent.log 2>&1 &
agent_process=$!
processes+=("$agent_process")
until_true "the agent is connected" is agents '.[0].connected' true

sent=0
# readings COUNT LEVEL KNOWN_NORMAL: one a second, from where the last ones ended.
readings() {
    awk -v from="$sent" -v count="$1" -v level="$2" -v normal="$3" 'BEGIN { srand(from); for (i = 0; i < count; i++)
        printf "{\"ts\":%d,\"flow\":%.2f,\"current\":%.3f,\"known_normal\":%s}\n", 1767225600 + from + i, level + rand() * 4, level / 20 + rand() * 0.2, normal }' |
        mosquitto_pub -h 127.0.0.1 -p "$broker" -q 1 -l -t plant/line1/pump3/telemetry
    sent=$((sent + $1))
}
all_at_hub() { [ "$(ctl ledger | jq -r '.[0].at_hub // 0')" -eq "$sent" ]; }
# A version serves once it has answered.
serves() {
    readings 1 100 false
    is agents '.[0].serving.version' "$1"
}

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
printf '%s: %s bytes; resident %s, the emulator among it\n' "$target" "$bytes" \
    "$(awk '/^VmRSS/ { print $2, $3 }' "/proc/$agent_process/status")"
is_gpu "$target" || [ "$bytes" -le "$MOST_BYTES" ] || die "keep the agent below $MOST_BYTES bytes"
kill "$agent_process"
wait "$agent_process" || die "stop the agent well"
echo "$target: enrolled, answered, delivered, and took a new model"
