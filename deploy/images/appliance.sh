#!/usr/bin/env bash
# Builds an image of our own, for boxes that do nothing else: Debian with the agent on a read-only root file system, a second slot for the
# next one (RAUC), and a partition for what changes, which takes the rest of the card. Nobody logs in to it.
#
#     deploy/images/appliance.sh amd64|arm64 OUTPUT
#
# OUTPUT is the image; OUTPUT.root beside it the root file system alone, for bundles. It boots by UEFI. What it needs stands in debian.sh, and
# before it cross/build.sh and deploy/packages/build.sh for the static target. TIDELINE_OS_KEYRING names the certificate (PEM) of who
# signs updates: without it none is taken. TIDELINE_KERNEL names another kernel's package.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
. "$root/cross/targets.sh"
arch=${1:?"say amd64 or arm64"}
output=${2:?"say where the image goes"}
. "$root/deploy/images/debian.sh"
[ "$(id -u)" -eq 0 ] || die "build an image: only root can put Debian's packages into a folder"
package=$(find "$root/target/packages" -name "tideline-edge_*_$arch.deb" 2>/dev/null | sort -V | tail -n 1)
[ -n "$package" ] || die "find a package for $arch: build it with deploy/packages/build.sh"

# A bundle lies on the boot partition while it is put in.
BOOT_MIB=512
SLOT_MIB=1536
DATA_MIB=512
case "$arch" in
amd64) slot_type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709 consoles="console=tty0 console=$console" ;;
arm64) slot_type=B921B045-1DF0-41C3-AF44-4C6F280D3FAE consoles="console=$console" ;;
esac
kernel=${TIDELINE_KERNEL:-linux-image-$arch}
packages=systemd-sysv,systemd-resolved,systemd-timesyncd,dbus,udev,ca-certificates,e2fsprogs,dosfstools,$kernel
packages+=,rauc,rauc-service,grub-common,grub-efi-$arch-bin
modules="normal part_gpt fat ext2 linux boot loadenv regexp test eval echo sleep reboot"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
system=$work/system
ours=$root/deploy/images/appliance
inside() { chroot "$system" env DEBIAN_FRONTEND=noninteractive "$@"; }
put() { install -D -m "${3:-0644}" "$ours/$1" "$system/$2"; }

say "Debian $suite for $arch"
mmdebstrap --quiet --variant=minbase --architectures="$arch" --include="$packages" "$suite" "$system"

say "what makes it ours"
cp "$package" "$system/agent.deb"
inside dpkg -i /agent.deb >/dev/null
rm "$system/agent.deb"
put fstab etc/fstab
put zz-dhcp.network etc/systemd/network/zz-dhcp.network
put data.conf etc/repart.d/data.conf
put os-update usr/lib/tideline/os-update 0755
for unit in tideline-network tideline-os-good tideline-os-update; do
    put $unit.service etc/systemd/system/$unit.service
done
install -d "$system/etc/rauc" "$system/etc/systemd/journald.conf.d" "$system/boot/firmware"
sed "s/@ARCH@/$arch/" "$ours/rauc.conf" >"$system/etc/rauc/system.conf"
if [ -n "${TIDELINE_OS_KEYRING:-}" ]; then
    install -m 0644 "$TIDELINE_OS_KEYRING" "$system/etc/rauc/keyring.pem"
else
    sed -i '/^\[keyring\]/,/^$/d' "$system/etc/rauc/system.conf"
fi
# Cards wear out by logs.
printf '[Journal]\nStorage=volatile\nRuntimeMaxUse=16M\n' >"$system/etc/systemd/journald.conf.d/tideline.conf"
printf 'd /var/lib/rauc 0755\nd /var/etc/tideline 0755\n' >"$system/usr/lib/tmpfiles.d/tideline-appliance.conf"
inside systemctl enable systemd-networkd tideline-network tideline-os-good tideline-os-update >/dev/null 2>&1
inside systemctl mask apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer getty@.service serial-getty@.service \
    >/dev/null 2>&1
ln -sf /run/systemd/resolve/resolv.conf "$system/etc/resolv.conf"
echo tideline >"$system/etc/hostname"
: >"$system/etc/machine-id"

say "its partitions"
inside grub-mkimage -O "$grub" -p /EFI/BOOT -o /loader.efi $modules
inside grub-editenv /grubenv create
mv "$system/loader.efi" "$system/grubenv" "$work/"
truncate -s "${BOOT_MIB}M" "$work/boot.img"
mkfs.vfat -F 32 -n TIDELINE "$work/boot.img" >/dev/null
mmd -i "$work/boot.img" ::EFI ::EFI/BOOT
mcopy -i "$work/boot.img" "$work/loader.efi" "::$loader"
mcopy -i "$work/boot.img" "$work/grubenv" ::EFI/BOOT/grubenv
sed "s/@CONSOLES@/$consoles/" "$ours/grub.cfg" | mcopy -i "$work/boot.img" - ::EFI/BOOT/grub.cfg
mcopy -i "$work/boot.img" "$ours/README.txt" ::README.txt
mkdir -p "$work/data/etc" "$(dirname "$output")"
mv "$system/var"/* "$work/data/"
rm -rf "$work/data/lib/apt/lists" "$work/data/cache"
mkdir "$work/data/cache"
cp -a "$system/etc/tideline" "$work/data/etc/tideline"
ext4 "$work/data.img" $DATA_MIB data "$work/data"
ext4 "$output.root" $SLOT_MIB root "$system"

say "the image"
assemble "$work/image" boot U $BOOT_MIB "$work/boot.img" root-a "$slot_type" $SLOT_MIB "$output.root" \
    root-b "$slot_type" $SLOT_MIB "" data L $DATA_MIB "$work/data.img"
mv "$work/image" "$output"
echo "$output: $(stat -c %s "$output") bytes for $arch, of which $(du -m "$output" | cut -f1) MiB are used; boots by UEFI"
