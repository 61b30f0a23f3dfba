#!/usr/bin/env bash
# Builds a Debian image with cloud-init and a FAT boot partition, from Debian's packages alone: for boxes that do nothing else, and
# as what `cloud-hub ctl image prepare` is tested with where no stock image can be had.
#
#     deploy/images/build.sh amd64|arm64 OUTPUT
#
# Needs mmdebstrap, mtools, dosfstools, e2fsprogs, fdisk (Debian), and qemu-user-static for another architecture. No loop devices.
# It boots by UEFI. Its root file system can be mounted read-only: what changes lies in /var and /etc.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
. "$root/cross/targets.sh"

arch=${1:?"say amd64 or arm64"}
output=${2:?"say where the image goes"}
suite=${TIDELINE_SUITE:-bookworm}
case "$arch" in
amd64) kernel=linux-image-cloud-amd64 efi=x64 upper=X64 qemu=qemu-x86_64-static console=ttyS0 ;;
arm64) kernel=linux-image-cloud-arm64 efi=aa64 upper=AA64 qemu=qemu-aarch64-static console=ttyAMA0 ;;
*) die "build an image for $arch: amd64 and arm64 are known" ;;
esac
BOOT_MIB=256
ROOT_MIB=1536
packages=systemd-sysv,systemd-boot-efi,systemd-timesyncd,dbus,udev,cloud-init,netplan.io,ca-certificates,$kernel

for tool in mmdebstrap mcopy mkfs.vfat mke2fs sfdisk; do
    PATH=$PATH:/usr/sbin:/sbin command -v "$tool" >/dev/null || die "find $tool: install mmdebstrap mtools dosfstools e2fsprogs fdisk"
done
PATH=$PATH:/usr/sbin:/sbin
binfmt=/proc/sys/fs/binfmt_misc
if [ "$(dpkg --print-architecture)" != "$arch" ]; then
    [ -e $binfmt/register ] || mount -t binfmt_misc binfmt_misc $binfmt
    conf=/usr/lib/binfmt.d/${qemu%-static}.conf
    [ -e "$binfmt/${qemu%-static}" ] || { [ -f "$conf" ] && cat "$conf" >$binfmt/register; } || die "run programs for $arch: install qemu-user-static"
fi

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
truncate -s "${ROOT_MIB}M" "$work/root.img"
mke2fs -q -t ext4 -L root -d "$work/root" "$work/root.img"
truncate -s "${BOOT_MIB}M" "$work/boot.img"
# The label by which cloud-init knows where it finds what a box is told.
mkfs.vfat -F 32 -n CIDATA "$work/boot.img" >/dev/null
mmd -i "$work/boot.img" ::EFI ::EFI/BOOT ::loader ::loader/entries
mcopy -i "$work/boot.img" "$work/boot/loader.efi" "::EFI/BOOT/BOOT$upper.EFI"
mcopy -i "$work/boot.img" "$work/boot/vmlinuz" "$work/boot/initrd.img" ::
printf 'timeout 0\n' | mcopy -i "$work/boot.img" - ::loader/loader.conf
printf 'title Debian\nlinux /vmlinuz\ninitrd /initrd.img\noptions root=LABEL=root rw console=%s panic=10\n' "$console" |
    mcopy -i "$work/boot.img" - ::loader/entries/debian.conf

say "the image"
truncate -s $((BOOT_MIB + ROOT_MIB + 2))M "$work/image"
printf 'label: gpt\nstart=2048, size=%s, type=U\nstart=%s, size=%s, type=L\n' \
    $((BOOT_MIB * 2048)) $(((BOOT_MIB + 1) * 2048)) $((ROOT_MIB * 2048)) | sfdisk -q "$work/image"
dd if="$work/boot.img" of="$work/image" bs=1M seek=1 conv=notrunc,sparse status=none
dd if="$work/root.img" of="$work/image" bs=1M seek=$((BOOT_MIB + 1)) conv=notrunc,sparse status=none
mkdir -p "$(dirname "$output")"
mv "$work/image" "$output"
echo "$output: $(stat -c %s "$output") bytes for $arch, boots by UEFI"
