# Sourced: this machine's own userland as another machine, on an overlay that is thrown away. Needs root, overlayfs and, to boot it,
# systemd-nspawn.

scene=
nspawn=
leader=

# Makes it. What is written there stays there.
scene_up() {
    scene=$(mktemp -d /var/tmp/restic-manager-scene.XXXXXX)
    mount -t tmpfs -o mode=0755 tmpfs "$scene"
    mkdir "$scene"/{upper,work,root}
    mount -t overlay overlay -o "lowerdir=/,upperdir=$scene/upper,workdir=$scene/work" "$scene/root"
    # Another machine has another id; and images may forbid to start services.
    : >"$scene/root/etc/machine-id"
    rm -f "$scene/root/usr/sbin/policy-rc.d"
    mkdir -p "$scene/root/srv/given"
}

scene_down() {
    if [ -n "$nspawn" ]; then
        in_scene systemctl poweroff --force --force >/dev/null 2>&1 || true
        for _ in $(seq 50); do
            kill -0 "$nspawn" 2>/dev/null || break
            sleep 0.1
        done
        kill -KILL "$nspawn" 2>/dev/null || true
        wait "$nspawn" 2>/dev/null || true
    fi
    if [ -n "$scene" ]; then
        umount -l "$scene/root" 2>/dev/null || true
        umount -l "$scene" 2>/dev/null || true
        rmdir "$scene" 2>/dev/null || true
    fi
    scene='' nspawn='' leader=''
}

# systemd as its first process, with a network of its own in which there is only loopback.
scene_boot() {
    setsid systemd-nspawn --quiet --register=no --keep-unit --private-network --console=pipe --directory "$scene/root" \
        --boot -- --unit=basic.target systemd.show_status=no >"$scene/console" 2>&1 </dev/null &
    nspawn=$!
    for _ in $(seq 240); do
        leader=$(pgrep -P "$nspawn" | head -n 1) || true
        if [ -n "$leader" ] && [ "$(in_scene systemctl is-active basic.target 2>/dev/null)" = active ]; then
            return
        fi
        sleep 0.25
    done
    cat "$scene/console" >&2
    echo "the scene did not boot" >&2
    return 1
}

in_scene() { nsenter -t "$leader" --mount --uts --ipc --net --pid --cgroup -- "$@"; }
