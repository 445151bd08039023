#!/bin/bash
# Builds the Debian packages restic-manager and restic-manager-agent from built programs, with dpkg-deb alone: no compiler and no debhelper.
# usage: systemd/build-packages.sh [--from DIR] [--to DIR] [--version VERSION] [restic-manager|restic-manager-agent]...
#   --from     where the programs are (target/programs, as build-release.sh leaves them)
#   --to       where the packages go (target/packages)
#   --fast     large packages, soon: for tests
#   --version  Debian's version (the program's own and "-1")
# DEBFULLNAME and DEBEMAIL say whose packages they are. The same programs give the same packages, byte for byte: times are SOURCE_DATE_EPOCH, or those of the last commit.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
top=$(dirname "$here")
from=$top/target/programs to=$top/target/packages version=
names=() compression=(-Zxz)
while [ $# -gt 0 ]; do
    case $1 in
    --from) from=$2; shift 2 ;;
    --to) to=$2; shift 2 ;;
    --fast) compression=(-Zgzip -z1); shift ;;
    --version) version=$2; shift 2 ;;
    restic-manager | restic-manager-agent) names+=("$1"); shift ;;
    *) sed -n '2,/^set/{/^#/s/^# \?//p}' "${BASH_SOURCE[0]}" >&2; exit 2 ;;
    esac
done
[ ${#names[@]} -gt 0 ] || names=(restic-manager restic-manager-agent)
for tool in dpkg-deb dpkg strip objdump gzip; do
    command -v "$tool" >/dev/null || { echo "$tool is missing: apt-get install dpkg binutils gzip" >&2; exit 1; }
done
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git -C "$top" log -1 --format=%ct 2>/dev/null || date +%s)}
export SOURCE_DATE_EPOCH
maintainer="${DEBFULLNAME:-restic-manager authors} <${DEBEMAIL:-restic-manager@packages.invalid}>"
architecture=$(dpkg --print-architecture)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
umask 022
mkdir -p "$to"

# The newest glibc of which the program wants a symbol.
glibc() { objdump -T "$1" | grep -o 'GLIBC_[0-9.]*' | sed 's/GLIBC_//' | sort -Vu | tail -n 1; }

# Which files of etc root shares with the service, by mode and group; the last lines of postinst.
directories() {
    if [ "$1" = restic-manager ]; then
        echo "/etc/restic-manager 0755 root"
        echo "/etc/restic-manager/secrets 0750 restic-manager"
        echo "/etc/restic-manager/credentials 0700 root"
    else
        # agent.toml and hooks: the agent reads them and cannot replace them.
        echo "/etc/restic-manager-agent 0750 restic-manager-agent"
        echo "/etc/restic-manager-agent/hooks.d 0750 restic-manager-agent"
    fi
}

describe() {
    if [ "$1" = restic-manager ]; then
        cat <<'END'
Description: control plane for restic backups of many hosts (server)
 One server says what each host backs up, when and where to, from TOML files
 that are usually in git, and keeps what happened as append-only JSONL. Its
 agents only make outbound requests, and go on by themselves while it is away.
 .
 This package has the server and the operator's commands.
END
    else
        cat <<'END'
Description: control plane for restic backups of many hosts (agent)
 One server says what each host backs up, when and where to, from TOML files
 that are usually in git, and keeps what happened as append-only JSONL. Its
 agents only make outbound requests, and go on by themselves while it is away.
 .
 This package has the agent, which runs restic on a host. It is not root, and
 reads every file; a second service restores files in place.
END
    fi
}

# Completions and manual pages, of programs that can print them.
extras() {
    local name=$1 program=$2 root=$3 shell place page
    for shell in bash:bash-completion/completions/$name zsh:zsh/vendor-completions/_$name fish:fish/vendor_completions.d/$name.fish; do
        place=$root/usr/share/${shell#*:}
        if "$program" completions "${shell%%:*}" >"$work/completion" 2>/dev/null; then
            install -D -m 0644 "$work/completion" "$place"
        fi
    done
    mkdir -p "$work/man-$name"
    if "$program" man "$work/man-$name" >/dev/null 2>&1; then
        for page in "$work/man-$name"/*.[1-8]; do
            [ -e "$page" ] || continue
            install -D -m 0644 "$page" "$root/usr/share/man/man${page##*.}/$(basename "$page")"
            gzip -9n "$root/usr/share/man/man${page##*.}/$(basename "$page")"
        done
    fi
}

build() {
    local name=$1 program=$from/$1 root=$work/$1 own units depends
    [ -x "$program" ] || { echo "there is no program $program: systemd/build-release.sh, or --from DIR" >&2; exit 1; }
    own=$("$program" --version | cut -d ' ' -f 2)
    local debian=${version:-$own-1}
    install -D -m 0755 "$program" "$root/usr/bin/$name"
    strip --strip-unneeded --remove-section=.comment --remove-section=.note "$root/usr/bin/$name"
    units=("$name.service")
    depends="adduser, ca-certificates, init-system-helpers (>= 1.54), libc6 (>= $(glibc "$program"))"
    local recommends="" doc=$root/usr/share/doc/$name
    install -d "$root/DEBIAN" "$doc/examples"
    install -m 0644 "$here/README.md" "$doc/README.md"
    if [ "$name" = restic-manager ]; then
        recommends="git"
        install -d "$root/etc/restic-manager/config/"{groups,hosts,repositories} "$root/etc/restic-manager/secrets"
        install -d -m 0700 "$root/etc/restic-manager/credentials"
        install -m 0644 "$here/package/server.toml" "$root/etc/restic-manager/config/server.toml"
        echo /etc/restic-manager/config/server.toml >"$root/DEBIAN/conffiles"
        cp -r "$top/config" "$doc/examples/config"
    else
        depends="$depends, restic (>= 0.14)"
        recommends="openssh-client"
        units+=("$name-root.service")
        install -d "$root/etc/restic-manager-agent/hooks.d"
        install -m 0644 "$top/config/agent.toml" "$doc/examples/agent.toml"
    fi
    for unit in "${units[@]}"; do
        install -D -m 0644 "$here/$unit" "$root/lib/systemd/system/$unit"
    done
    extras "$name" "$program" "$root"
    {
        cat <<END
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: restic-manager

Files: *
Copyright: 2026 the restic-manager authors
License: MIT or Apache-2.0

License: MIT
END
        sed -n '/^MIT License$/,/^=====/p' "$top/LICENSE" | sed -e '1d;/^=====/d' | sed -e 's/^$/./;s/^/ /'
        cat <<'END'

License: Apache-2.0
 On Debian systems the full text is in /usr/share/common-licenses/Apache-2.0.
END
    } >"$doc/copyright"
    cat >"$work/changelog" <<END
$name ($debian) unstable; urgency=medium

  * Built from the programs' version $own.

 -- $maintainer  $(date -u -R -d "@$SOURCE_DATE_EPOCH")
END
    gzip -9nc "$work/changelog" >"$doc/changelog.Debian.gz"
    for script in postinst prerm postrm; do
        sed -e "s/@NAME@/$name/g" -e "s/@UNITS@/${units[*]}/" "$here/package/$script" >"$root/DEBIAN/$script"
        chmod 0755 "$root/DEBIAN/$script"
    done
    directories "$name" >"$work/directories"
    sed -i -e "/@DIRECTORIES@/{r $work/directories
d}" "$root/DEBIAN/postinst"
    (cd "$root" && find usr lib -type f -print0 | LC_ALL=C sort -z | xargs -0 md5sum) >"$root/DEBIAN/md5sums"
    {
        echo "Package: $name"
        echo "Version: $debian"
        echo "Section: admin"
        echo "Priority: optional"
        echo "Architecture: $architecture"
        echo "Maintainer: $maintainer"
        echo "Installed-Size: $(du -k -s --exclude=DEBIAN "$root" | cut -f 1)"
        echo "Depends: $depends"
        echo "Recommends: $recommends"
        describe "$name"
    } >"$root/DEBIAN/control"
    find "$root" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +
    dpkg-deb --root-owner-group "${compression[@]}" --build "$root" "$to/${name}_${debian}_$architecture.deb" >/dev/null
    echo "$to/${name}_${debian}_$architecture.deb"
}

for name in "${names[@]}"; do build "$name"; done
