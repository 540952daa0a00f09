//! Which rooms each crate has, and their order: who may name whom. `docs/architecture.md` draws it.

use crate::arrows::Crate;

/// The crates whose arrows are judged.
pub(crate) const CRATES: [Crate; 12] = [
    Crate {
        layers: &[
            &["atomic_flags", "config", "features", "hardware", "layout", "lock", "ports", "reply"],
            &["addr", "cpu_model", "heap"],
            &["console", "pci", "rights", "shootdown", "speculation", "trace"],
            &["firmware", "mem"],
            &["shared_info"],
            &["event", "grant", "sched"],
            &["domain"],
            &["machine", "per_cpu"],
            &["hypervisor"],
            &["caller"],
            &["cpu", "processor", "stubs"],
            &["channel"],
            &["granted"],
            &["lifecycle"],
            &["audit"],
            &["keys", "run"],
            &["hypercall", "trap"],
            &["boot"],
        ],
        is_strict: true,
        exports: &[("Hypervisor", "hypervisor")],
        program: &["x86/"],
        ..Crate::loose("hv/src/")
    },
    Crate {
        // `start` is the boot story in `main.rs`, to which the first instructions jump.
        layers: &[
            &[
                "start",
                "x86::port",
                "x86::msr",
                "x86::segments",
                "x86::symbols",
                "x86::memory::smap",
                "x86::device::patience",
            ],
            &["x86::percpu", "x86::device::serial"],
            &["x86::cpu"],
            &["x86::memory::tables", "x86::device::power"],
            &[
                "x86::memory::apart",
                "x86::memory::window",
                "x86::memory::space",
                "x86::memory::heap",
                "x86::memory::guest",
                "x86::device::apic",
            ],
            &["x86::device::clock", "x86::device::ioapic", "x86::entry::descriptors"],
            &["x86::processor"],
            &["x86::machine"],
            &["x86::device::interrupts", "x86::running"],
            &["x86::panic"],
            &["x86::watchdog"],
            &["x86::entry"],
            &["x86::smp"],
            &["x86::setup", "x86::entry::boot"],
        ],
        is_strict: true,
        macros: &[("log", "x86::device::serial")],
        exports: &[("log", "x86::device::serial")],
        root: &["x86"],
        ..Crate::loose("hv/src/x86/")
    },
    Crate {
        layers: &[
            &["calls", "pages", "packet", "handshake", "sync"],
            &["raw::local", "raw::machine", "raw::hypercall", "raw::shared"],
            &["raw::trap"],
            &["raw::memory"],
            &["raw::backtrace", "raw::control", "raw::refusal"],
            &["lives", "memory", "start_info"],
            &["grant", "event", "raw::suspend"],
            &["time"],
            &["console", "task"],
            &["at_end", "sched", "store", "suspend"],
            &["panic", "frontend"],
            &["ip"],
            &["raw::boot", "raw::measure"],
        ],
        is_strict: true,
        macros: &[("print", "console"), ("println", "console")],
        ..Crate::loose("domu-lib/src/")
    },
    Crate {
        layers: &[
            &["archive", "domain_info", "errno", "notes", "options", "purse", "suggest", "terminal"],
            &["guest_text", "mapped"],
            &["bridge", "store"],
            &["config"],
            &["saved"],
            &["device"],
            &["backend", "network", "uplink"],
            &["balloon"],
            &["toolstack"],
        ],
        is_strict: true,
        ..Crate::loose("dom0/src/")
    },
    Crate {
        layers: &[
            &["cpio", "dmesg", "elf", "exit", "faults", "figures", "patience", "process", "source", "workspace"],
            &["arrows", "citations", "crates", "dependencies", "hostile", "loc", "packages", "setup", "symbols"],
            &["build", "configs", "disk", "layers", "rootfs"],
            &["archive", "http", "new_guest", "programs", "reproducible", "rules"],
            &["grub", "stock"],
            &["debian", "emulator", "iso"],
            &["linux", "qemu", "run_args", "test", "xen"],
            &["bochs", "book", "guest", "linux_dom0"],
            &["check", "doctor", "session"],
            &["demo"],
            &["run"],
            &["bench", "fuzz", "gallery", "gdb", "image", "memory", "trace"],
            &["cli"],
        ],
        is_strict: true,
        ..Crate::loose("tools/src/")
    },
    Crate {
        layers: &[&["browser", "burn", "core", "journal", "lab", "qmp"], &["compiler"], &["scenarios"], &["runner"]],
        is_strict: true,
        ..Crate::loose("qemu-tests/src/")
    },
    Crate {
        layers: &[&["greed", "raw"], &["judge"], &["family", "fuzz"], &["hostile"]],
        is_strict: true,
        ..Crate::loose("qemu-tests/probe/src/")
    },
    Crate {
        layers: &[&["bytes"], &["boot", "devices", "guests", "hypercalls", "instructions", "saved", "store"]],
        is_strict: true,
        ..Crate::loose("fuzz/src/")
    },
    // What others stand on, without rooms: no circle all the same.
    Crate {
        exports: &[("Image", "image"), ("Kernel", "kernel"), ("Refusal", "refusal")],
        ..Crate::loose("image/src/")
    },
    Crate::loose("abi/src/"),
    Crate::loose("model/src/"),
    Crate::loose("ring/src/"),
];
