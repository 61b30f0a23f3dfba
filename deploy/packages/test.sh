#!/usr/bin/env bash
# Installs the packages of deploy/packages/build.sh in a clean Debian root, upgrades, removes and purges them, and looks for what is
# left behind. Needs root, mmdebstrap and a network to Debian's packages; other architectures also qemu-user-static.
#
#     deploy/packages/test.sh TARGET
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
. "$root/cross/targets.sh"
cd "$root"

target=${1:?"say a target"}
check_target "$target"
arch=$(debian_arch "$target")
suite=${TIDELINE_SUITE:-bookworm}
packages=(tideline-edge tideline-hub)
[ -x "target/cross/$target/cloud-hub" ] || packages=(tideline-edge)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
inside() { chroot "$work/debian" "$@"; }

# The files of a root, without what dpkg and the system itself write down.
files() {
    (cd "$work/debian" && find . -xdev \( -path ./proc -o -path ./sys -o -path ./dev -o -path ./run -o -path ./tmp -o -path ./packages \
        -o -path ./var/lib/dpkg -o -path ./var/log -o -path ./var/cache \) -prune -o -print | sort)
}

say "packages of this version, and of the one before"
TIDELINE_VERSION=0.0.9 deploy/packages/build.sh "$target"
deploy/packages/build.sh "$target"
version=$(sed -n '/^\[workspace.package\]/,/^\[/ s/^version = "\(.*\)"/\1/p' Cargo.toml)

# Programs of another processor run by themselves once the kernel knows what emulates them.
binfmt=/proc/sys/fs/binfmt_misc
qemu=$(qemu_of "$target")
if [ "$(dpkg --print-architecture)" != "$arch" ]; then
    [ -e $binfmt/register ] || mount -t binfmt_misc binfmt_misc $binfmt
    conf=/usr/lib/binfmt.d/${qemu%-static}.conf
    [ -e "$binfmt/${qemu%-static}" ] || { [ -f "$conf" ] && cat "$conf" >$binfmt/register; } || die "run programs for $arch: install qemu-user-static"
fi

say "a clean Debian $suite for $arch"
mmdebstrap --quiet --variant=minbase --architectures="$arch" --include=systemd,init-system-helpers "$suite" "$work/debian"
mkdir "$work/debian/packages"
cp target/packages/tideline-*_"$arch".deb "$work/debian/packages/"
files >"$work/before"

for package in "${packages[@]}"; do
    say "$package"
    inside dpkg -i "/packages/${package}_0.0.9_$arch.deb" >/dev/null
    program=$(inside dpkg -L "$package" | grep '^/usr/bin/')
    inside "$program" --version
    unit=${package%-gpu}.service
    [ "$(inside systemctl is-enabled "$unit")" = enabled ] || die "enable $unit"
    inside systemd-analyze verify "$unit" || die "verify $unit"
    # Somebody changed the configuration: an upgrade keeps it.
    config=$(cat "$work/debian/var/lib/dpkg/info/$package.conffiles")
    echo '# changed here' >>"$work/debian$config"
    inside dpkg -i "/packages/${package}_${version}_$arch.deb" >/dev/null
    if [ "$package" = tideline-edge ]; then
        # tideline-edge-gpu takes its place with the same state, and then this package is purged.
        mkdir -p "$work/debian/var/lib/private/tideline"
        touch "$work/debian/var/lib/private/tideline/kept"
        inside sh /var/lib/dpkg/info/tideline-edge.postrm purge
        [ -e "$work/debian/var/lib/private/tideline/kept" ] || die "keep the state of what took the place of $package"
    fi
    grep -q 'changed here' "$work/debian$config" || die "keep $config over an upgrade"
    inside dpkg -i "/packages/${package}_0.0.9_$arch.deb" >/dev/null
    grep -q 'changed here' "$work/debian$config" || die "keep $config over a downgrade"
    # What it would have written.
    mkdir -p "$work/debian/var/lib/private/${package/-edge/}" && ln -s "private/${package/-edge/}" "$work/debian/var/lib/${package/-edge/}"
    inside dpkg --remove "$package" >/dev/null
    [ -f "$work/debian$config" ] || die "keep $config when the package is removed"
    inside dpkg --purge "$package" >/dev/null
done
files >"$work/after"
diff "$work/before" "$work/after" || die "leave nothing behind"

say "how exposed the units are"
for unit in tideline-edge:1.5 tideline-hub:2.0; do
    score=$(systemd-analyze security --offline=yes --no-pager "deploy/systemd/${unit%:*}.service" | sed -n 's/.*exposure level for .*: \([0-9.]*\) .*/\1/p')
    echo "${unit%:*}: $score, at most ${unit#*:}"
    awk -v score="$score" -v most="${unit#*:}" 'BEGIN { exit !(score <= most) }' || die "keep ${unit%:*} below ${unit#*:}"
done
echo "installed, upgraded, downgraded, removed and purged: nothing is left behind"
