#!/usr/bin/env bash
# Writes what the programs are made of, as CycloneDX: one document for each program and target, into target/sbom/.
#
#     cross/sbom.sh [TARGET ...]      all targets, if none is named
#
# Installs cargo-cyclonedx into target/cross/tools, which takes a few minutes the first time.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
. "$root/cross/targets.sh"
cd "$root"

CYCLONEDX=0.5.9
tools=$root/target/cross/tools
out=$root/target/sbom
targets=("$@")
[ $# -gt 0 ] || targets=("${STATIC_TARGETS[@]}" "${GPU_TARGETS[@]}")
[ -x "$tools/bin/cargo-cyclonedx" ] || cargo install --quiet --locked --root "$tools" "cargo-cyclonedx@$CYCLONEDX"
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
export SOURCE_DATE_EPOCH
mkdir -p "$out"

for target in "${targets[@]}"; do
    check_target "$target"
    features=()
    ! is_gpu "$target" || features=(--features wgpu)
    for program in edge-agent cloud-hub; do
        # It writes beside the manifest, and nowhere else.
        "$tools/bin/cargo-cyclonedx" cyclonedx --quiet --format json --spec-version 1.5 --target "$target" \
            --manifest-path "$program/Cargo.toml" --override-filename "$program.sbom" "${features[@]}"
        find . -path ./target -prune -o -name "$program.sbom.json" -print | while read -r file; do
            case "$file" in
            "./$program/"*) mv "$file" "$out/$program-$target.cdx.json" ;;
            *) rm "$file" ;;
            esac
        done
        printf '%s: %s components\n' "$out/$program-$target.cdx.json" \
            "$(python3 -c 'import json, sys; print(len(json.load(open(sys.argv[1]))["components"]))' "$out/$program-$target.cdx.json")"
    done
done
