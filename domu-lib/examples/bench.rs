//! A guest that measures what the hypervisor's primitives cost, in ticks of the time stamp counter.
//!
//! Each line is `bench: NAME MEDIAN per=… first=… every=… take=…`, or `bench: NAME skipped` where the hypervisor
//! refuses the operation to this domain. Under QEMU's `-icount shift=0` a tick is an instruction. Works as dom0 and as
//! domU.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![forbid(unsafe_code)]

extern crate alloc;

#[cfg(target_os = "none")]
mod guest {
    use alloc::rc::Rc;
    use alloc::vec::Vec;

    use core::sync::atomic::Ordering;

    use oxen_abi::domid::DomId;
    use oxen_abi::mmu;
    use oxen_domu_lib::event::Port;
    use oxen_domu_lib::grant::{Access, Grant};
    use oxen_domu_lib::measure::UserCall;
    use oxen_domu_lib::memory::{AddressSpace, Page, Rights};
    use oxen_domu_lib::{control, measure, println};

    /// How often an operation is measured.
    const SAMPLES: usize = 101;

    /// Prints a row: the median, for each of `per` operations, and which of the marked intervals are the samples': from
    /// `first` on, `take` of every so many that a sample has.
    fn print(name: &str, per: usize, mut samples: Vec<u64>, [first, every, take]: [u64; 3]) {
        samples.sort_unstable();
        match samples.get(samples.len() / 2) {
            Some(median) if samples.len() == SAMPLES => {
                let median = median / per as u64;
                println!("bench: {name} {median} per={per} first={first} every={every} take={take}");
            }
            _ => println!("bench: {name} skipped"),
        }
    }

    /// Measures what `sample` gives, which holds `per` operations.
    fn report(name: &str, per: usize, mut sample: impl FnMut() -> Option<u64>) {
        let first = measure::intervals();
        let samples = (0..SAMPLES).filter_map(|_| sample()).collect();
        let every = (measure::intervals() - first) / SAMPLES as u64;
        print(name, per, samples, [first, every, every]);
    }

    /// The same for a pair of operations that undo each other, of an interval each.
    fn report_pair(names: [&str; 2], per: usize, mut sample: impl FnMut() -> Option<(u64, u64)>) {
        let first = measure::intervals();
        let samples: Vec<(u64, u64)> = (0..SAMPLES).filter_map(|_| sample()).collect();
        print(names[0], per, samples.iter().map(|pair| pair.0).collect(), [first, 2, 1]);
        print(names[1], per, samples.iter().map(|pair| pair.1).collect(), [first + 1, 2, 1]);
    }

    pub(super) fn run() {
        report("null_hypercall", 1, || Some(measure::null_hypercall()));
        report("multicall_null", measure::NULL_CALLS, || Some(measure::multicall_null()));
        mappings();
        tables();
        events();
        grants();
        traps();
        measure::CALLS.iter().for_each(|(name, call)| report(name, 1, call));
        measure::EMULATED.iter().for_each(|(name, instruction)| report(name, 1, instruction));
        measure::PLAIN.iter().for_each(|plain| report(plain.name, 1, || measure::plain_call(plain)));
        report("sched_yield", 1, || Some(measure::sched_yield()));
        report("balloon_page", 64, || measure::balloon(64));
        report("timer_to_blocked", 1, measure::timer_latency);
        report("timer_to_running", 1, measure::timer_while_running);
        println!("bench: done");
    }

    fn mappings() {
        let Ok(window) = measure::Window::new(256) else { return println!("bench: no memory") };
        report_pair(["update_va_map", "update_va_unmap"], 1, || window.update_va_mapping(mmu::UVMF_INVLPG));
        report_pair(["update_va_map_quiet", "update_va_unmap_quiet"], 1, || window.update_va_mapping(mmu::UVMF_NONE));
        report_pair(["update_va_map_flush", "update_va_unmap_flush"], 1, || {
            window.update_va_mapping(mmu::UVMF_TLB_FLUSH)
        });
        report_pair(["mmu_update_map", "mmu_update_unmap"], 256, || window.mmu_update(256));
        report_pair(["mmu_update_map_one", "mmu_update_unmap_one"], 1, || window.mmu_update(1));
        report_pair(["multicall_map", "multicall_unmap"], 256, || window.multicall());
        if measure::enable_writable_tables().is_ok() {
            report_pair(["pte_write_mov", "pte_write_xchg"], 1, || window.write_table());
        } else {
            println!("bench: pte_write_mov skipped\nbench: pte_write_xchg skipped");
        }
        report("page_fault", 1, || Some(measure::page_fault(&window)));
        if let Some(page) = Page::zeroed() {
            report("machphys_update", 1, || measure::machphys_update(&page));
        }
        if let (Some(to), Some(from)) = (Page::zeroed(), Page::zeroed()) {
            report("clear_page", 1, || measure::whole_page(&to, None));
            report("copy_page", 1, || measure::whole_page(&to, Some(&from)));
        }
    }

    fn tables() {
        match measure::Process::new(1, 512, false) {
            Ok(leaf) => report_pair(["pin_l1_entry", "unpin_l1_entry"], 512, || leaf.pin_unpin(1)),
            Err(errno) => println!("bench: pin_l1_entry skipped\nbench: unpin_l1_entry skipped ({errno})"),
        }
        match measure::Process::new(8, 64, true) {
            Ok(process) => report("pin_unpin_process", 1, || process.pin_unpin(4).map(|pair| pair.0 + pair.1)),
            Err(errno) => println!("bench: pin_unpin_process skipped ({errno})"),
        }
        match AddressSpace::new() {
            Ok(space) => {
                report("new_baseptr", 1, || measure::new_baseptr(space.root()));
                match measure::Descriptors::new() {
                    Ok(descriptors) => report("context_switch", 1, || {
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
                report("event_send_upcall", 1, || Some(measure::event_send(from.number(), to.number(), true)));
                to.mask();
                report("event_send_masked", 1, || Some(measure::event_send(from.number(), to.number(), false)));
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
        report_pair(["grant_map", "grant_unmap"], 32, || window.grant_map(&granted, us));
        report_pair(["grant_map_one", "grant_unmap_one"], 1, || window.grant_map(granted.get(..1)?, us));
        report("grant_copy_one", 1, || measure::grant_copy(granted.get(..1)?, targets.get(..1)?, us, 64));
        report("grant_copy_4096", 32, || measure::grant_copy(&granted, &targets, us, 4096));
        report("grant_copy_64", 32, || measure::grant_copy(&granted, &targets, us, 64));
    }

    fn traps() {
        const CODE: u64 = 0x40_0000;
        const USER_CALLS: [(&str, UserCall); 6] = [
            ("user_syscall", UserCall::Syscall),
            ("user_int80", UserCall::Interrupt),
            ("user_invalid_opcode", UserCall::InvalidOpcode),
            ("user_divide_error", UserCall::DivideError),
            ("user_page_fault", UserCall::PageFault),
            ("user_general_protection", UserCall::GeneralProtection),
        ];
        let code = Page::zeroed().map(Rc::new);
        if let (Some(code), Ok(mut space)) = (code, AddressSpace::new()) {
            let mapped = space.map(CODE, &code, Rights { write: false, execute: true });
            for (name, call) in USER_CALLS {
                for (byte, value) in code.bytes().iter().zip(measure::user_program(call)) {
                    byte.store(value, Ordering::Relaxed);
                }
                let calls = measure::USER_CALLS as usize;
                report(name, calls, || mapped.ok().and_then(|()| measure::user_call(call, &space, CODE)));
            }
        }
        measure::EXCEPTIONS.iter().for_each(|(name, exception)| report(name, 1, exception));
        report("rdmsr", 1, || Some(measure::read_msr()));
        if control::set_iopl(1).is_ok() {
            report("port_read", 1, || Some(measure::read_port()));
            report("port_read_word", 1, || Some(measure::port_word(false)));
            report("port_write_word", 1, || Some(measure::port_word(true)));
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
