#!/bin/bash
# Runs inside a scene, as root, under systemd, with both packages in /srv/given: from packages to the first restored files, and what a
# service has to withstand. Each step says what holds; the first that does not ends it.
set -euo pipefail
step() { began=${began:-$SECONDS}; printf 'ok  %3s s  %s\n' "$SECONDS" "$*"; }
fail() {
    printf 'FAILED: %s\n' "$*" >&2
    journalctl --no-pager -q -n 40 -u 'restic-manager*' >&2
    exit 1
}
# eventually SECONDS COMMAND...
eventually() {
    local end=$((SECONDS + $1)); shift
    until "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt $end ] || fail "still not: $*"
        sleep 0.2
    done
}
is() { [ "$(systemctl show -P "$2" "$1")" = "$3" ] || fail "$1: $2 is $(systemctl show -P "$2" "$1"), not $3"; }
says() { systemctl show -P StatusText "$1" | grep -q -- "$2"; }
url=http://127.0.0.1:8080
api() { local path=$1; shift; curl -sS --fail-with-body -m 100 -H "Authorization: Bearer $(cat /var/lib/restic-manager/admin-token)" -H 'Content-Type: application/json' "$url$path" "$@"; }
# A job to its end; its view.
job() { api "/v1/hosts/web-1/jobs?wait=90" -d "$1"; }
online() { api /v1/hosts/web-1 | jq -e '.online and .schedule.applied == .schedule.wanted'; }
server=restic-manager.service agent=restic-manager-agent.service root=restic-manager-agent-root.service
export DEBIAN_FRONTEND=noninteractive
as_agent() { setpriv --reuid restic-manager-agent --regid restic-manager-agent --init-groups "$@"; }

dpkg -i /srv/given/restic-manager_*.deb /srv/given/restic-manager-agent_*.deb >/srv/dpkg.log 2>&1 || { cat /srv/dpkg.log >&2; fail "the packages do not install"; }
is $server ActiveState active
is $server User restic-manager
is $agent ActiveState inactive
says $server 'http://127.0.0.1:8080, 0 hosts' || fail "no status line"
step "the packages install; the server is ready, the agent waits for its enrollment"

# A fleet: its password is a file of root's, handed on by systemd; a hook that tells its environment.
mkdir -p /srv/data/secret /srv/repository /home/alice
echo 'of root alone' >/srv/data/secret/file
chmod 0600 /srv/data/secret/file; chmod 0700 /srv/data/secret
echo 'of a user' >/home/alice/letter; chmod 0600 /home/alice/letter; chown -R 1234:1234 /home/alice
setcap cap_net_raw+ep /srv/data/secret/file 2>/dev/null || true
cp /bin/true /srv/data/setuid; chmod 4755 /srv/data/setuid
mknod /srv/data/secret/device c 1 3
(umask 077; head -c 32 /dev/urandom | base64 >/etc/restic-manager/credentials/web-1)
cat >/etc/restic-manager/config/repositories/local.toml <<'END'
url = "/srv/repository"
password = { file = "/run/credentials/restic-manager.service/secrets_{host}" }
END
cat >/etc/restic-manager/config/hosts/web-1.toml <<'END'
repository = "local"
[[schedule]]
id = "data"
kind = "backup"
cron = "0 2 * * *"
timezone = "UTC"
paths = ["/srv/data", "/home/alice"]
pre_hook = "tell"
END
systemctl restart $server
eventually 10 says $server '1 host; the configuration runs'
[ "$(stat -c %U:%a /etc/restic-manager/credentials)" = root:700 ] || fail "the credentials' directory"
step "a secret that only root can read reaches the server as a credential"

token=$(api /v1/enrollment-tokens -d '{"host": "web-1", "ttl": "10m"}' | jq -r .token)
RESTIC_MANAGER_ENROLLMENT_TOKEN=$token restic-manager-agent enroll --server $url --host web-1 >/srv/enroll.log || fail "$(cat /srv/enroll.log)"
grep -q 'systemctl restart restic-manager-agent' /srv/enroll.log || fail "enroll does not say how to start it"
[ "$(stat -c %U:%a /var/lib/restic-manager-agent/identity.json)" = restic-manager-agent:600 ] || fail "the identity is not the agent's"
[ "$(stat -c %U:%G:%a /etc/restic-manager-agent/agent.toml)" = root:restic-manager-agent:640 ] || fail "agent.toml is not root's"
as_agent sh -c 'cat /etc/restic-manager-agent/agent.toml >/dev/null' || fail "the agent cannot read agent.toml"
for attempt in 'echo >>/etc/restic-manager-agent/agent.toml' 'rm -f /etc/restic-manager-agent/agent.toml' 'mv /etc/restic-manager-agent /tmp/x' 'touch /etc/restic-manager-agent/hooks.d/x'; do
    ! as_agent sh -c "$attempt" 2>/dev/null || fail "the agent's user can: $attempt"
done
printf '#!/bin/sh\nenv | sort\n' >/etc/restic-manager-agent/hooks.d/tell
chmod 0755 /etc/restic-manager-agent/hooks.d/tell
sed -i 's|^restore_roots = .*|restore_roots = ["/var/lib/restic-manager-agent/restore", "/srv/data", "/home"]|' /etc/restic-manager-agent/agent.toml
# A repository on this machine is written by the agent: the one place more that it gets.
chown restic-manager-agent: /srv/repository
mkdir -p /etc/systemd/system/$agent.d
printf '[Service]\nReadWritePaths=/srv/repository\n' >/etc/systemd/system/$agent.d/local.conf
systemctl daemon-reload
systemctl start $agent
eventually 30 online
eventually 10 says $agent 'in contact'
is $agent User restic-manager-agent
pid=$(systemctl show -P MainPID $agent)
grep -q '^CapEff:[[:space:]]*0000000000000004$' /proc/"$pid"/status || fail "the agent has other rights: $(grep Cap /proc/"$pid"/status)"
step "root enrolls the host; the agent, who is not root and can read all, cannot change its policy"

job '{"kind": "init"}' | jq -e '.status == "succeeded"' >/dev/null || fail "init"
done_job=$(job '{"schedule_id": "data"}')
jq -e '.status == "succeeded" and (.incomplete | not)' <<<"$done_job" >/dev/null || fail "backup: $done_job"
export RESTIC_PASSWORD_FILE=/etc/restic-manager/credentials/web-1 RESTIC_REPOSITORY=/srv/repository
[ "$(restic -q dump latest /srv/data/secret/file)" = 'of root alone' ] || fail "the file of root's is not in the snapshot"
log=$(api "/v1/jobs/$(jq -r .id <<<"$done_job")/log" -H 'Accept: text/plain')
grep -q RM_JOB_ID <<<"$log" || fail "the hook did not run: $log"
! grep -qE 'NOTIFY_SOCKET|WATCHDOG' <<<"$log" || fail "the hook may speak for the agent: $log"
step "it backs up what only root may read; hooks and restic cannot speak to systemd for it"

snapshot=$(api /v1/hosts/web-1/snapshots | jq -r '.snapshots[0].id')
restored=$(api '/v1/hosts/web-1/restore?wait=90' -d "{\"snapshot\": \"$snapshot\", \"target\": \"/var/lib/restic-manager-agent/restore/one\", \"include\": [\"/home/alice/letter\"]}")
jq -e '.status == "succeeded"' <<<"$restored" >/dev/null || fail "restore: $restored"
[ "$(cat /var/lib/restic-manager-agent/restore/one/home/alice/letter)" = 'of a user' ] || fail "another letter"
# Programs that are setuid are restored too; device files are not its to make.
restored=$(api '/v1/hosts/web-1/restore?wait=90' -d "{\"snapshot\": \"$snapshot\", \"target\": \"/var/lib/restic-manager-agent/restore/two\", \"include\": [\"/srv/data/setuid\"]}")
jq -e '.status == "succeeded"' <<<"$restored" >/dev/null || fail "restore of a setuid program: $restored"
[ "$(stat -c %a /var/lib/restic-manager-agent/restore/two/srv/data/setuid)" = 4755 ] || fail "it is not setuid"
step "it restores into its own directory"

rm -r /srv/data/secret /home/alice
in_place() { api '/v1/hosts/web-1/restore?wait=90' -d "{\"snapshot\": \"$snapshot\", \"in_place\": true, \"confirm\": \"web-1\", \"include\": [\"/srv/data\", \"/home/alice\"]}"; }
restored=$(in_place) || true
jq -e '.status == "failed"' <<<"$restored" >/dev/null || fail "the everyday agent restored in place: $restored"
systemctl start $root
is $agent ActiveState inactive
is $root ActiveState active
eventually 30 online
restored=$(in_place)
jq -e '.status == "succeeded"' <<<"$restored" >/dev/null || fail "restore in place: $restored"
[ "$(stat -c %U:%a /srv/data/secret /srv/data/secret/file | xargs)" = 'root:700 root:600' ] || fail "owners and modes: $(stat -c %U:%a /srv/data/secret /srv/data/secret/file)"
[ "$(stat -c %u:%g:%a:%F /home/alice/letter)" = '1234:1234:600:regular file' ] || fail "the user's letter"
[ "$(stat -c %F:%t:%T /srv/data/secret/device)" = 'character special file:1:3' ] || fail "the device"
[ "$(stat -c %a /srv/data/setuid)" = 4755 ] || fail "setuid"
step "the agent for restores takes its place and puts files back with owners, modes and devices"
pid=$(systemctl show -P MainPID $root)
kill -KILL "$pid"
eventually 20 systemctl is-active $agent
eventually 30 online
step "whatever ends it, the everyday agent is back"
systemctl start $root
eventually 30 online
foreign=$(find /var/lib/restic-manager-agent ! -user restic-manager-agent ! -path '*/restore/*')
[ -z "$foreign" ] || fail "not the agent's own: $foreign"
systemctl start $agent
is $root ActiveState inactive
eventually 30 online
job '{"schedule_id": "data"}' | jq -e '.status == "succeeded"' >/dev/null || fail "a backup afterwards"
step "the everyday agent goes on with the same files"

# What does not compress, through a slow line.
head -c 150000000 /dev/urandom >/srv/data/noise
sed -i '1i limit_upload_kib = 8192' /etc/restic-manager/config/repositories/local.toml
eventually 20 online
sleep 1
# Once within the moment in which restic does not know yet of the lock that it wrote, once in the middle.
for moment in 'ls /srv/repository/locks/*' 'ls /srv/repository/locks/* && sleep 3'; do
    id=$(api /v1/hosts/web-1/jobs -d '{"schedule_id": "data"}' | jq -r .id)
    eventually 30 sh -c "$moment"
    before=$SECONDS
    systemctl stop $agent
    took=$((SECONDS - before))
    [ -z "$(ls /srv/repository/locks)" ] || fail "a lock is left: $(ls /srv/repository/locks)"
    is $agent Result success
    systemctl start $agent
    eventually 30 online
    eventually 10 sh -c "curl -s -H 'Authorization: Bearer $(cat /var/lib/restic-manager/admin-token)' $url/v1/jobs/$id | jq -e '.status == \"cancelled\"'"
    step "stopped within a backup, it waits for restic, $took s, and leaves no lock"
done

rm /srv/data/noise
before=$SECONDS
systemctl restart $server
took=$((SECONDS - before))
[ $took -le 5 ] || fail "a restart of the server with a parked poll took $took s"
eventually 30 online
step "the server restarts under a parked poll in $took s"

echo 'cron = "x"' >>/etc/restic-manager/config/hosts/web-1.toml
systemctl reload $server
is $server ActiveState active
says $server 'an error in the files' || fail "the status line: $(systemctl show -P StatusText $server)"
sed -i '$d' /etc/restic-manager/config/hosts/web-1.toml
systemctl reload $server
says $server 'the configuration runs' || fail "the status line: $(systemctl show -P StatusText $server)"
step "a reload ends when it has been done, and the status line tells what became of it"

mkdir -p /run/systemd/system/$server.d
printf '[Service]\nWatchdogSec=2s\n' >/run/systemd/system/$server.d/soon.conf
systemctl daemon-reload
systemctl restart $server
pid=$(systemctl show -P MainPID $server)
sleep 4
is $server MainPID "$pid"
kill -STOP "$pid"
eventually 20 sh -c "[ \$(systemctl show -P NRestarts $server) = 1 ] && systemctl is-active $server"
[ "$(systemctl show -P MainPID $server)" != "$pid" ] || fail "it is the same process"
eventually 30 online
step "a server that hangs is restarted, one that turns is not"
[ -z "$(coredumpctl list --no-pager -q 2>/dev/null || true)" ] && ! ls /var/lib/restic-manager/core* /core* >/dev/null 2>&1 || fail "a core was left"

systemctl start $root
quietly() { "$@" >/srv/dpkg.log 2>&1 || { cat /srv/dpkg.log >&2; fail "$*"; }; }
pid=$(systemctl show -P MainPID $root)
old=$(systemctl show -P MainPID $server)
quietly dpkg -i /srv/given/restic-manager-agent_*.deb /srv/given/restic-manager_*.deb
is $root MainPID "$pid"
is $agent ActiveState inactive
is $server ActiveState active
[ "$(systemctl show -P MainPID $server)" != "$old" ] || fail "an upgrade leaves the old server running"
systemctl start $agent
pid=$(systemctl show -P MainPID $agent)
quietly dpkg -i /srv/given/restic-manager-agent_*.deb
[ "$(systemctl show -P MainPID $agent)" != "$pid" ] || fail "an upgrade leaves the old agent running"
quietly dpkg --remove restic-manager restic-manager-agent
is $server ActiveState inactive
quietly dpkg -i /srv/given/restic-manager-agent_*.deb /srv/given/restic-manager_*.deb
eventually 30 online
step "upgrades restart what runs, and not a restore in place; removed and installed again, all goes on"

dpkg --purge restic-manager restic-manager-agent >/srv/dpkg.log 2>&1 || { cat /srv/dpkg.log >&2; fail "purge"; }
[ ! -e /etc/restic-manager ] && [ ! -e /var/lib/restic-manager-agent ] && ! getent passwd restic-manager >/dev/null || fail "something is left"
! systemctl list-unit-files --no-legend | grep restic-manager || fail "a unit is left"
step "purged while both run, nothing is left"

if [ -e /srv/given/install.sh ]; then
    /srv/given/install.sh --from /srv/given server agent >/srv/install.log || { cat /srv/install.log >&2; fail "install.sh"; }
    is $server ActiveState active
    is $server FragmentPath /etc/systemd/system/$server
    says $server 'http://127.0.0.1:8080, 0 hosts' || fail "no status line"
    is $agent ActiveState inactive
    /srv/given/install.sh --from /srv/given server agent >/srv/install.log
    grep -q 'nothing to do: restic-manager ' /srv/install.log || fail "the second time: $(cat /srv/install.log)"
    /srv/given/install.sh --uninstall --purge server agent >/srv/install.log
    ! systemctl list-unit-files --no-legend | grep restic-manager || fail "a unit is left"
    [ ! -e /etc/restic-manager ] && [ ! -e /var/lib/restic-manager ] || fail "something is left"
    step "install.sh does the same, twice, and is undone while the server runs"
fi
