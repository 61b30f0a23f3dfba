#!/bin/sh
# Installs the Tideline agent on this machine and has its hub let it in.
#
#     sh install.sh --from https://hub.example --token-file enroll.token
#
#   --from URL         the hub that this script came from: the package is fetched from there
#   --token-file FILE  the enrolment token, as `cloud-hub ctl enroll create` prints it; - reads it from standard input. The file is shredded.
#                      Without one the agent is installed, or brought up to date, and not let in.
#   --config FILE      the box's configuration, instead of the package's
#   --gpu              the agent with GPU support, through Vulkan
#   --download FOLDER  only fetches the package and checks it
#
# Nothing is installed whose SHA-256 is not the one that stands below.
set -eu

packages() {
    cat <<'PACKAGES'
@PACKAGES@
PACKAGES
}

die() {
    printf 'failed to %s\n' "$*" >&2
    exit 1
}

fetch() {
    if command -v curl >/dev/null; then
        curl -fsSL --retry 3 -o "$2" "$1" || die "fetch $1"
    elif command -v wget >/dev/null; then
        wget -q -O "$2" "$1" || die "fetch $1"
    else
        die "fetch $1: there is neither curl nor wget"
    fi
}

# The kind of package that this machine takes, and its processor as the package manager calls it.
manager() {
    if command -v dpkg >/dev/null; then
        echo "deb $(dpkg --print-architecture)"
    elif command -v rpm >/dev/null; then
        arch=$(rpm --eval '%{_arch}')
        [ "$arch" != arm ] || arch=armv7hl
        echo "rpm $arch"
    else
        die "install a package: there is neither dpkg nor rpm; take the static program by itself (cross/build.sh)"
    fi
}

main() {
    from='' token='' config='' package=tideline-edge download=''
    while [ $# -gt 0 ]; do
        case "$1" in
        --gpu)
            package=tideline-edge-gpu
            shift
            continue
            ;;
        --from | --token-file | --config | --download) [ $# -gt 1 ] || die "understand $1: it takes a value" ;;
        *) die "understand $1: known are --from, --token-file, --config, --gpu and --download" ;;
        esac
        case "$1" in
        --from) from=${2%/} ;;
        --token-file) token=$2 ;;
        --config) config=$2 ;;
        --download) download=$2 ;;
        esac
        shift 2
    done
    [ -n "$from" ] || die "find the hub: say --from URL"
    [ -z "$config" ] || [ -r "$config" ] || die "read $config"
    [ -z "$token" ] || [ "$token" = - ] || [ -r "$token" ] || die "read $token"

    took=$(manager)
    line=$(packages | awk -v took="$took" -v package="$package" '$1 " " $2 == took && $3 == package')
    [ -n "$line" ] || die "find $package for ($took): the hub has $(packages | awk '{ printf "%s%s for (%s %s)", sep, $3, $1, $2; sep = ", " }')"
    file=$(echo "$line" | awk '{ print $4 }')
    sum=$(echo "$line" | awk '{ print $5 }')

    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    trap 'exit 1' HUP INT TERM
    fetch "$from/install/$file" "$work/$file"
    found=$(sha256sum "$work/$file" | cut -d' ' -f1)
    [ "$found" = "$sum" ] || die "trust $file: its SHA-256 is $found, and should be $sum; nothing was installed"
    if [ -n "$download" ]; then
        mkdir -p "$download"
        cp "$work/$file" "$download/$file"
        echo "$download/$file is what it should be"
        return
    fi
    [ "$(id -u)" -eq 0 ] || die "install $file: it takes root (sudo sh install.sh ...)"

    case "$took" in
    deb*) DEBIAN_FRONTEND=noninteractive dpkg --force-confdef --force-confold -i "$work/$file" ;;
    rpm*) rpm -U --replacepkgs --oldpackage "$work/$file" ;;
    esac
    [ -z "$config" ] || install -m 0644 "$config" /etc/tideline/agent.toml
    if [ -n "$token" ]; then
        if [ "$token" = - ]; then
            (umask 077 && cat >"$work/token")
            token=$work/token
        fi
        edge-agent enroll --config /etc/tideline/agent.toml --token-file "$token" --shred
    fi
    # A configuration need not name the box: enrolment did.
    [ -z "$config" ] || edge-agent check-config --config /etc/tideline/agent.toml ||
        die "use $config: mend /etc/tideline/agent.toml and restart the agent; it is installed"
    if [ -d /run/systemd/system ]; then
        systemctl restart tideline-edge.service
        echo "the agent runs; 'edge-agent doctor --config /etc/tideline/agent.toml' says how it is"
    else
        echo "the agent is installed; there is no systemd here that would start it"
    fi
}

# The last line: a script that came only in part does nothing.
main "$@"
