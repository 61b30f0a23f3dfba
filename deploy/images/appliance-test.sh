#!/usr/bin/env bash
# An image of our own in a whole machine under qemu: a box with a claim asks, is let in and delivers; it takes its next root file system
# from its boot partition and starts in that; a bundle that somebody else signed is refused; and with a broken slot it goes back to the
# other. Its root file system is the same bytes at the end.
#
#     deploy/images/appliance-test.sh arm64|amd64
#
# Needs what boot-test.sh needs, rauc, squashfs-tools and openssl; TIDELINE_IMAGE an image of appliance.sh, and TIDELINE_OS_KEYS the folder with key.pem and
# cert.pem of who signs its updates. Without them it makes both, in target/images.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
. "$root/cross/targets.sh"
arch=${1:?"say amd64 or arm64"}
keys=$(realpath -m "${TIDELINE_OS_KEYS:-$root/target/images/os-keys}")
export TIDELINE_IMAGE=${TIDELINE_IMAGE:-$root/target/images/tideline-$arch.img}
for tool in rauc mksquashfs openssl mcopy; do command -v $tool >/dev/null || die "find $tool: install rauc squashfs-tools openssl mtools"; done
new_key() { openssl req -x509 -newkey rsa:2048 -nodes -keyout "$1/key.pem" -out "$1/cert.pem" -days 3650 -subj "/CN=$2" 2>/dev/null; }
if [ ! -f "$keys/key.pem" ]; then
    mkdir -p "$keys"
    new_key "$keys" "updates of boxes"
fi
[ -f "$TIDELINE_IMAGE" ] || TIDELINE_OS_KEYRING=$keys/cert.pem "$root/deploy/images/appliance.sh" "$arch" "$TIDELINE_IMAGE"
. "$root/deploy/images/machine.sh"
start_site "$HUB_AT"

# The boot partition, and what of the disk is a slot: as appliance.sh lays it out, in MiB.
boot=box.img@@1M
SLOT_A=513 SLOT_B=2049 SLOT_MIB=1536
slot() { dd if=box.img bs=1M skip="$1" count=$SLOT_MIB status=none | sha256sum | cut -c1-16; }
grub_says() {
    mcopy -n -o -i "$boot" ::EFI/BOOT/grubenv grubenv
    grep -a "^$1=" grubenv | cut -d= -f2
}

say "a box of a delivery"
cp --sparse=always "$stock" box.img
claim=$(ctl enroll create --claim --labels batch=7 | jq -r .token)
agent_toml box.toml "$BROKER_AT" /var/lib/tideline
mcopy -i "$boot" box.toml ::tideline-agent.toml
printf '%s\n' "$claim" | mcopy -i "$boot" - ::tideline-enroll.token
before=$(slot $SLOT_A)
begun=$SECONDS
start_machine "$arch" box.img
one_asks() { [ "$(ctl enroll asks | jq length)" -eq 1 ]; }
until_true "the box asks" on one_asks
printf 'asks after %s s\n' $((SECONDS - begun))
ask=$(ctl enroll asks | jq -r '.[0].id')
ctl enroll approve "$ask" --agent edge-1 >/dev/null
until_true "the box is connected" on box .connected true
delivers() {
    readings 20 100 false
    until_true "every reading is at the hub" on all_at_hub
}
delivers
printf 'let in, connected and delivering after %s s\n' $((SECONDS - begun))
# It is good once the agent answers.
until_true "the slot is called good" on eval '[ "$(grub_says A_TRY)" = 0 ]'
stop_machine
! mdir -i "$boot" ::tideline-enroll.token >/dev/null 2>&1 || die "see that the claim is gone from the boot partition"
if grep -a -q -F "$claim" box.img; then die "find the claim gone: it is still on the disk"; fi
[ "$(slot $SLOT_A)" = "$before" ] || die "see that the root file system was not written to"
echo "the claim is gone from the disk, and the root file system is the bytes that it was"

# bundle FILE KEYS: an update with the root file system of the image.
bundle() {
    rm -rf bundle "$1"
    mkdir bundle
    cp --sparse=always "$stock.root" bundle/root.ext4
    printf '[update]\ncompatible=tideline-%s\nversion=test\n[bundle]\nformat=verity\n[image.rootfs]\nfilename=root.ext4\n' "$arch" >bundle/manifest.raucm
    rauc bundle --cert="$2/cert.pem" --key="$2/key.pem" bundle "$1" >/dev/null 2>&1 || die "make a bundle"
}

say "an update that somebody else signed"
mkdir other
new_key other "somebody else"
bundle wrong.raucb other
mcopy -i "$boot" wrong.raucb ::update.raucb
start_machine "$arch" box.img
until_true "the box is connected" on box .connected true
until_true "the update is refused" on eval 'mdir -i "$boot" ::update.raucb.refused >/dev/null 2>&1'
stop_machine
mtype -i "$boot" ::update.raucb.txt | grep -m1 "signature verification failed" || die "see that it is refused by its signature"
[ "$(grub_says ORDER)" != "B A" ] && [ "$(slot $SLOT_A)" = "$before" ] || die "see that nothing changed"
mdel -i "$boot" ::update.raucb.refused ::update.raucb.txt

say "an update"
bundle right.raucb "$keys"
mcopy -i "$boot" right.raucb ::update.raucb
begun=$SECONDS
start_machine "$arch" box.img
# qemu ends where the machine would start again.
wait "$machine" || die "see that the box starts again by itself"
printf 'installed after %s s\n' $((SECONDS - begun))
[ "$(grub_says ORDER)" = "B A" ] || die "see that the other slot is first: $(grub_says ORDER)"
start_machine "$arch" box.img
until_true "the box is connected" on box .connected true
delivers
until_true "the new slot is called good" on eval '[ "$(grub_says B_OK)$(grub_says B_TRY)" = 10 ]'
echo "in the second slot, as the same box: let in, connected and delivering"

say "a broken slot"
stop_machine
dd if=/dev/zero of=box.img bs=1M seek=$SLOT_B count=64 conv=notrunc status=none
start_machine "$arch" box.img
wait "$machine" || die "see that the box starts again by itself"
start_machine "$arch" box.img
until_true "the box is connected" on box .connected true
delivers
[ "$(grub_says B_OK)" = 0 ] || die "see that the broken slot is not tried again"
stop_machine
[ "$(slot $SLOT_A)" = "$before" ] || die "see that the root file system was not written to"
echo "back in the first slot by itself, and nothing is lost: $sent of $sent readings are at the hub"
