//! What the toolstack writes into the store about a guest, and takes away when it is gone.

use alloc::{format, string::String};

use super::build::Built;
use crate::config::{GuestConfig, uuid_text};
use crate::store::{
    DomId,
    access::{Permissions, Right},
    server::StoreHandle,
    wire::Error,
};

/// Nodes of a guest's home that the guest owns: it writes there what others look for.
const GUESTS_OWN: [&str; 11] = [
    "device/suspend/event-channel",
    "control/shutdown",
    "control/feature-poweroff",
    "control/feature-reboot",
    "control/feature-suspend",
    "control/sysrq",
    "data",
    "drivers",
    "feature",
    "attr",
    "error",
];

/// Writes a new guest's nodes.
///
/// # Errors
/// The store has no room for them.
pub fn publish(
    store: &StoreHandle,
    name: &str,
    config: &GuestConfig,
    uuid: &[u8; 16],
    built: &Built,
) -> Result<(), Error> {
    let domain = built.domain.0;
    let shown = Permissions::readable_by(0, domain);
    let home = format!("/local/domain/{domain}");
    let vm = format!("/vm/{}", uuid_text(uuid));
    let put = |path: String, value: &str| store.publish(&path, value, &shown);
    put(home.clone(), "")?;
    put(vm.clone(), "")?;
    for (name, value) in [("name", name), ("uuid", &uuid_text(uuid))] {
        put(format!("{vm}/{name}"), value)?;
    }
    for (name, value) in [("vm", vm.as_str()), ("name", name)] {
        put(format!("{home}/{name}"), value)?;
    }
    for (name, value) in [
        ("domid", u64::from(domain)),
        ("memory/static-max", config.maxmem << 10),
        ("memory/target", config.memory << 10),
    ] {
        put(format!("{home}/{name}"), &format!("{value}"))?;
    }
    for vcpu in 0..config.maxvcpus {
        let state = if vcpu < config.vcpus { "online" } else { "offline" };
        put(format!("{home}/cpu/{vcpu}/availability"), state)?;
    }
    for name in ["cpu", "memory", "device", "control", "store", "console", "device/vbd", "device/vif"] {
        put(format!("{home}/{name}"), "")?;
    }
    let own = Permissions::private(domain);
    for name in GUESTS_OWN {
        store.publish(&format!("{home}/{name}"), "", &own)?;
    }
    for feature in ["platform-feature-multiprocessor-suspend", "platform-feature-xs_reset_watches"] {
        put(format!("{home}/control/{feature}"), "1")?;
    }
    put(format!("{home}/store/port"), &format!("{}", built.store_port))?;
    put(format!("{home}/store/ring-ref"), &format!("{}", built.store.raw()))?;
    publish_console(store, built)
}

/// Gives a guest another name.
///
/// # Errors
/// The store has no room for it.
pub fn rename(store: &StoreHandle, domain: u16, uuid: &[u8; 16], name: &str) -> Result<(), Error> {
    store.write(&format!("/vm/{}/name", uuid_text(uuid)), name)?;
    store.write(&format!("/local/domain/{domain}/name"), name)
}

fn publish_console(store: &StoreHandle, built: &Built) -> Result<(), Error> {
    let domain = built.domain.0;
    let shown = Permissions::readable_by(0, domain);
    let front = format!("/local/domain/{domain}/console");
    let back = format!("/local/domain/0/backend/console/{domain}/0");
    let (port, ring) = (format!("{}", built.console_port), format!("{}", built.console.raw()));
    let frontend = [
        ("backend", back.as_str()),
        ("limit", "1048576"),
        ("type", "xenconsoled"),
        ("output", "pty"),
        ("port", &port),
        ("ring-ref", &ring),
    ];
    for (name, value) in frontend {
        store.publish(&format!("{front}/{name}"), value, &shown)?;
    }
    let own = Permissions { owner: domain, others: Right::NONE, list: [(0, Right::READ)].into() };
    store.publish(&format!("{front}/backend-id"), "0", &own)?;
    let id = format!("{domain}");
    for (name, value) in
        [("frontend", front.as_str()), ("frontend-id", &id), ("online", "1"), ("state", "1"), ("protocol", "vt100")]
    {
        store.publish(&format!("{back}/{name}"), value, &shown)?;
    }
    Ok(())
}

/// Takes a guest's nodes away.
pub fn withdraw(store: &StoreHandle, domain: DomId, uuid: &[u8; 16]) {
    let backends = store.list("/local/domain/0/backend").unwrap_or_default();
    for kind in backends {
        // What is not there needs no removal.
        let _ = store.remove(&format!("/local/domain/0/backend/{kind}/{domain}"));
    }
    for path in [format!("/local/domain/{domain}"), format!("/vm/{}", uuid_text(uuid))] {
        let _ = store.remove(&path);
    }
}

/// Writes dom0's own nodes.
///
/// # Errors
/// The store has no room for them.
pub fn publish_dom0(store: &StoreHandle) -> Result<(), Error> {
    for (path, value) in [
        ("/tool/xenstored", ""),
        ("/vm", ""),
        ("/local/domain/0/domid", "0"),
        ("/local/domain/0/name", "Domain-0"),
        ("/local/domain/0/backend", ""),
        ("/local/pool/0/name", "Pool-0"),
    ] {
        store.write(path, value)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_sees_its_own_nodes_and_keeps_what_it_may_write() {
        let store = StoreHandle::new();
        let config = crate::config::parse("name='g'\nkernel='k'\nmemory=8\nvcpus=2").unwrap();
        let built = Built {
            domain: oxen_abi::domid::DomId(5),
            store: oxen_domu_lib::memory::Mfn::new(1),
            store_port: 1,
            console: oxen_domu_lib::memory::Mfn::new(2),
            console_port: 2,
            used: 0,
        };
        publish(&store, "g", &config, &[7; 16], &built).unwrap();
        store.with(|s| {
            let path = |name: &str| crate::store::path::Path::resolve(name, 5).unwrap();
            assert_eq!(s.read(5, 0, &path("memory/target")).unwrap().value, b"8192");
            assert!(s.write(5, 0, &path("memory/target"), b"1").is_err());
            assert!(s.write(5, 0, &path("control/shutdown"), b"").is_ok());
            assert!(s.write(5, 0, &path("new"), b"").is_err());
            assert!(s.read(6, 0, &path("name")).is_err());
        });
        withdraw(&store, 5, &[7; 16]);
        assert!(store.read("/local/domain/5/name").is_err());
        assert_eq!(store.list("/vm").unwrap(), [""; 0]);
    }
}
