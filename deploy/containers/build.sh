#!/usr/bin/env bash
# Makes container images of what cross/build.sh built, without a container engine: OCI layouts (image-spec 1.1), the same bytes each
# time. What they hold is a static program, its user, and nothing else: there is no shell in them.
#
#     deploy/containers/build.sh TARGET [edge-agent|cloud-hub ...]      into target/containers/, as folder and as .tar
#
#     skopeo copy oci-archive:target/containers/tideline-edge-amd64.tar docker-daemon:tideline-edge:latest
#     podman load -i target/containers/tideline-edge-amd64.tar
#
# Needs Python 3.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
. "$root/cross/targets.sh"
cd "$root"

target=${1:?"say a target: ${STATIC_TARGETS[*]}"}
shift
check_target "$target"
! is_gpu "$target" || die "make an image for $target: programs with GPU support are not static"
built=${TIDELINE_BUILT:-$root/target/cross/$target}
out=$root/target/containers
programs=("$@")
if [ ${#programs[@]} -eq 0 ]; then
    for program in edge-agent cloud-hub; do
        [ ! -x "$built/$program" ] || programs+=("$program")
    done
fi
[ ${#programs[@]} -gt 0 ] || die "find a program for $target: build it with cross/build.sh $target"
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
version=$(sed -n '/^\[workspace.package\]/,/^\[/ s/^version = "\(.*\)"/\1/p' Cargo.toml)
export SOURCE_DATE_EPOCH
mkdir -p "$out"

for program in "${programs[@]}"; do
    [ -x "$built/$program" ] || die "find $built/$program: build it with cross/build.sh $target $program"
    python3 deploy/containers/layout.py "$built/$program" "$(debian_arch "$target")" "$version" "$out"
done
