#!/bin/sh
# Called by xl for each virtual disk: it tells the backend which block device stands behind it.
file=$(xenstore-read "$XENBUS_PATH/params")
case $1 in
add)
    if [ ! -b "$file" ]; then
        [ "$(xenstore-read "$XENBUS_PATH/mode")" = r ] && only=-r
        device=$(losetup -f) && losetup $only "$device" "$file" || exit 1
        file=$device
        xenstore-write "$XENBUS_PATH/loop" "$device"
    fi
    xenstore-write "$XENBUS_PATH/physical-device" "$(stat -L -c '%t:%T' "$file")" \
        "$XENBUS_PATH/physical-device-path" "$file" "$XENBUS_PATH/hotplug-status" connected
    ;;
remove)
    device=$(xenstore-read "$XENBUS_PATH/loop" 2>/dev/null) && losetup -d "$device"
    ;;
esac
exit 0
