//! `memory_op`: reservations given back and taken, foreign and shared frames, wild lists.

use oxen_abi::errno::Errno;
use oxen_abi::hypercall::Hypercall;
use oxen_abi::memory as abi;

use crate::judge::{Probe, call};
use crate::raw::WILD;

const SELF: u64 = 0x7ff0;

fn memory(command: u32, argument: u64) -> i64 {
    call(Hypercall::MemoryOp, [command.into(), argument])
}

/// A `xen_memory_reservation`: list, number of extents, order and flags, domain.
fn reservation(probe: &Probe, list: u64, count: u64, order: u32, domain: u64) -> u64 {
    probe.words(&[list, count, order.into(), domain])
}

pub(crate) fn ask(probe: &mut Probe) {
    let domain = probe.words32(&[SELF as u32]);
    let pages = memory(abi::XENMEM_CURRENT_RESERVATION, domain);
    probe.holds("current_reservation", pages > 1000, pages);
    probe.holds("maximum_reservation is no less", memory(abi::XENMEM_MAXIMUM_RESERVATION, domain) >= pages, pages);
    probe.holds("maximum_ram_page", memory(abi::XENMEM_MAXIMUM_RAM_PAGE, 0) > 0x1000, 0);
    probe.refuses("current_reservation, wild", memory(abi::XENMEM_CURRENT_RESERVATION, WILD), Errno::Fault);
    probe.words32(&[0x1234]);
    probe.refuses("current_reservation of nobody", memory(abi::XENMEM_CURRENT_RESERVATION, domain), Errno::Srch);
    probe.refuses("an operation that is not there", memory(63, domain), Errno::NoSys);
    let place = probe.words(&[0; 3]);
    probe.works("machphys_mapping", memory(abi::XENMEM_MACHPHYS_MAPPING, place));
    probe.is("the table stands at slot 256", probe.word(0) as i64, 0xffff_8000_0000_0000_u64 as i64);
    let list = probe.words(&[1, 0, 0]);
    probe.words(&[1, list + 256, 0]);
    probe.works("machphys_mfn_list", memory(abi::XENMEM_MACHPHYS_MFN_LIST, list));
    probe.is("it has one frame", i64::from(probe.word32(4)), 1);
    balloon(probe);
    wrong_frames(probe);
    if probe.privileged {
        let map = probe.words(&[128, probe.address() + 4096]);
        probe.works("machine_memory_map", memory(abi::XENMEM_MACHINE_MEMORY_MAP, map));
        probe.holds("it has entries", (1..=128).contains(&probe.word32(0)), probe.word32(0).into());
    } else {
        let map = probe.words(&[128, probe.address() + 4096]);
        probe.refuses("machine_memory_map by a guest", memory(abi::XENMEM_MACHINE_MEMORY_MAP, map), Errno::Perm);
    }
}

/// A page goes out and another comes in.
fn balloon(probe: &mut Probe) {
    let Some(page) = probe.page() else { return };
    let frame = page.mfn().raw();
    let list = probe.address() + 2048;
    let entries = |probe: &Probe, value: u64| {
        let mut words = [0; 257];
        words[256] = value;
        probe.words(&words);
    };
    entries(probe, frame);
    let argument = reservation(probe, list, 1, 0, SELF);
    probe.is("a page that is mapped stays", memory(abi::XENMEM_DECREASE_RESERVATION, argument), 1);
    // Mapped or not, the frame has been given up by the domain's own word; a fresh one takes the page's place.
    let pfn = page.pfn().raw();
    entries(probe, pfn);
    let argument = reservation(probe, list, 1, 0, SELF);
    let got = memory(abi::XENMEM_POPULATE_PHYSMAP, argument);
    probe.holds("populate_physmap within the limit gives a frame or none", got == 0 || got == 1, got);
    // Nobody may use the page any more: what stands behind it is not what the allocator believes.
    page.leak();
}

/// Frames that nobody may give back, and lists that lead nowhere.
fn wrong_frames(probe: &mut Probe) {
    let list = probe.address() + 2048;
    for (what, frame) in [("frame 0", 0), ("the hypervisor's frame", 0x200), ("no frame", u64::MAX >> 12)] {
        let mut words = [0; 257];
        words[256] = frame;
        probe.words(&words);
        let argument = reservation(probe, list, 1, 0, SELF);
        probe.is(what, memory(abi::XENMEM_DECREASE_RESERVATION, argument), 0);
    }
    let argument = reservation(probe, WILD, 1, 0, SELF);
    probe.is("decrease from a wild list", memory(abi::XENMEM_DECREASE_RESERVATION, argument), 0);
    let argument = reservation(probe, WILD, u64::MAX, 0, SELF);
    probe.is("decrease with a huge count", memory(abi::XENMEM_DECREASE_RESERVATION, argument), 0);
    let argument = reservation(probe, list, 1, 60, SELF);
    let got = memory(abi::XENMEM_INCREASE_RESERVATION, argument);
    probe.holds("increase by an extent of order 60", got <= 0, got);
    let argument = reservation(probe, list, 1, 0, 0x1234);
    probe.is("increase for nobody", memory(abi::XENMEM_INCREASE_RESERVATION, argument), 0);
    probe.refuses("exchange from a wild address", memory(abi::XENMEM_EXCHANGE, WILD), Errno::Fault);
}
