#!/usr/bin/env bash
# Builds a Debian image with cloud-init and a FAT boot partition, from Debian's packages alone: what `cloud-hub ctl image prepare` is
# tested with where no stock image can be had.
#
#     deploy/images/build.sh amd64|arm64 OUTPUT
#
# It boots by UEFI. What it needs stands in debian.sh. Boxes that nobody changes are better off with appliance.sh.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
. "$root/cross/targets.sh"
arch=${1:?"say amd64 or arm64"}
output=${2:?"say where the image goes"}
. "$root/deploy/images/debian.sh"

BOOT_MIB=256
ROOT_MIB=1536
packages=systemd-sysv,systemd-boot-efi,systemd-timesyncd,dbus,udev,cloud-init,netplan.io,ca-certificates,linux-image-cloud-$arch

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

say "Debian $suite for $arch"
mmdebstrap --quiet --variant=minbase --architectures="$arch" --include="$packages" \
    --customize-hook='echo "LABEL=root / ext4 defaults,noatime 0 1" >"$1/etc/fstab"' \
    --customize-hook='echo "LABEL=CIDATA /boot/firmware vfat defaults,nofail,umask=0077 0 2" >>"$1/etc/fstab"' \
    --customize-hook='mkdir -p "$1/boot/firmware" && : >"$1/etc/machine-id"' \
    --customize-hook='printf "datasource_list: [NoCloud, None]\n" >"$1/etc/cloud/cloud.cfg.d/90-tideline.cfg"' \
    --customize-hook='chroot "$1" systemctl enable systemd-networkd >/dev/null 2>&1' \
    --customize-hook="mkdir -p $work/boot && cp \"\$1\"/boot/vmlinuz-* $work/boot/vmlinuz && cp \"\$1\"/boot/initrd.img-* $work/boot/initrd.img" \
    --customize-hook="cp \"\$1\"/usr/lib/systemd/boot/efi/systemd-boot$efi.efi $work/boot/loader.efi" \
    "$suite" "$work/root.tar"

say "its partitions"
mkdir "$work/root"
tar -C "$work/root" --numeric-owner -xf "$work/root.tar"
ext4 "$work/root.img" $ROOT_MIB root "$work/root"
truncate -s "${BOOT_MIB}M" "$work/boot.img"
# The label by which cloud-init knows where it finds what a box is told.
mkfs.vfat -F 32 -n CIDATA "$work/boot.img" >/dev/null
mmd -i "$work/boot.img" ::EFI ::EFI/BOOT ::loader ::loader/entries
mcopy -i "$work/boot.img" "$work/boot/loader.efi" "::$loader"
mcopy -i "$work/boot.img" "$work/boot/vmlinuz" "$work/boot/initrd.img" ::
printf 'timeout 0\n' | mcopy -i "$work/boot.img" - ::loader/loader.conf
printf 'title Debian\nlinux /vmlinuz\ninitrd /initrd.img\noptions root=LABEL=root rw console=%s panic=10\n' "$console" |
    mcopy -i "$work/boot.img" - ::loader/entries/debian.conf

say "the image"
assemble "$work/image" boot U $BOOT_MIB "$work/boot.img" root L $ROOT_MIB "$work/root.img"
mkdir -p "$(dirname "$output")"
mv "$work/image" "$output"
echo "$output: $(stat -c %s "$output") bytes for $arch, boots by UEFI"
