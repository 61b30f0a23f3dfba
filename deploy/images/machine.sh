# A whole machine under qemu that reaches nothing but this site's hub and broker. To be sourced after cross/targets.sh, with $root and
# $arch set. It sets $stock, the image that machines are made from, and $package, what they install.

stock=${TIDELINE_IMAGE:-$root/target/images/debian-$arch.img}
[ -f "$stock" ] || "$root/deploy/images/build.sh" "$arch" "$stock"
stock=$(realpath "$stock")
# A processor that is imitated takes its time.
WAIT_S=900
. "$root/cross/site.sh"

NEEDED="qemu-system-arm or qemu-system-x86, mosquitto, mosquitto-clients and jq"
need mosquitto mosquitto_pub jq "$([ "$arch" = arm64 ] && echo qemu-system-aarch64 || echo qemu-system-x86_64)"
package=$(find "$root/target/packages" -name "tideline-edge_*_$arch.deb" | sort -V | tail -n 1)
[ -n "$package" ] || die "find a package for $arch: build it with deploy/packages/build.sh"
need_hub
logs+=(console.log qemu.log)

# Where the machine finds them; its packets go nowhere else.
HUB_AT=10.0.2.100:4433
BROKER_AT=10.0.2.101:1883

# One connection between a machine and a port here.
cat >relay.py <<'PY'
import os, socket, sys, threading
peer = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
def send():
    while data := os.read(0, 65536):
        peer.sendall(data)
    peer.shutdown(socket.SHUT_WR)
threading.Thread(target=send, daemon=True).start()
while data := peer.recv(65536):
    while data:
        data = data[os.write(1, data):]
PY

# prepare_image: edge.img, whose machine becomes the box edge-1. What is in more.toml is a part of its configuration.
prepare_image() {
    agent_toml box.toml "$BROKER_AT" /var/lib/tideline
    [ ! -f more.toml ] || cat more.toml >>box.toml
    "$hub" ctl --data "$work/hub" --hub "http://127.0.0.1:$api" image prepare --image "$stock" --package "$package" \
        --config box.toml --labels site=a --host-name edge-1 --output edge.img
}

# box FILTER VALUE: whether the hub says so of it.
box() { is agents ".[] | select(.agent == \"edge-1\") | $1" "$2"; }

# start_machine ARCH IMAGE: starts it from the image, which it writes to; $machine is its process.
start_machine() {
    local arch=$1 image=$2 relay="python3 $work/relay.py" firmware
    local -a command
    case "$arch" in
    arm64)
        firmware=/usr/share/qemu-efi-aarch64/QEMU_EFI.fd
        command=(qemu-system-aarch64 -machine virt -cpu cortex-a72 -bios "$firmware")
        ;;
    amd64)
        firmware=/usr/share/ovmf/OVMF.fd
        command=(qemu-system-x86_64 -machine q35 -bios "$firmware")
        # The processor of this machine is faster, where it can be handed on, which in a virtual one is not certain.
        if [ "${TIDELINE_KVM:-}" = 1 ]; then command+=(-enable-kvm -cpu host); else command+=(-cpu max); fi
        ;;
    *) die "start a machine of $arch: amd64 and arm64 are known" ;;
    esac
    [ -f "$firmware" ] || die "find $firmware: install qemu-efi-aarch64 or ovmf"
    rm -f monitor
    "${command[@]}" -smp 2 -m 768 -nodefaults -display none -no-reboot \
        -serial file:console.log -monitor unix:monitor,server=on,wait=off \
        -drive "if=virtio,format=raw,file=$image" -device virtio-rng-pci \
        -device virtio-net-pci,netdev=net \
        -netdev "user,id=net,restrict=on,guestfwd=tcp:$HUB_AT-cmd:$relay $link,guestfwd=tcp:$BROKER_AT-cmd:$relay $broker" \
        2>qemu.log &
    machine=$!
    processes+=("$machine")
}

# on COMMAND: as long as the machine is on. One that is off will not do what is waited for.
on() {
    kill -0 "$machine" 2>/dev/null || die "keep the machine on: its console's end says why it is not"
    "$@"
}

# Presses the power button until the machine is off: nobody hears it before the machine has started what listens for it.
stop_machine() {
    local deadline=$((SECONDS + WAIT_S)) second
    while kill -0 "$machine" 2>/dev/null; do
        [ $SECONDS -lt $deadline ] || die "stop the machine within $WAIT_S s"
        press_power_button || true
        for second in 1 2 3 4 5; do
            ! kill -0 "$machine" 2>/dev/null || sleep 1
        done
    done
    wait "$machine"
}

press_power_button() {
    python3 - monitor <<'PY' 2>/dev/null
import socket, sys
monitor = socket.socket(socket.AF_UNIX)
monitor.connect(sys.argv[1])
monitor.recv(4096)
monitor.sendall(b"system_powerdown\n")
monitor.recv(4096)
PY
}

# Takes its power away.
cut_power() {
    kill -KILL "$machine"
    wait "$machine" 2>/dev/null || true
}
