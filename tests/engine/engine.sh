#!/bin/bash
# A real Docker engine of the tests' own: started under DIR, with its own data root, socket and containerd, and stopped
# by process id. It needs root, and Debian's docker.io and busybox-static (.ci/run installs them).
#
#   engine.sh start DIR         prints the seconds it took; afterwards LONGSHORE_ENGINE=DIR makes the tests use it
#   engine.sh start DIR swarm   a Swarm of one node for LONGSHORE_SWARM=DIR, with bridge and overlay networks, and
#                               images of Debian's nginx and haproxy
#   engine.sh stop DIR          removes its containers, stops it, unmounts and deletes DIR
#
# In DIR: docker.sock, docker (a wrapper that talks to that socket), data/containers (Docker's own folder of logs).
set -euo pipefail

command=${1:?usage: engine.sh start|stop DIR [swarm]}
dir=${2:?usage: engine.sh start|stop DIR [swarm]}
kind=${3:-plain}
# Debian's own client and daemon: a newer or older client elsewhere in PATH may not speak this engine's API.
client=/usr/bin/docker
daemon=/usr/sbin/dockerd

# dockerd and its containerd die with the engine; a leftover of an aborted run is found by its pid file only.
stop_pid() {
    local file=$1 pid
    [ -s "$file" ] || return 0
    pid=$(cat "$file")
    # The number may belong to another process by now: the command line says whether it is ours.
    if ! tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline" | grep -qF "$dir"; then return 0; fi
    kill -TERM "$pid" 2>/dev/null || return 0
    for _ in $(seq 100); do
        [ -d "/proc/$pid" ] || return 0
        sleep 0.1
    done
    echo "engine.sh: process $pid did not end within 10 s: killing it" >&2
    kill -KILL "$pid" 2>/dev/null || true
}

# An image of one of this machine's programs: it, the libraries that it names, and the files that follow.
import_program() {
    local program=$1 image=$2 file
    shift 2
    [ -x "$program" ] || { echo "engine.sh: no $program; .ci/run installs it" >&2; exit 1; }
    mkdir -p "$dir/root/etc" "$dir/root/tmp" && chmod 1777 "$dir/root/tmp"
    echo 'proxy:x:65532:65532::/:/sbin/nologin' >"$dir/root/etc/passwd"
    for file in "$program" "$@" $(ldd "$program" "$@" | grep -oE '/[^ :]+\.so[^ :]*' | sort -u); do
        mkdir -p "$dir/root$(dirname "$file")"
        cp -L "$file" "$dir/root$file"
    done
    tar -C "$dir/root" -c . | "$dir/docker" import - "$image" >/dev/null
    rm -rf "$dir/root"
}

start() {
    [ "$(id -u)" = 0 ] || { echo "engine.sh: a Docker engine needs root" >&2; exit 1; }
    [ -x "$daemon" ] && [ -x "$client" ] || { echo "engine.sh: no $daemon; install Debian's docker.io" >&2; exit 1; }
    [ -x /bin/busybox ] || { echo "engine.sh: no /bin/busybox; install Debian's busybox-static" >&2; exit 1; }
    local began
    began=$(date +%s.%N)
    rm -rf "$dir"
    mkdir -p "$dir"
    # vfs copies layers but works on any file system; the images are small.
    ulimit -n 65536 2>/dev/null || true
    local options=(
        --data-root "$dir/data" --exec-root "$dir/exec" --pidfile "$dir/dockerd.pid"
        -H "unix://$dir/docker.sock" --storage-driver "${LONGSHORE_STORAGE:-vfs}" --log-level warn
    )
    if [ "$kind" = swarm ]; then
        # A network namespace of its own: bridges, iptables rules and Swarm's ports end with it, and two engines on one
        # machine never meet.
        # shellcheck disable=SC2016
        unshare --net sh -c '/bin/busybox ip link set lo up && exec "$@"' sh \
            "$daemon" "${options[@]}" --bip 10.213.7.1/24 >"$dir/dockerd.log" 2>&1 </dev/null &
    else
        # iptables and a bridge are not needed: the fluentd driver speaks from the engine's own process.
        "$daemon" "${options[@]}" --bridge none --iptables=false --ip6tables=false >"$dir/dockerd.log" 2>&1 </dev/null &
    fi
    local pid=$!
    printf '#!/bin/sh\nexec %s -H unix://%s/docker.sock "$@"\n' "$client" "$dir" >"$dir/docker"
    chmod 755 "$dir/docker"
    for _ in $(seq 600); do
        if ! [ -d "/proc/$pid" ]; then
            echo "engine.sh: dockerd ended at once:" >&2
            tail -n 20 "$dir/dockerd.log" >&2
            exit 1
        fi
        if "$dir/docker" version >/dev/null 2>&1; then break; fi
        sleep 0.1
    done
    "$dir/docker" version >/dev/null || { tail -n 20 "$dir/dockerd.log" >&2; exit 1; }
    mkdir -p "$dir/root/bin"
    cp /bin/busybox "$dir/root/bin/busybox"
    local applet
    for applet in sh seq cat sleep echo printf awk tr head true yes; do ln -s busybox "$dir/root/bin/$applet"; done
    tar -C "$dir/root" -c . | "$dir/docker" import - longshore-test:1 >/dev/null
    rm -rf "$dir/root"
    if [ "$kind" = swarm ]; then
        import_program /usr/sbin/nginx longshore-nginx:1 /usr/lib/nginx/modules/ngx_stream_module.so
        import_program /usr/sbin/haproxy longshore-haproxy:1
        "$dir/docker" swarm init --advertise-addr 127.0.0.1 >/dev/null
    fi
    echo "engine started in $(date +%s.%N | awk -v began="$began" '{printf "%.1f", $1 - began}') s"
}

stop() {
    [ -d "$dir" ] || return 0
    if [ -S "$dir/docker.sock" ] && [ -x "$dir/docker" ]; then
        local ids
        ids=$(timeout 10 "$dir/docker" ps -aq 2>/dev/null || true)
        # shellcheck disable=SC2086
        [ -z "$ids" ] || timeout 60 "$dir/docker" rm -f $ids >/dev/null 2>&1 || true
    fi
    stop_pid "$dir/dockerd.pid"
    stop_pid "$dir/exec/containerd/containerd.pid"
    # What the engine left mounted (network namespaces, shm) must go before the folder can.
    awk -v dir="$dir/" 'index($2, dir) == 1 {print $2}' /proc/mounts | sort -r | while read -r mount; do
        umount -l "$mount" 2>/dev/null || true
    done
    rm -rf "$dir"
}

case $command in
start) start ;;
stop) stop ;;
*)
    echo "usage: engine.sh start|stop DIR" >&2
    exit 2
    ;;
esac
