//! A guest that measures what the hypervisor's primitives cost, in ticks of the time stamp counter.
//!
//! Each line is `bench: NAME MEDIAN`, or `bench: NAME skipped` where the hypervisor refuses the operation to this
//! domain. Under QEMU's `-icount shift=0` a tick is an instruction. Works as dom0 and as domU.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![forbid(unsafe_code)]

extern crate alloc;

#[cfg(target_os = "none")]
mod guest {
    use alloc::rc::Rc;
    use alloc::vec::Vec;

    use core::sync::atomic::Ordering;

    use oxen_abi::domid::DomId;
    use oxen_domu_lib::event::Port;
    use oxen_domu_lib::grant::{Access, Grant};
    use oxen_domu_lib::memory::{AddressSpace, Page, Rights};
    use oxen_domu_lib::{control, measure, println};

    /// How often an operation is measured.
    const SAMPLES: usize = 101;

    /// Prints the median of what `sample` gives.
    fn report(name: &str, mut sample: impl FnMut() -> Option<u64>) {
        let mut samples: Vec<u64> = (0..SAMPLES).filter_map(|_| sample()).collect();
        samples.sort_unstable();
        match samples.get(samples.len() / 2) {
            Some(median) if samples.len() == SAMPLES => println!("bench: {name} {median}"),
            _ => println!("bench: {name} skipped"),
        }
    }

    /// Prints the medians of a pair of operations that undo each other.
    fn report_pair(names: [&str; 2], mut sample: impl FnMut() -> Option<(u64, u64)>) {
        let samples: Vec<Option<(u64, u64)>> = (0..SAMPLES).map(|_| sample()).collect();
        let mut first = samples.iter();
        report(names[0], || first.next()?.map(|pair| pair.0));
        let mut second = samples.iter();
        report(names[1], || second.next()?.map(|pair| pair.1));
    }

    pub(super) fn run() {
        report("null_hypercall", || Some(measure::null_hypercall()));
        report("multicall_null", || Some(measure::multicall_null()));
        mappings();
        tables();
        events();
        grants();
        traps();
        report("sched_yield", || Some(measure::sched_yield()));
        report("balloon_page", || measure::balloon(64));
        report("timer_to_blocked", measure::timer_latency);
        println!("bench: done");
    }

    fn mappings() {
        let Ok(window) = measure::Window::new(256) else { return println!("bench: no memory") };
        report_pair(["update_va_map", "update_va_unmap"], || window.update_va_mapping());
        report_pair(["mmu_update_map", "mmu_update_unmap"], || window.mmu_update());
        if measure::enable_writable_tables().is_ok() {
            report_pair(["pte_write_mov", "pte_write_xchg"], || window.write_table());
        } else {
            println!("bench: pte_write_mov skipped\nbench: pte_write_xchg skipped");
        }
        report("page_fault", || Some(measure::page_fault(&window)));
    }

    fn tables() {
        let per_entry = |pair: (u64, u64)| (pair.0 / 512, pair.1 / 512);
        match measure::Process::new(1, 512, false) {
            Ok(leaf) => report_pair(["pin_l1_entry", "unpin_l1_entry"], || leaf.pin_unpin(1).map(per_entry)),
            Err(errno) => println!("bench: pin_l1_entry skipped\nbench: unpin_l1_entry skipped ({errno})"),
        }
        match measure::Process::new(8, 64, true) {
            Ok(process) => report("pin_unpin_process", || process.pin_unpin(4).map(|pair| pair.0 + pair.1)),
            Err(errno) => println!("bench: pin_unpin_process skipped ({errno})"),
        }
        match AddressSpace::new() {
            Ok(space) => {
                report("new_baseptr", || measure::new_baseptr(space.root()));
                match measure::Descriptors::new() {
                    Ok(descriptors) => report("context_switch", || {
                        measure::context_switch(&descriptors, space.root(), space.user_root())
                    }),
                    Err(errno) => println!("bench: context_switch skipped ({errno})"),
                }
            }
            Err(errno) => println!("bench: new_baseptr skipped\nbench: context_switch skipped ({errno})"),
        }
    }

    fn events() {
        let loopback = Port::alloc_unbound(DomId::SELF)
            .and_then(|to| Port::bind_interdomain(DomId::SELF, to.number()).map(|from| (from, to)));
        match loopback {
            Ok((from, to)) => {
                report("event_send_upcall", || Some(measure::event_send(from.number(), to.number(), true)));
                to.mask();
                report("event_send_masked", || Some(measure::event_send(from.number(), to.number(), false)));
            }
            Err(errno) => println!("bench: event_send_upcall skipped\nbench: event_send_masked skipped ({errno})"),
        }
    }

    fn grants() {
        // Grants to ourselves name our own number, which only dom0 knows for sure without asking the store.
        let us = if oxen_domu_lib::start_info::is_initial_domain() { DomId::DOM0 } else { DomId::SELF };
        let granted: Option<Vec<Grant>> = (0..32).map(|_| Grant::zeroed(us, Access::ReadWrite).ok()).collect();
        let targets: Option<Vec<Page>> = (0..32).map(|_| Page::zeroed()).collect();
        let (Some(granted), Some(targets), Ok(window)) = (granted, targets, measure::Window::new(32)) else {
            return println!("bench: no grants");
        };
        report_pair(["grant_map", "grant_unmap"], || window.grant_map(&granted, us));
        report("grant_copy_4096", || measure::grant_copy(&granted, &targets, us, 4096));
        report("grant_copy_64", || measure::grant_copy(&granted, &targets, us, 64));
    }

    fn traps() {
        const CODE: u64 = 0x40_0000;
        let code = Page::zeroed().map(Rc::new);
        if let (Some(code), Ok(mut space)) = (code, AddressSpace::new()) {
            for (byte, value) in code.bytes().iter().zip(measure::syscall_program()) {
                byte.store(value, Ordering::Relaxed);
            }
            let mapped = space.map(CODE, &code, Rights { write: false, execute: true });
            report("user_syscall", || mapped.ok().and_then(|()| measure::user_syscall(&space, CODE)));
        }
        report("int3", || Some(measure::breakpoint()));
        report("rdmsr", || Some(measure::read_msr()));
        if control::set_iopl(1).is_ok() {
            report("port_read", || Some(measure::read_port()));
        } else {
            println!("bench: port_read skipped");
        }
    }
}

#[cfg(target_os = "none")]
oxen_domu_lib::entry!(guest::run);

#[cfg(not(target_os = "none"))]
fn main() {
    oxen_domu_lib::println!("a guest: build it for x86_64-unknown-none and boot it in a domain");
}
