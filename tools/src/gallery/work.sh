# What a kernel of the gallery does in dom0's place: processes, pipes, sums; it says its log.
echo "gallery: $(nproc) cpus"
i=0; while [ $i -lt 40 ]; do busybox true; i=$((i + 1)); done; echo "gallery: $i processes"
dd if=/dev/urandom of=/tmp/a bs=64k count=32 2>/dev/null; gzip -c /tmp/a >/tmp/b
[ "$(gunzip -c /tmp/b | md5sum)" = "$(md5sum </tmp/a)" ] && echo "gallery: the sums agree"
sleep 1; echo "gallery: slept"
echo "gallery: log of $(dmesg | wc -l) lines"
dmesg
echo "gallery: done"
