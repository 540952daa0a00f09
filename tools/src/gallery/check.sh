# What a guest of the gallery does at its shell: it reads and writes its disk, asks the host's server, says its log.
echo "gallery: $(nproc) cpus"
echo "gallery: read $(dd if=/dev/xvda bs=64k count=64 2>/dev/null | sha256sum)"
dd if=/dev/urandom of=/tmp/a bs=64k count=32 2>/dev/null
dd if=/tmp/a of=/dev/xvda bs=64k seek=64 conv=fsync 2>/dev/null; echo 3 >/proc/sys/vm/drop_caches
[ "$(dd if=/dev/xvda bs=64k skip=64 count=32 2>/dev/null | sha256sum)" = "$(sha256sum </tmp/a)" ] &&
    echo "gallery: wrote $(sha256sum </tmp/a)"
if [ -n "$1" ]; then
    tries=0
    until ip addr show eth0 | grep -q 'inet ' || [ $tries -gt 300 ]; do usleep 100000; tries=$((tries + 1)); done
    echo "gallery: ping $(ping -c 3 "$1" | grep packets)"
    echo "gallery: fetched $(wget -q -O - "http://$1:$2/file" | sha256sum)"
fi
echo "gallery: log of $(dmesg | wc -l) lines"
dmesg
echo "gallery: done"
