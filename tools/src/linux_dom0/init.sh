#!/bin/busybox sh
# The first process of a Linux dom0 with Debian's Xen tools: it starts them, runs /run.sh, and powers the machine off.
export PATH=/bin:/usr/bin:/usr/lib/xen-4.17/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs dev /dev; mount -t tmpfs run /run
mkdir -p /dev/pts /run/xen /run/xenstored /run/lock /var/log/xen/console /var/lib/xen /var/lib/xenstored /tmp
mount -t devpts devpts /dev/pts
ln -s /run /var/run; ln -s /run/lock /var/lock
for module in $(cat /modules/order); do insmod /modules/$module || echo "dom0: no module $module"; done
mount -t xenfs xenfs /proc/xen
ip link set lo up

xenstored --pid-file /run/xenstored.pid || echo "dom0: no xenstored"
until xenstore-read / >/dev/null 2>&1; do usleep 50000; done
xen-init-dom0 >/dev/null || echo "dom0: xen-init-dom0 failed"
xenconsoled --pid-file=/run/xenconsoled.pid --log=guest --log-dir=/var/log/xen/console

# create CONFIG...: creates a guest, which stays when it has ended: what it said last would be lost with it.
create() {
    xl create -q "$@" 'on_poweroff="preserve"' 'on_crash="preserve"' || echo "dom0: no guest of $1"
}

# has_ended NAME: whether a guest has shut down, has crashed, or is gone. A list that fails says nothing of it.
has_ended() {
    local all
    all=$(xl list 2>/dev/null) || return 1
    case $(echo "$all" | awk -v name="$1" '$1 == name { print $5 }') in
    *[scd]* | '') true ;;
    *) false ;;
    esac
}

# show NAME: what a guest has said, its name before each line, as Oxen's own dom0 shows it.
show() {
    tr -d '\r' < /var/log/xen/console/guest-$1.log | sed "s/^/($1) /"
}

# follow NAME: shows what a guest says while it says it, for one that is to be created.
follow() {
    mkfifo /var/log/xen/console/guest-$1.log
    show $1 &
}

# finish NAME SECONDS: waits until a guest has ended and xenconsoled has its last words; buries it, shows what it said.
finish() {
    local tries=$(($2 * 10))
    until has_ended $1 || [ $tries = 0 ]; do usleep 100000; tries=$((tries - 1)); done
    [ $tries = 0 ] && echo "dom0: $1 did not end in $2 seconds"
    usleep 300000
    xl destroy $1
    # Whoever follows it has the rest when xenconsoled has let go of it.
    if [ -p /var/log/xen/console/guest-$1.log ]; then wait; else show $1; fi
}

# until_said NAME TEXT SECONDS: waits for a guest to say something.
until_said() {
    local tries=$(($3 * 5))
    until grep -q "$2" /var/log/xen/console/guest-$1.log 2>/dev/null; do
        tries=$((tries - 1))
        if [ $tries = 0 ]; then echo "dom0: $1 did not say '$2' in $3 seconds"; return 1; fi
        usleep 200000
    done
}

echo "dom0: ready"
. /run.sh
echo "dom0: done"
poweroff -f
