# What can be built: the targets, and what each of them is called elsewhere. Sourced by the other scripts here.

# Static programs, for any Linux of that architecture.
STATIC_TARGETS=(x86_64-unknown-linux-musl aarch64-unknown-linux-musl armv7-unknown-linux-musleabihf)
# Programs that load Vulkan at run time, for glibc 2.28 and newer (Debian 10, Ubuntu 20.04).
GPU_TARGETS=(x86_64-unknown-linux-gnu aarch64-unknown-linux-gnu)
GLIBC=2.28

# Debian's name of a target's architecture.
debian_arch() {
    case "$1" in
    x86_64-*) echo amd64 ;;
    aarch64-*) echo arm64 ;;
    armv7-*) echo armhf ;;
    *) die "name Debian's architecture of $1" ;;
    esac
}

# What emulates a target's processor.
qemu_of() {
    case "$1" in
    x86_64-*) echo qemu-x86_64-static ;;
    aarch64-*) echo qemu-aarch64-static ;;
    armv7-*) echo qemu-arm-static ;;
    *) die "name qemu's processor of $1" ;;
    esac
}

is_gpu() { [[ " ${GPU_TARGETS[*]} " == *" $1 "* ]]; }

check_target() {
    [[ " ${STATIC_TARGETS[*]} ${GPU_TARGETS[*]} " == *" $1 "* ]] ||
        die "build for $1: known are ${STATIC_TARGETS[*]} ${GPU_TARGETS[*]}"
}

say() { printf '\n== %s\n' "$*"; }

die() {
    printf 'failed to %s\n' "$*" >&2
    exit 1
}
