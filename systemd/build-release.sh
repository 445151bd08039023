#!/bin/bash
# Builds the programs as they are released: the server with the operator's commands, and the agent without either, small. The same
# sources, Rust and C compiler are to give the same bytes, whatever the directories are called (tests/tools/reproducible judges that).
# usage: systemd/build-release.sh [--to DIR] [restic-manager|restic-manager-agent]...
#   --to  where the programs go (target/programs); systemd/build-packages.sh --from DIR makes packages of them
# CARGO_TARGET_DIR counts; RUSTFLAGS and CFLAGS of the environment do not.
set -euo pipefail
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
to=$top/target/programs
names=()
while [ $# -gt 0 ]; do
    case $1 in
    --to) to=$2; shift 2 ;;
    restic-manager | restic-manager-agent) names+=("$1"); shift ;;
    *) sed -n '2,/^set/{/^#/s/^# \?//p}' "${BASH_SOURCE[0]}" >&2; exit 2 ;;
    esac
done
[ ${#names[@]} -gt 0 ] || names=(restic-manager restic-manager-agent)
target=${CARGO_TARGET_DIR:-$top/target}
cargo_home=${CARGO_HOME:-$HOME/.cargo}
cd "$top"
# Dependencies name their sources in messages of panics, and C code in assertions.
export CARGO_ENCODED_RUSTFLAGS="--remap-path-prefix=$cargo_home=/cargo"$'\x1f'"--remap-path-prefix=$top=/source"
export CFLAGS="-ffile-prefix-map=$cargo_home=/cargo -ffile-prefix-map=$target=/target"
export CARGO_INCREMENTAL=0 SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-0} LC_ALL=C
mkdir -p "$to"
for name in "${names[@]}"; do
    case $name in
    restic-manager) profile=release feature=server ;;
    restic-manager-agent) profile=release-agent feature=agent ;;
    esac
    cargo build --locked --profile "$profile" --no-default-features --features "$feature" --bin "$name"
    install -m 0755 "$target/$profile/$name" "$to/$name"
    printf '%s  %s bytes  %s\n' "$(sha256sum "$to/$name" | cut -d ' ' -f 1)" "$(stat -c %s "$to/$name")" "$to/$name"
done
