#!/usr/bin/env bash
# Builds the programs for a target, stripped and the same bytes each time.
#
#     cross/build.sh TARGET [edge-agent|cloud-hub ...]      both, if none is named
#
# Without a target that rustup has installed, the standard library is built as well, from Debian's rust-web-src. The linker and the C
# compiler are zig's, so nothing but Python is needed for them. What it needs and is not there it installs: on Debian and Ubuntu.
# The programs come to target/cross/TARGET/; TIDELINE_CROSS_TARGET_DIR says another place for what is built on the way.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
. "$root/cross/targets.sh"
cd "$root"

ZIGBUILD=0.24.1
ZIG=0.17.1

target=${1:?"say a target: ${STATIC_TARGETS[*]} ${GPU_TARGETS[*]}"}
shift
check_target "$target"
programs=("${@:-edge-agent}")
[ $# -gt 0 ] || programs=(edge-agent cloud-hub)
tools=$root/target/cross/tools
out=$root/target/cross/$target
build_dir=${TIDELINE_CROSS_TARGET_DIR:-$root/target/cross/build}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo -n "$@"; fi
}

# Puts zig and cargo-zigbuild into a folder of their own.
need_zig() {
    [ -x "$tools/bin/cargo-zigbuild" ] && return
    say "installing zig $ZIG and cargo-zigbuild $ZIGBUILD into target/cross/tools"
    python3 -m venv "$tools" || die "make a Python environment: install python3-venv"
    "$tools/bin/pip" install -q "cargo-zigbuild==$ZIGBUILD" "ziglang==$ZIG"
}

# Debian's compiler of a version that is new enough, with the sources of the standard library.
need_sources() {
    [ -x /usr/bin/rustc ] && [ -x /usr/bin/cargo ] && [ -d "$(/usr/bin/rustc --print sysroot)/lib/rustlib/src/rust/library" ] && return
    command -v apt-get >/dev/null || die "build the standard library: run 'rustup target add $target'"
    say "no standard library for $target: installing rustc-web, cargo-web and rust-web-src to build it"
    as_root apt-get update -q
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends rustc-web cargo-web rust-web-src
}

has_target() {
    command -v rustup >/dev/null && rustup target list --installed 2>/dev/null | grep -qx "$target"
}

need_zig
export PATH="$tools/bin:$PATH"
CARGO_ZIGBUILD_ZIG_PATH=$("$tools/bin/python" -c 'import os, ziglang; print(os.path.join(os.path.dirname(ziglang.__file__), "zig"))')
export CARGO_ZIGBUILD_ZIG_PATH

# The same bytes each time, wherever it is built: no path of this machine, and the time of the commit.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
export SOURCE_DATE_EPOCH ZERO_AR_DATE=1
cargo_home=${CARGO_HOME:-$HOME/.cargo}
flags="--remap-path-prefix=$root=/tideline --remap-path-prefix=$cargo_home=/cargo -C strip=symbols"
export CFLAGS="-ffile-prefix-map=$root=/tideline -ffile-prefix-map=$cargo_home=/cargo -g0"

# Linked as one piece, which leaves out more: 3 MB less of an agent.
arguments=(--release --locked --target-dir "$build_dir" --config 'profile.release.lto="fat"' --config 'profile.release.codegen-units=1')
features=()
if is_gpu "$target"; then
    arguments+=(--target "$target.$GLIBC")
    features=(--features wgpu)
else
    arguments+=(--target "$target")
    # A static program that is not relocatable is smaller and starts sooner.
    flags+=" -C relocation-model=static -C target-feature=+crt-static"
fi
if has_target; then
    cargo=(cargo-zigbuild zigbuild)
else
    need_sources
    export RUSTC_BOOTSTRAP=1 RUSTC=/usr/bin/rustc CARGO=/usr/bin/cargo
    flags+=" --remap-path-prefix=$(/usr/bin/rustc --print sysroot)/lib/rustlib/src/rust=/rust"
    is_gpu "$target" || flags+=" -C link-self-contained=no"
    arguments+=(-Zbuild-std=std,panic_abort)
    cargo=(cargo-zigbuild zigbuild)
fi
variable=CARGO_TARGET_$(tr 'a-z-' 'A-Z_' <<<"$target")_RUSTFLAGS
export "$variable=$flags"

mkdir -p "$out"
for program in "${programs[@]}"; do
    say "$program for $target"
    "${cargo[@]}" "${arguments[@]}" "${features[@]}" -p "$program" --bin "$program"
    cp "$build_dir/$target/release/$program" "$out/$program"
    printf '%s: %s bytes, sha256 %s\n' "$out/$program" "$(stat -c %s "$out/$program")" \
        "$(sha256sum "$out/$program" | cut -d' ' -f1)"
done
