#!/bin/bash
# Installs the server, the agent or both from built programs, as the Debian packages do, on any system with systemd. Running it again
# brings what is there up to date and keeps settings, state and choices made with systemctl.
# usage: systemd/install.sh [--from DIR] server|agent...
#        systemd/install.sh --uninstall [--purge] server|agent...
#   --from       where the programs are (target/programs, as build-release.sh leaves them)
#   --uninstall  takes programs and units away; settings, state and user stay
#   --purge      with --uninstall: those too. History, restored files and the host's enrollment are gone then
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
from=$(dirname "$here")/target/programs uninstall=no purge=no
parts=()
usage() { sed -n '2,/^set/{/^#/s/^# \?//p}' "${BASH_SOURCE[0]}" >&2; exit 2; }
while [ $# -gt 0 ]; do
    case $1 in
    --from) from=${2:?}; shift 2 ;;
    --uninstall) uninstall=yes; shift ;;
    --purge) purge=yes; shift ;;
    server) parts+=(restic-manager); shift ;;
    agent) parts+=(restic-manager-agent); shift ;;
    *) usage ;;
    esac
done
[ ${#parts[@]} -gt 0 ] || usage
[ "$purge" = no ] || [ "$uninstall" = yes ] || usage
[ "$(id -u)" -eq 0 ] || { echo "only root can install services: sudo $0 ..." >&2; exit 1; }

programs=/usr/local/bin units=/etc/systemd/system docs=/usr/local/share/doc
# In a chroot or an image that is being made, systemd does not run.
manager() { if [ -d /run/systemd/system ]; then systemctl "$@"; fi; }
units_of() { if [ "$1" = restic-manager ]; then echo "$1.service"; else echo "$1.service $1-root.service"; fi; }

# The directory, if it is missing, with its owner, group and mode in any case.
directory() {
    mkdir -p "$4"
    chown "$1:$2" "$4"
    chmod "$3" "$4"
}

# A file, if it differs. True: it was changed.
place() {
    local mode=$1 file=$2 to=$3
    if cmp -s "$file" "$to" && [ "$(stat -c %a "$to")" = "$mode" ]; then return 1; fi
    mkdir -p "$(dirname "$to")"
    # Renamed, since a program that runs cannot be written over.
    install -m "$mode" "$file" "$to.new"
    mv -f "$to.new" "$to"
}

install_one() {
    local name=$1 changed=no new=no unit work
    [ -x "$from/$name" ] || { echo "there is no program $from/$name: systemd/build-release.sh, or --from DIR" >&2; exit 1; }
    if [ -e "/lib/systemd/system/$name.service" ]; then
        echo "the package $name is installed: take that away first (apt-get remove $name), or update it instead" >&2
        exit 1
    fi
    [ -e "$units/$name.service" ] || new=yes
    if ! getent passwd "$name" >/dev/null; then
        useradd --system --user-group --no-create-home --home-dir "/var/lib/$name" --shell /usr/sbin/nologin "$name"
    fi
    directory "$name" "$name" 0700 "/var/lib/$name"
    if [ "$name" = restic-manager ]; then
        directory root root 0755 /etc/restic-manager
        directory root restic-manager 0750 /etc/restic-manager/secrets
        directory root root 0700 /etc/restic-manager/credentials
        if [ ! -e /etc/restic-manager/config ]; then
            mkdir -p /etc/restic-manager/config/{groups,hosts,repositories}
            install -m 0644 "$here/package/server.toml" /etc/restic-manager/config/server.toml
        fi
    else
        directory root restic-manager-agent 0750 /etc/restic-manager-agent
        directory root restic-manager-agent 0750 /etc/restic-manager-agent/hooks.d
    fi
    if place 755 "$from/$name" "$programs/$name"; then changed=yes; fi
    if place 644 "$here/README.md" "$docs/$name/README.md"; then :; fi
    work=$(mktemp)
    for unit in $(units_of "$name"); do
        sed -e "s|/usr/bin/restic-manager|$programs/restic-manager|" -e "s|/usr/share/doc|$docs|" "$here/$unit" >"$work"
        if place 644 "$work" "$units/$unit"; then changed=yes; fi
    done
    rm -f "$work"
    manager daemon-reload
    if [ $new = yes ]; then
        systemctl --quiet enable "$name.service"
        manager start "$name.service"
        echo "installed: $name"
    elif [ $changed = yes ]; then
        manager try-restart "$name.service"
        echo "updated: $name"
    else
        echo "nothing to do: $name is installed as it is here"
    fi
}

uninstall_one() {
    local name=$1 unit
    for unit in $(units_of "$name"); do
        [ -e "$units/$unit" ] || continue
        manager stop "$unit"
        systemctl --quiet disable "$unit"
        rm -f "${units:?}/$unit"
        [ $purge = no ] || rm -rf "${units:?}/$unit.d"
    done
    rm -f "$programs/$name"
    rm -rf "${docs:?}/$name"
    # Only if nothing else has come to be there.
    rmdir --ignore-fail-on-non-empty "$docs" 2>/dev/null || true
    manager daemon-reload
    manager reset-failed "$name*" 2>/dev/null || true
    if [ $purge = yes ]; then
        rm -rf "/var/lib/${name:?}" "/etc/${name:?}"
        if getent passwd "$name" >/dev/null; then userdel "$name"; fi
        echo "uninstalled: $name, with settings and state"
    else
        echo "uninstalled: $name; kept: /etc/$name, /var/lib/$name and the user (--purge removes them)"
    fi
}

# Who else runs restic here? It is told, and left alone.
others() {
    local found="" file
    for file in /etc/systemd/system/*.{service,timer} /lib/systemd/system/*.{service,timer} \
        /etc/crontab /etc/cron.d/* /etc/cron.{hourly,daily,weekly,monthly}/* /var/spool/cron/crontabs/* /var/spool/cron/*; do
        [ -f "$file" ] || continue
        case $(basename "$file") in restic-manager*) continue ;; esac
        # Where, and not what: such lines have passwords in them.
        found+=$(grep -nIE '(^|[^[:alnum:]])(restic|resticprofile|autorestic|borgmatic|rustic)([^[:alnum:]-]|$)' "$file" |
            grep -vE '^[0-9]+:[[:space:]]*[#;]' | sed -E "s|^([0-9]+):.*|  $file, line \\1|") || true
        [ -z "$found" ] || found+=$'\n'
    done
    if [ -n "$found" ]; then
        printf 'These already run backups on this host. They were not touched; take out what a schedule replaces:\n%s\n' "$(sed '/^$/d' <<<"$found")"
        if [ -d /run/systemd/system ]; then systemctl list-timers --all --no-pager 2>/dev/null | grep -iE 'restic|borgmatic' | grep -v restic-manager || true; fi
    fi
}

for name in "${parts[@]}"; do
    if [ $uninstall = yes ]; then uninstall_one "$name"; else install_one "$name"; fi
done
if [ $uninstall = no ]; then
    others
    for name in "${parts[@]}"; do
        if [ "$name" = restic-manager ]; then
            echo "the fleet is in /etc/restic-manager/config; the first admin token in /var/lib/restic-manager/admin-token"
        else
            echo "enroll this host: restic-manager-agent enroll --server URL --token TOKEN; then systemctl start restic-manager-agent"
        fi
    done
fi
