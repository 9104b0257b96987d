#!/usr/bin/env bash
# Builds crowddist's image with what there is; see --help.
set -euo pipefail

usage() {
    cat <<'END'
build.sh [cuda|cpu] [-- arguments for the builder]     builds crowddist:VERSION (cuda) or crowddist:VERSION-cpu

It takes Docker where its daemon answers, else Podman, else Buildah, and python:3.11-slim-bookworm as the base. Where no registry gives that one,
debootstrap makes a base of Debian's packages (as root; a minute, 0.1 GB; a point release, without later security updates).
cuda: 6.2 GB, some 6 minutes; Podman and Buildah need 35 GB for a while, and keep 18. cpu: 2.4 GB, see cluster/image/README.md.

  BUILDER=docker|podman|buildah    which one
  BASE_IMAGE=NAME                  another base: Debian's family, with Python 3.11 or 3.12 and venv
  STORE=FOLDER                     Podman's and Buildah's images lie in this folder, which goes with rm -rf; else where they always lie
  DEBIAN_MIRROR=ADDRESS            where debootstrap finds Debian
  CPU_WHEELS=FOLDER, CPU_INDEX=ADDRESS    cpu: where PyTorch's CPU builds are
  PIP_INDEX_URL, UV_DEFAULT_INDEX, SSL_CERT_FILE    hold during the build, too. Podman and Buildah also see this machine's /etc/pip.conf and /etc/uv
  BUILDAH_ISOLATION=chroot         for Podman and Buildah within a container
END
}

fail() { echo "build.sh: $*" >&2; exit 2; }

# Podman or Buildah, with its images in $STORE if that is set.
builder() { "$BUILDER" ${STORE:+--root "$STORE/images" --runroot "$STORE/run"} "$@"; }

choose_builder() {
    if [ -n "${BUILDER:-}" ]; then command -v "$BUILDER" > /dev/null || fail "$BUILDER is not installed"
    elif docker info > /dev/null 2>&1; then BUILDER=docker
    elif command -v podman > /dev/null; then BUILDER=podman
    elif command -v buildah > /dev/null; then BUILDER=buildah
    else fail "no builder. Install Docker, or on Debian: apt-get install --no-install-recommends buildah crun"
    fi
    [ "$BUILDER" != docker ] || [ -z "${STORE:-}" ] || fail "STORE is for Podman and Buildah; Docker's images lie with its daemon"
}

# Sets BASE_IMAGE: the one that was asked for, the registry's, one made before, or one made now.
choose_base() {
    if [ -n "${BASE_IMAGE:-}" ]; then return; fi
    BASE_IMAGE=python:3.11-slim-bookworm
    if builder inspect --type image "$BASE_IMAGE" > /dev/null 2>&1 || timeout 120 "$0" --pull "$BUILDER" "$BASE_IMAGE" > /dev/null 2>&1; then return; fi
    BASE_IMAGE=localhost/crowddist-base:bookworm
    echo "No registry gives python:3.11-slim-bookworm: $BASE_IMAGE, made of Debian's packages, takes its place"
    builder inspect --type image "$BASE_IMAGE" > /dev/null 2>&1 || make_base
}

make_base() {
    command -v debootstrap > /dev/null || fail "debootstrap is not installed: apt-get install --no-install-recommends debootstrap"
    [ "$(id -u)" = 0 ] || fail "debootstrap needs root. Run this as root, or give another BASE_IMAGE"
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates,tini bookworm "$work/root" ${DEBIAN_MIRROR:+"$DEBIAN_MIRROR"} \
        > "$work/log" || { tail -n 5 "$work/log" >&2; fail "debootstrap failed"; }
    tar -C "$work/root" --exclude='./var/cache/apt/*' --exclude='./var/lib/apt/lists/*' --exclude='./usr/share/doc/*' --exclude='./usr/share/man/*' \
        --exclude='./usr/share/locale/*' --exclude='./var/log/*' --exclude='./dev/*' -cf "$work/base.tar" .
    printf 'FROM scratch\nADD base.tar /\n' > "$work/Dockerfile"
    printf '*\n!base.tar\n' > "$work/.dockerignore"
    builder build -q -t "$BASE_IMAGE" "$work" > /dev/null
    rm -rf "$work"
    trap - EXIT
}

# What this machine knows of packages' places and certificates, for the build alone.
package_settings() {
    local variable place
    for variable in PIP_INDEX_URL UV_DEFAULT_INDEX SSL_CERT_FILE; do
        if [ -n "${!variable:-}" ]; then settings+=(--build-arg "$variable=${!variable}"); fi
    done
    if [ "$BUILDER" = docker ]; then return; fi
    for place in /etc/pip.conf /etc/uv "${SSL_CERT_FILE:-}"; do
        if [ -n "$place" ] && [ -e "$place" ]; then settings+=(-v "$(realpath "$place"):$place:ro"); fi
    done
}

for argument in "$@"; do
    case $argument in
        -h | --help) usage; exit ;;
        --) break ;;
    esac
done
# How choose_base calls itself, to give up on a registry that does not answer.
if [ "${1:-}" = --pull ]; then BUILDER=$2; builder pull -q "$3"; exit; fi
target=cuda
if [ $# -gt 0 ] && [ "$1" != -- ]; then target=$1; shift; fi
case $target in cuda | cpu) ;; *) fail "no target $target: cuda or cpu (--help)" ;; esac
if [ "${1:-}" = -- ]; then shift; elif [ $# -gt 0 ]; then fail "arguments for the builder come after --"; fi

root=$(cd "$(dirname "$0")/../.." && pwd)
version=$(sed -n 's/^version = "\(.*\)"/\1/p' "$root/pyproject.toml")
name=crowddist:$version
settings=()
choose_builder
if [ "$target" = cpu ]; then
    name+=-cpu
    [ -e "$root/cluster/image/torch-cpu.lock" ] || fail "cluster/image/torch-cpu.lock is not there: make lock-cpu (cluster/image/README.md)"
    if [ -n "${CPU_WHEELS:-}" ]; then settings+=(--build-context "cpu-wheels=$CPU_WHEELS"); fi
    if [ -n "${CPU_INDEX:-}" ]; then settings+=(--build-arg "CPU_INDEX=$CPU_INDEX"); fi
fi
choose_base
package_settings
if [ "$BUILDER" = buildah ]; then settings+=(--layers); fi
revision=$(git -C "$root" rev-parse HEAD 2> /dev/null || true)
if [ -n "$revision" ] && [ -n "$(git -C "$root" status --porcelain --untracked-files=no)" ]; then revision+=-changed; fi

echo "Building $name ($target) with $BUILDER on $BASE_IMAGE"
builder build --target "$target" -t "$name" --build-arg "BASE_IMAGE=$BASE_IMAGE" --build-arg "VERSION=$version" --build-arg "REVISION=$revision" \
    --build-arg "CREATED=$(date -u +%Y-%m-%dT%H:%M:%SZ)" ${settings[@]+"${settings[@]}"} "$@" "$root"
echo "Built $name in $SECONDS s"
