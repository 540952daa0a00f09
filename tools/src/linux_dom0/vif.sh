#!/bin/sh
# Called by xl for each virtual network card: it puts the backend's interface on the bridge.
if [ "$1" = online ]; then
    ip link set "$vif" up && brctl addif "$(xenstore-read "$XENBUS_PATH/bridge")" "$vif" || exit 1
    xenstore-write "$XENBUS_PATH/hotplug-status" connected
fi
exit 0
