#!/bin/sh
# In the shared root under the guest's kernel, as process 1: what an init would mount, then the job, then power off.
# /out/beat is rewritten every second: by it the host sees that the guest lives, and how fast its clock runs.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=dumb LANG=C.UTF-8
mount -t tmpfs run /run
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t cgroup2 cgroup /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
hostname redir-guest
# A machine has them; Debian's kernels have them as modules.
modprobe -a tun veth
[ -e /dev/net/tun ] || { mkdir -p /dev/net && mknod /dev/net/tun c 10 200; }
ip link set lo up
uname -srvm >/out/kernel
(while :; do
    cut -d' ' -f1 /proc/uptime >/out/beat
    sleep 1
done) &
cd /
setsid sh /out/job.sh >>/out/log 2>&1 </dev/null
echo $? >/out/status
dmesg >/out/dmesg
sync
busybox poweroff -f
