//! Translations that a CPU still knows: a page whose mapping was taken away without a flush, as a guest may,
//! becomes a page table. What a refused exchange of that page did in between must make no difference: no
//! plain store reaches the table.

use alloc::rc::Rc;

use oxen_abi::errno::Errno;
use oxen_abi::hypercall::Hypercall;
use oxen_abi::{memory as abi, mmu};
use oxen_domu_lib::memory::{AddressSpace, Mfn, Page, Rights, bits};
use oxen_domu_lib::refusal;

use crate::judge::{Probe, call};

const SELF: u64 = 0x7ff0;
/// Where the page is mapped besides the direct map.
const PLACE: u64 = 0x40_0000;
/// A place with tables of its own, and the address whose L1 the page becomes.
const FAR: u64 = 0x7f00_0000_0000;
const WINDOW: u64 = FAR + 0x20_0000;

/// An exchange of this frame for one whose address fits into a bit: there is none.
fn refused_exchange(probe: &Probe, frame: u64) -> i64 {
    let (list, out) = (probe.address() + 1024, probe.address() + 1032);
    let mut words = [0; 130];
    words[..9].copy_from_slice(&[list, 1, 0, SELF, out, 1, 1 << 32, SELF, 0]);
    words[128..].copy_from_slice(&[frame, 77]);
    call(Hypercall::MemoryOp, [abi::XENMEM_EXCHANGE.into(), probe.words(&words)])
}

pub(crate) fn ask(probe: &mut Probe) {
    for is_exchanged in [false, true] {
        let Some(page) = probe.page().map(Rc::new) else { return };
        let held = retype(probe, &page, is_exchanged);
        let left = AddressSpace::leave();
        probe.holds("the home address space is loaded again", left.is_ok(), 0);
        // The page stays what it became.
        core::mem::forget((page, held));
    }
}

/// Touches the page, unmaps it, has its exchange refused, makes it a table, and writes to it where it was.
fn retype(probe: &mut Probe, page: &Rc<Page>, is_exchanged: bool) -> Option<AddressSpace> {
    let frame = page.mfn().raw();
    let update = |probe: &Probe, at: u64, entry: u64| {
        let list = probe.words(&[at, entry]);
        call(Hypercall::MmuUpdate, [list, 1, 0, SELF])
    };
    let mut space = AddressSpace::new().ok()?;
    space.map(PLACE, page, Rights { write: true, execute: false }).ok()?;
    space.ensure(FAR).ok()?;
    space.activate().ok()?;
    let table = space.table(FAR, 2)?;
    let window = table.address() + ((WINDOW >> 21) & 511) * 8;
    let entry = space.ensure(PLACE).ok()?;
    let gone = call(Hypercall::UpdateVaMapping, [page.address(), 0, mmu::UVMF_INVLPG]);
    // Nothing is said before the end: another domain that runs to hear it would take the translation away.
    let touched = refusal::write(PLACE, 0);
    let unmapped = update(probe, entry, 0);
    let exchanged = if is_exchanged { refused_exchange(probe, frame) } else { 0 };
    let list = probe.words(&[mmu::MMUEXT_PIN_L1_TABLE.into(), frame, 0]);
    let pinned = call(Hypercall::MmuextOp, [list, 1, 0, SELF]);
    let linked = update(probe, window, Mfn::new(frame).entry(bits::TABLE));
    let written = refusal::write(PLACE, 0);
    probe.works("the page leaves the direct map", gone);
    probe.holds("it is written where it is mapped", touched.is_ok(), 0);
    probe.works("the mapping is taken away without a flush", unmapped);
    if is_exchanged {
        probe.refuses("an exchange for a frame that no machine has", exchanged, Errno::NoMem);
    }
    probe.works("the page becomes a table", pinned);
    probe.works("of this address space", linked);
    probe.holds("no store reaches it where the page was", written.is_err(), 0);
    probe.works("it is taken out", update(probe, window, 0));
    let list = probe.words(&[mmu::MMUEXT_UNPIN_TABLE.into(), frame, 0]);
    probe.works("and is no table any more", call(Hypercall::MmuextOp, [list, 1, 0, SELF]));
    Some(space)
}
