#!/bin/sh
# Installs packages so that none of their services starts, and none is enabled: sh without_services.sh ROOT COMMAND…
# ROOT is the folder of the system, empty but for tests. Needs root. What the machine's owner has set up stays as it is.
root=$1
shift
policy=$root/usr/sbin/policy-rc.d
mark='# Of redir: no service starts while packages for its tests are installed.'

# What lets services start at boot or at login.
enabled() {
    for link in "$root"/etc/systemd/system/*.wants/* "$root"/etc/systemd/user/*.wants/* "$root"/etc/rc[2-5].d/S*; do
        [ -L "$link" ] && printf '%s ' "$link"
    done
}

ours() {
    grep -qsxF "$mark" "$policy"
}

remove_ours() {
    if ours; then rm -f "$policy"; fi
}

# One that was killed has left it behind.
remove_ours
if [ -e "$policy" ]; then
    for service in docker containerd podman haproxy nginx ssh; do
        "$policy" "$service" start 2>/dev/null
        if [ $? -ne 101 ]; then
            echo "$policy lets $service start as soon as it is installed; install the packages by hand" >&2
            exit 1
        fi
    done
else
    # An interrupt ends the command, and this afterwards.
    trap : INT TERM HUP
    trap remove_ours EXIT
    printf '#!/bin/sh\n%s\nexit 101\n' "$mark" > "$policy" && chmod 755 "$policy" || exit 1
fi

before=" $(enabled)"
"$@"
status=$?
for link in $(enabled); do
    case "$before" in *" $link "*) continue ;; esac
    # The links of one service go together.
    [ -L "$link" ] || continue
    name=${link##*/}
    case "$link" in
    */systemd/system/*) systemctl --quiet disable "$name"; rm -f "$link" ;;
    */systemd/user/*) systemctl --quiet --global disable "$name"; rm -f "$link" ;;
    *) update-rc.d "${name#S??}" disable ;;
    esac
done
exit "$status"
