# Debian for an architecture, from its packages alone, and images of what comes of it. To be sourced after cross/targets.sh, with $arch set.
# Needs mmdebstrap, mtools, dosfstools, e2fsprogs, fdisk (Debian), and qemu-user-static for another architecture. No loop devices.

suite=${TIDELINE_SUITE:-bookworm}
case "$arch" in
amd64) efi=x64 grub=x86_64-efi qemu=qemu-x86_64-static console=ttyS0 ;;
arm64) efi=aa64 grub=arm64-efi qemu=qemu-aarch64-static console=ttyAMA0 ;;
*) die "build an image for $arch: amd64 and arm64 are known" ;;
esac
# What firmware looks for on a disk that it knows nothing about.
loader=EFI/BOOT/BOOT${efi^^}.EFI

PATH=$PATH:/usr/sbin:/sbin
for tool in mmdebstrap mcopy mkfs.vfat mke2fs sfdisk; do
    command -v "$tool" >/dev/null || die "find $tool: install mmdebstrap mtools dosfstools e2fsprogs fdisk"
done
binfmt=/proc/sys/fs/binfmt_misc
if [ "$(dpkg --print-architecture)" != "$arch" ]; then
    [ -e $binfmt/register ] || mount -t binfmt_misc binfmt_misc $binfmt
    conf=/usr/lib/binfmt.d/${qemu%-static}.conf
    [ -e "$binfmt/${qemu%-static}" ] || { [ -f "$conf" ] && cat "$conf" >$binfmt/register; } || die "run programs for $arch: install qemu-user-static"
fi

# ext4 FILE MIB LABEL FOLDER: a file system with what is in the folder.
ext4() {
    truncate -s "$2M" "$1"
    mke2fs -q -t ext4 -L "$3" -d "$4" "$1"
}

# assemble IMAGE [NAME TYPE MIB FILE]...: a disk of these partitions, one after another. One whose file is "" is empty.
assemble() {
    local image=$1 table='label: gpt\n' at=1 copies=()
    shift
    while [ $# -gt 0 ]; do
        table+="start=$((at * 2048)), size=$(($3 * 2048)), type=$2, name=$1\n"
        [ -z "$4" ] || copies+=("$4" "$at")
        at=$((at + $3))
        shift 4
    done
    truncate -s $((at + 1))M "$image"
    printf %b "$table" | sfdisk -q "$image"
    set -- "${copies[@]}"
    while [ $# -gt 0 ]; do
        dd if="$1" of="$image" bs=1M seek="$2" conv=notrunc,sparse status=none
        shift 2
    done
}
