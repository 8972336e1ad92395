#!/bin/sh
# Becomes a node: `node.sh NAME VAR PROGRAMS ADDONS`, as the first process of new mount, PID, UTS and IPC namespaces in the node's
# network namespace. The node sees the machine's files, but /var and /run are its own, /proc and /sys tell of itself, and the
# programs are in /var/opt. When this process ends, the kernel ends all of it and drops every mount.
set -eu
name=$1 var=$2 programs=$3 addons=$4
hostname "$name"
mount --bind "$programs" "$var/opt/kubernetes"
# There is none before a cluster has first asked for an addon.
if [ -d "$addons" ]; then mount --bind "$addons" "$var/opt/addons"; fi
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/lock /run/cgroup /run/sysctl
mount --rbind /sys/fs/cgroup /run/cgroup
mount -t sysfs sysfs /sys
mount --move /run/cgroup /sys/fs/cgroup
rmdir /run/cgroup
mount --rbind "$var" /var
# The kubelet sets these of the kernel's settings, which belong to the whole machine: here it finds them set.
for setting in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 \
    kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000; do
    file=/run/sysctl/$(basename "${setting%=*}")
    echo "${setting#*=}" >"$file"
    mount --bind "$file" "/proc/sys/${setting%=*}"
done
# Whoever is in a user namespace (a pod with `hostUsers: false`) may mount a /proc only where one is seen without anything on it.
mkdir -p /run/proc
mount -t proc proc /run/proc
# Pods may ask for mounts that travel between them and the node.
mount --make-rshared /
exec /var/opt/kubernetes/bin/pause
