# For scripts that let boxes live: a broker and a hub on this machine, in a folder that goes when the script ends. To be sourced
# after targets.sh, with $root set. HUB says which hub, by default the one that `cargo build` makes.
#
# Needs mosquitto, mosquitto-clients, jq and Python 3.

WAIT_S=${WAIT_S:-180}

need() {
    local tool
    for tool in "$@"; do
        PATH=$PATH:/usr/sbin:/sbin command -v "$tool" >/dev/null || die "find $tool: install $NEEDED"
    done
}

# The hub of this machine.
need_hub() {
    hub=${HUB:-}
    [ -z "$hub" ] || return 0
    say "building the hub of this machine"
    cargo build --locked --manifest-path "$root/Cargo.toml" -p cloud-hub --bin cloud-hub
    hub=$(cargo metadata --format-version 1 --no-deps --offline --manifest-path "$root/Cargo.toml" | jq -r .target_directory)/debug/cloud-hub
}

work=$(mktemp -d)
processes=()
# What is shown if the script fails.
logs=()
finish() {
    local code=$? log
    # What ended already is not there to be stopped.
    for process in "${processes[@]}"; do kill "$process" 2>/dev/null || true; done
    wait 2>/dev/null || true
    if [ "$code" -ne 0 ]; then
        for log in "${logs[@]}"; do
            echo "the end of $log:" >&2
            tail -n 30 "$work/$log" >&2 || true
        done
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

# start_site ADDRESS: the broker and the hub, which boxes reach at ADDRESS, host:port, or where it listens.
start_site() {
    broker=$(free_port) link=$(free_port) api=$(free_port)
    printf 'listener %s 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\n' "$broker" >mosquitto.conf
    PATH=$PATH:/usr/sbin mosquitto -c mosquitto.conf >mosquitto.log 2>&1 &
    processes+=($!)
    cat >hub.toml <<TOML
[hub]
data_directory = "hub"
[link]
listen = "127.0.0.1:$link"
public_addresses = ["${1:-127.0.0.1:$link}"]
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
    "$hub" serve --config hub.toml >hub.log 2>&1 &
    hub_process=$!
    processes+=("$hub_process")
    logs+=(hub.log)
    until_true "the hub is up" ctl me >/dev/null 2>&1
}

# agent_toml FILE BROKER: the configuration of a box that takes pumps in.
agent_toml() {
    cat >"$1" <<TOML
[agent]
state_directory = "${3:-state}"
[mqtt]
url = "mqtt://$2"
[[input]]
name = "pumps"
topic = "plant/{line}/{pump}/telemetry"
key = "{line}/{pump}"
time = { path = "\$.ts", unit = "s" }
known_normal = "\$.known_normal"
feature = [{ name = "flow", path = "\$.flow" }, { name = "current", path = "\$.current" }]
TOML
}

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
    is agents ".[${2:-0}].serving.version" "$1"
}
