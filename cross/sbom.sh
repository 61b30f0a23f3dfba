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
        # It lists what any feature of any crate could bring; what is linked, cargo knows.
        cargo tree --locked --quiet -p "$program" -e normal,build --target "$target" --prefix none --format '{p}' "${features[@]}" |
            awk '{ sub(/^v/, "", $2); print $1 "@" $2 }' | sort -u >"$out/linked"
        python3 - "$out/$program-$target.cdx.json" "$out/linked" <<'PY'
import json, sys
path, linked = sys.argv[1], set(open(sys.argv[2]).read().split())
document = json.load(open(path))
document["components"] = [one for one in document["components"] if f"{one['name']}@{one['version']}" in linked]
kept = {one["bom-ref"] for one in document["components"]} | {document["metadata"]["component"]["bom-ref"]}
document["dependencies"] = [
    {**one, "dependsOn": [ref for ref in one.get("dependsOn", []) if ref in kept]}
    for one in document["dependencies"] if one["ref"] in kept
]
json.dump(document, open(path, "w"), indent=1)
print(f"{path}: {len(document['components'])} components")
PY
        rm "$out/linked"
    done
done
