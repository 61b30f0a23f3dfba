#!/usr/bin/env bash
# Makes packages of what cross/build.sh built for a target: .deb and, where rpmbuild is installed, .rpm.
#
#     deploy/packages/build.sh TARGET        into target/packages/
#
# The same programs give the same packages, byte for byte.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
. "$root/cross/targets.sh"
cd "$root"

target=${1:?"say a target: ${STATIC_TARGETS[*]} ${GPU_TARGETS[*]}"}
check_target "$target"
built=${TIDELINE_BUILT:-$root/target/cross/$target}
out=$root/target/packages
arch=$(debian_arch "$target")
rpm_arch=${target%%-*}
[ "$rpm_arch" != armv7 ] || rpm_arch=armv7hl
version=$(sed -n '/^\[workspace.package\]/,/^\[/ s/^version = "\(.*\)"/\1/p' Cargo.toml)
version=${TIDELINE_VERSION:-$version}
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
export SOURCE_DATE_EPOCH
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
umask 022

# stage PROGRAM PACKAGE: the files that a package has, without what belongs to a package manager.
stage() {
    local program=$1 package=$2 tree=$3
    install -D -m 0755 "$built/$program" "$tree/usr/bin/$program"
    install -D -m 0644 LICENSE-MIT "$tree/usr/share/doc/$package/LICENSE-MIT"
    install -D -m 0644 LICENSE-APACHE "$tree/usr/share/doc/$package/LICENSE-APACHE"
    gzip -9n <CHANGELOG.md >"$tree/usr/share/doc/$package/changelog.gz"
    chmod 0644 "$tree/usr/share/doc/$package/changelog.gz"
    case "$package" in
    tideline-edge*)
        install -D -m 0644 deploy/packages/agent.toml "$tree/etc/tideline/agent.toml"
        install -D -m 0644 deploy/config/agent.toml "$tree/usr/share/doc/tideline-edge/agent.toml.example"
        install -D -m 0755 deploy/packages/enroll-from-boot "$tree/usr/lib/tideline/enroll-from-boot"
        ;;
    tideline-hub)
        install -D -m 0644 deploy/packages/hub.toml "$tree/etc/tideline/hub.toml"
        install -D -m 0644 deploy/config/hub.toml "$tree/usr/share/doc/tideline-hub/hub.toml.example"
        install -d "$tree/usr/share/tideline/recipes"
        install -m 0644 deploy/recipes/*.toml "$tree/usr/share/tideline/recipes/"
        install -D -m 0644 deploy/prometheus/tideline.rules.yml "$tree/usr/share/tideline/prometheus/tideline.rules.yml"
        install -D -m 0644 deploy/grafana/tideline.json "$tree/usr/share/tideline/grafana/tideline.json"
        ;;
    esac
}

# units PACKAGE: the service that is started, then others that are enabled.
units() {
    case "$1" in
    tideline-edge*) echo tideline-edge.service tideline-enroll.service ;;
    tideline-hub) echo tideline-hub.service ;;
    esac
}

# What is removed with the last trace of a package.
state() {
    case "$1" in
    tideline-edge*) echo /var/lib/private/tideline /var/lib/tideline /run/tideline ;;
    tideline-hub) echo /var/lib/private/tideline-hub /var/lib/tideline-hub ;;
    esac
}

config() {
    case "$1" in
    tideline-edge*) echo /etc/tideline/agent.toml ;;
    tideline-hub) echo /etc/tideline/hub.toml ;;
    esac
}

summary() {
    case "$1" in
    tideline-edge) echo "Tideline edge agent: small models on the box, nothing lost" ;;
    tideline-edge-gpu) echo "Tideline edge agent with GPU support, through Vulkan" ;;
    tideline-hub) echo "Tideline cloud hub: stores, watches, retrains and rolls out" ;;
    esac
}

# With a running service manager the service is restarted; without one, in a container or an image, it is enabled for the next start.
after_install() {
    cat <<SCRIPT
if command -v systemctl >/dev/null; then
    [ ! -d /run/systemd/system ] || systemctl daemon-reload || true
    systemctl enable $(units "$1") >/dev/null 2>&1 || true
    [ ! -d /run/systemd/system ] || systemctl restart ${2} || true
fi
SCRIPT
}

before_remove() {
    cat <<SCRIPT
if command -v systemctl >/dev/null; then
    [ ! -d /run/systemd/system ] || systemctl stop $(units "$1") || true
    systemctl disable $(units "$1") >/dev/null 2>&1 || true
fi
SCRIPT
}

units_into() {
    local package=$1 place=$2
    for unit in $(units "$package"); do
        install -D -m 0644 "deploy/systemd/$unit" "$place/$unit"
    done
    [ "$package" != tideline-edge-gpu ] ||
        install -D -m 0644 deploy/systemd/tideline-edge-gpu.conf "$place/tideline-edge.service.d/gpu.conf"
}

deb() {
    local package=$1 tree=$2 relations=$3 service
    service=$(units "$package" | cut -d' ' -f1)
    mkdir -p "$tree/DEBIAN"
    units_into "$package" "$tree/lib/systemd/system"
    config "$package" >"$tree/DEBIAN/conffiles"
    cat >"$tree/DEBIAN/control" <<CONTROL
Package: $package
Version: $version
Architecture: $arch
Maintainer: The Tideline authors <tideline@localhost>
Section: net
Priority: optional
Installed-Size: $(du -sk --apparent-size "$tree" | cut -f1)
${relations}Description: $(summary "$package")
 Keeps small models alive where the data is born: readings come in over MQTT,
 are answered on the box, and reach the hub exactly once.
CONTROL
    { printf '#!/bin/sh\nset -e\n[ "$1" = configure ] || exit 0\n'; after_install "$package" "$service"; } >"$tree/DEBIAN/postinst"
    { printf '#!/bin/sh\nset -e\n[ "$1" = remove ] || exit 0\n'; before_remove "$package"; } >"$tree/DEBIAN/prerm"
    {
        printf '#!/bin/sh\nset -e\n'
        printf '[ ! -d /run/systemd/system ] || systemctl daemon-reload || true\n'
        # What took its place has the same state.
        [ "$package" = tideline-hub ] || printf '[ ! -e /usr/bin/edge-agent ] || exit 0\n'
        printf 'if [ "$1" = purge ]; then\n    rm -rf %s\n    rmdir --ignore-fail-on-non-empty /etc/tideline 2>/dev/null || true\nfi\n' "$(state "$package")"
    } >"$tree/DEBIAN/postrm"
    chmod 0755 "$tree/DEBIAN/postinst" "$tree/DEBIAN/prerm" "$tree/DEBIAN/postrm"
    find "$tree" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +
    # What it says of itself is packed by gzip, so that the hub can read it (cloud-hub's image::package).
    dpkg-deb --root-owner-group --no-uniform-compression -Zxz --build "$tree" "$out/${package}_${version}_$arch.deb" >/dev/null
    echo "$out/${package}_${version}_$arch.deb"
}

rpm_of() {
    local package=$1 tree=$2 relations=$3 service
    service=$(units "$package" | cut -d' ' -f1)
    units_into "$package" "$tree/usr/lib/systemd/system"
    {
        printf 'Name: %s\nVersion: %s\nRelease: 1\nSummary: %s\nLicense: MIT OR Apache-2.0\n%s' \
            "$package" "$version" "$(summary "$package")" "$relations"
        printf '%%description\nKeeps small models alive where the data is born.\n'
        printf '%%install\nmkdir -p %%{buildroot}\ncp -a %s/. %%{buildroot}/\n' "$tree"
        printf '%%post\n'; after_install "$package" "$service"
        # 0 packages are left: it is removed, not replaced.
        printf '%%preun\n[ "$1" -eq 0 ] || exit 0\n'; before_remove "$package"
        printf '%%files\n'
        (cd "$tree" && find . -type f -o -type l) | sed 's|^\.||' | sort | while read -r file; do
            if [ "$file" = "$(config "$package")" ]; then
                printf '%%config(noreplace) %s\n' "$file"
            else
                printf '%s\n' "$file"
            fi
        done
    } >"$work/$package.spec"
    rpmbuild -bb --quiet --target "$rpm_arch-linux" --buildroot "$work/rpm-root" \
        --define "_topdir $work/rpmbuild" --define "_rpmdir $out" --define '_rpmfilename %{NAME}-%{VERSION}-%{RELEASE}.%{ARCH}.rpm' \
        --define '__os_install_post %{nil}' --define '_build_id_links none' --define 'debug_package %{nil}' \
        --define '_buildhost tideline' --define 'use_source_date_epoch_as_buildtime 1' --define 'clamp_mtime_to_source_date_epoch 1' \
        --define "_binary_payload w19.zstdio" \
        "$work/$package.spec"
    rm -rf "$work/rpm-root"
    echo "$out/$package-$version-1.$rpm_arch.rpm"
}

make_package() {
    local program=$1 package=$2 deb_relations=$3 rpm_relations=$4
    [ -x "$built/$program" ] || die "package $program: build it first with cross/build.sh $target $program"
    stage "$program" "$package" "$work/$package-deb"
    deb "$package" "$work/$package-deb" "$deb_relations"
    if command -v rpmbuild >/dev/null; then
        stage "$program" "$package" "$work/$package-rpm"
        rpm_of "$package" "$work/$package-rpm" "$rpm_relations"
    fi
}

mkdir -p "$out"
if is_gpu "$target"; then
    make_package edge-agent tideline-edge-gpu \
        $'Depends: libc6 (>= 2.28), libvulkan1\nProvides: tideline-edge\nConflicts: tideline-edge\nReplaces: tideline-edge\nRecommends: mosquitto\n' \
        $'Requires: vulkan-loader\nProvides: tideline-edge\nConflicts: tideline-edge\nAutoReqProv: no\n'
else
    make_package edge-agent tideline-edge $'Recommends: mosquitto\n' $'AutoReqProv: no\n'
    [ ! -x "$built/cloud-hub" ] || make_package cloud-hub tideline-hub '' $'AutoReqProv: no\n'
fi
