#!/bin/busybox sh
# The first process of a test's guest, in its initramfs: reaches the root that the host shares (virtiofs, read-only), lays a
# tmpfs over it, so that nothing that a test does is ever written to the host, and goes on there with guest.sh.
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
$b mount -t devtmpfs dev /dev
exec >/dev/console 2>&1 </dev/null
fail() {
    echo "redir: $*"
    $b poweroff -f
}
for module in $($b cat /modules/list); do
    $b insmod "/modules/$module" || echo "redir: cannot load $module"
done
$b mount -t virtiofs -o ro root /lower || fail "the shared root cannot be mounted"
$b mount -t virtiofs out /out || fail "the shared folder for results cannot be mounted"
$b mount -t virtiofs -o ro modules /kernel || fail "the shared modules cannot be mounted"
$b mount -t tmpfs -o size=75% upper /upper && $b mkdir /upper/files /upper/work
$b mount -t overlay -o lowerdir=/lower,upperdir=/upper/files,workdir=/upper/work root /root || fail "no overlay"
for folder in proc sys dev; do $b mount --move "/$folder" "/root/$folder"; done
$b mkdir -p /root/out /root/lib/modules
$b mount --move /out /root/out
$b mount --move /kernel /root/lib/modules
exec $b switch_root /root /bin/sh /out/guest.sh
