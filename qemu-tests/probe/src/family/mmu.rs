//! `mmu_update`, `mmuext_op`, `update_va_mapping`: tables made and unmade, entries that no table may hold, wild lists.

use core::sync::atomic::Ordering;

use oxen_abi::errno::Errno;
use oxen_abi::hypercall::Hypercall;
use oxen_abi::mmu as abi;
use oxen_domu_lib::memory::Page;

use crate::judge::{Probe, call};
use crate::raw::WILD;

const SELF: u64 = 0x7ff0;
const READ_ONLY: u64 = 1 | 1 << 5 | 1 << 6 | 1 << 63;
const WRITABLE: u64 = READ_ONLY | 2;
/// Beyond the physical addresses of any processor.
const NO_FRAME: u64 = 1 << 37;

fn map(page: &Page, entry: u64) -> i64 {
    call(Hypercall::UpdateVaMapping, [page.address(), entry, abi::UVMF_INVLPG])
}

/// Applies entries `(ptr, val)`; returns the result and how many were done.
fn update(probe: &Probe, entries: &[(u64, u64)]) -> (i64, u32) {
    let mut words = [0; 16];
    for (pair, (ptr, val)) in words.chunks_mut(2).zip(entries) {
        pair.copy_from_slice(&[*ptr, *val]);
    }
    let list = probe.words(&words);
    let result = call(Hypercall::MmuUpdate, [list, entries.len() as u64, list + 1024, SELF]);
    (result, probe.word32(256))
}

/// Applies one extended operation.
fn extended(probe: &Probe, command: u32, arg1: u64, arg2: u64) -> i64 {
    let list = probe.words(&[command.into(), arg1, arg2]);
    call(Hypercall::MmuextOp, [list, 1, 0, SELF])
}

pub(crate) fn ask(probe: &mut Probe) {
    let (Some(table), Some(data)) = (probe.page(), probe.page()) else { return };
    mappings(probe, &table, &data);
    let pinned = pins(probe, &table, &data);
    if pinned {
        entries(probe, &table, &data);
        probe.works("unpin", extended(probe, abi::MMUEXT_UNPIN_TABLE, table.mfn().raw(), 0));
        probe.refuses("unpin twice", extended(probe, abi::MMUEXT_UNPIN_TABLE, table.mfn().raw(), 0), Errno::Inval);
    }
    probe.works("the table's page is writable again", map(&table, table.mfn().address() | WRITABLE));
    low_memory(probe, &data);
    operations(probe, &table, &data);
    lists(probe);
}

fn mappings(probe: &mut Probe, table: &Page, data: &Page) {
    let frame = data.mfn().address();
    probe.works("a page is made read-only", map(data, frame | READ_ONLY));
    probe.works("and writable", map(data, frame | WRITABLE));
    let va = |address, entry| call(Hypercall::UpdateVaMapping, [address, entry, abi::UVMF_INVLPG]);
    for (what, address) in [
        ("a mapping at a non-canonical address", 0x1234_5678_9abc_d000),
        ("a mapping of the hypervisor's", 0xffff_8300_0000_0000),
        ("a mapping where no table is", WILD),
    ] {
        let got = va(address, frame | READ_ONLY);
        probe.holds(what, got < 0, got);
    }
    let got = va(data.address(), NO_FRAME << 12 | READ_ONLY);
    probe.holds("a mapping of no frame", got < 0, got);
    let got = va(data.address(), 0x200 << 12 | WRITABLE);
    probe.holds("a mapping of the hypervisor's frame", got < 0, got);
    let got = va(data.address(), frame | READ_ONLY | 1 << 51);
    probe.holds("an entry with a reserved bit", got < 0, got);
    probe.is("the old mapping stands", data.words64()[0].swap(7, Ordering::SeqCst) as i64, 0);
    let other = call(Hypercall::UpdateVaMappingOtherdomain, [data.address(), frame | READ_ONLY, 0, 0x1234]);
    let wanted = if probe.privileged { Errno::Srch } else { Errno::Perm };
    let got = if other == -3 { -i64::from(wanted as u16) } else { other };
    probe.refuses("a mapping of nobody's frame", got, wanted);
    probe.works("nothing is mapped", map(table, 0));
    probe.works("and mapped again", map(table, table.mfn().address() | WRITABLE));
}

/// The first MiB of a PC, RAM or not, is I/O memory: the control domain's to look at, and nobody else's.
fn low_memory(probe: &mut Probe, page: &Page) {
    // The firmware's vectors, the page that CPUs start at, plain RAM, what both share, the firmware itself.
    for frame in [0, 8, 0x80, 0x9f, 0xf0, 0xff] {
        for (flags, what) in [(READ_ONLY, "read-only"), (WRITABLE, "writable")] {
            let got = map(page, frame << 12 | flags);
            let what = alloc::format!("low frame {frame:#x} {what}");
            probe.holds(&what, if probe.privileged { got == 0 } else { got < 0 }, got);
        }
    }
    if probe.privileged {
        // What the firmware has where a processor starts, 16 bytes before the end of the MiB: a BIOS a far jump, UEFI's
        // the first byte of `mov eax, cr0`.
        let first = page.words64()[510].load(Ordering::SeqCst) & 0xff;
        probe.holds("the firmware can be read", matches!(first, 0xea | 0x0f), first as i64);
    }
    probe.works("the page has its own frame again", map(page, page.mfn().address() | WRITABLE));
}

/// Whether the table's page ends as a pinned L1 with one entry for the data page.
fn pins(probe: &mut Probe, table: &Page, data: &Page) -> bool {
    let frame = table.mfn().raw();
    let got = extended(probe, abi::MMUEXT_PIN_L1_TABLE, frame, 0);
    probe.holds("a page that is mapped writable does not become a table", got < 0, got);
    table.words64()[1].store(data.mfn().address() | READ_ONLY | 4, Ordering::SeqCst);
    table.words64()[2].store(NO_FRAME << 12 | READ_ONLY, Ordering::SeqCst);
    probe.works("it is made read-only", map(table, table.mfn().address() | READ_ONLY));
    let got = extended(probe, abi::MMUEXT_PIN_L1_TABLE, frame, 0);
    probe.holds("a table with an entry of no frame is refused", got < 0, got);
    let got = extended(probe, abi::MMUEXT_PIN_L2_TABLE, frame, 0);
    probe.holds("a table of plain pages is no L2", got < 0, got);
    let got = extended(probe, abi::MMUEXT_PIN_L4_TABLE, frame, 0);
    probe.holds("nor an L4", got < 0, got);
    probe.works("a refused table can be written again", map(table, table.mfn().address() | WRITABLE));
    table.words64()[2].store(0, Ordering::SeqCst);
    probe.works("and be made read-only", map(table, table.mfn().address() | READ_ONLY));
    let got = extended(probe, abi::MMUEXT_PIN_L1_TABLE, frame, 0);
    probe.works("pin an L1", got);
    if got == 0 {
        probe.refuses("pin twice", extended(probe, abi::MMUEXT_PIN_L1_TABLE, frame, 0), Errno::Inval);
        let got = extended(probe, abi::MMUEXT_PIN_L3_TABLE, frame, 0);
        probe.holds("pin as another level", got < 0, got);
        let got = map(table, table.mfn().address() | WRITABLE);
        probe.holds("a table is never writable", got < 0, got);
        let got = extended(probe, abi::MMUEXT_CLEAR_PAGE, frame, 0);
        probe.holds("a table is not cleared as a page", got < 0, got);
        let got = extended(probe, abi::MMUEXT_NEW_BASEPTR, frame, 0);
        probe.holds("an L1 is no root", got < 0, got);
    }
    got == 0
}

fn entries(probe: &mut Probe, table: &Page, data: &Page) {
    let (at, frame) = (table.mfn().address(), data.mfn().address());
    let works = |probe: &mut Probe, what: &str, entries: &[(u64, u64)]| {
        let (result, done) = update(probe, entries);
        probe.holds(what, result == 0 && done as usize == entries.len(), result);
    };
    let refused = |probe: &mut Probe, what: &str, entry: (u64, u64)| {
        let (result, done) = update(probe, &[(at + 8 * 20, 0), entry, (at + 8 * 21, 0)]);
        probe.holds(what, result < 0 && done == 1, result);
    };
    works(probe, "an entry", &[(at + 24, frame | WRITABLE)]);
    works(probe, "three entries", &[(at + 24, frame | READ_ONLY), (at + 32, frame | WRITABLE), (at + 24, 0)]);
    works(probe, "preserving accessed and dirty", &[((at + 32) | abi::MMU_PT_UPDATE_PRESERVE_AD, frame | READ_ONLY)]);
    works(probe, "an absent entry holds anything", &[(at + 40, 0xdead_beef_dead_bee0)]);
    works(probe, "machine-to-phys of our own", &[(frame | abi::MMU_MACHPHYS_UPDATE, data.pfn().raw())]);
    refused(probe, "an entry for no frame", (at + 48, NO_FRAME << 12 | READ_ONLY));
    refused(probe, "an entry for the hypervisor's frame", (at + 48, 0x200 << 12 | READ_ONLY));
    refused(probe, "a writable entry for a table", (at + 48, at | WRITABLE));
    refused(probe, "an entry in no frame", (NO_FRAME << 12, frame | READ_ONLY));
    refused(probe, "an entry in the hypervisor's frame", (0x200 << 12, frame | READ_ONLY));
    refused(probe, "machine-to-phys of no frame", (NO_FRAME << 12 | abi::MMU_MACHPHYS_UPDATE, 1));
    refused(probe, "machine-to-phys of the hypervisor's", (0x200 << 12 | abi::MMU_MACHPHYS_UPDATE, 1));
    let (result, _) = update(probe, &[(at + 48 + 4, 0)]);
    probe.holds("an unaligned entry is refused or rounded", result <= 0, result);
    works(probe, "a readable entry for the table itself", &[(at + 48, at | READ_ONLY)]);
    works(probe, "all entries go", &[(at + 8, 0), (at + 32, 0), (at + 40, 0), (at + 48, 0)]);
}

fn operations(probe: &mut Probe, table: &Page, data: &Page) {
    probe.works("tlb_flush_local", extended(probe, abi::MMUEXT_TLB_FLUSH_LOCAL, 0, 0));
    probe.works("tlb_flush_all", extended(probe, abi::MMUEXT_TLB_FLUSH_ALL, 0, 0));
    probe.works("invlpg_local", extended(probe, abi::MMUEXT_INVLPG_LOCAL, data.address(), 0));
    probe.works("invlpg_all of a wild address", extended(probe, abi::MMUEXT_INVLPG_ALL, WILD, 0));
    let mask = probe.address() + 512;
    let mut words = [0; 65];
    words[64] = 1;
    probe.words(&words);
    probe.works("tlb_flush_multi", extended(probe, abi::MMUEXT_TLB_FLUSH_MULTI, 0, mask));
    probe.works("invlpg_multi", extended(probe, abi::MMUEXT_INVLPG_MULTI, data.address(), mask));
    probe.refuses("a wild mask", extended(probe, abi::MMUEXT_TLB_FLUSH_MULTI, 0, WILD), Errno::Inval);
    data.words64()[3].store(77, Ordering::SeqCst);
    probe.works("copy_page", extended(probe, abi::MMUEXT_COPY_PAGE, table.mfn().raw(), data.mfn().raw()));
    probe.is("it is copied", table.words64()[3].load(Ordering::SeqCst) as i64, 77);
    probe.works("clear_page", extended(probe, abi::MMUEXT_CLEAR_PAGE, table.mfn().raw(), 0));
    probe.is("it is clear", table.words64()[3].load(Ordering::SeqCst) as i64, 0);
    let got = extended(probe, abi::MMUEXT_CLEAR_PAGE, 0x200, 0);
    probe.holds("the hypervisor's page is not cleared", got < 0, got);
    let got = extended(probe, abi::MMUEXT_COPY_PAGE, data.mfn().raw(), NO_FRAME);
    probe.holds("no page is not copied", got < 0, got);
    probe.works("no LDT", extended(probe, abi::MMUEXT_SET_LDT, 0, 0));
    probe.works("no LDT, the size in 32 bits", extended(probe, abi::MMUEXT_SET_LDT, 1, 0xdead_beef << 32));
    probe.refuses("an LDT of too many", extended(probe, abi::MMUEXT_SET_LDT, data.address(), 8193), Errno::Inval);
    probe.refuses("an unaligned LDT", extended(probe, abi::MMUEXT_SET_LDT, data.address() + 1, 8), Errno::Inval);
    let got = extended(probe, abi::MMUEXT_NEW_BASEPTR, data.mfn().raw(), 0);
    probe.holds("a plain page is no root", got < 0, got);
    let got = extended(probe, abi::MMUEXT_NEW_USER_BASEPTR, NO_FRAME, 0);
    probe.holds("nor is no page a user's root", got < 0, got);
    probe.refuses("an operation that is not there", extended(probe, 99, 0, 0), Errno::NoSys);
}

fn lists(probe: &mut Probe) {
    probe.works("no updates", call(Hypercall::MmuUpdate, [WILD, 0, 0, SELF]));
    probe.refuses("updates from a wild list", call(Hypercall::MmuUpdate, [WILD, 1, 0, SELF]), Errno::Fault);
    let huge = call(Hypercall::MmuUpdate, [WILD, 0x7fff_ffff, 0, SELF]);
    probe.refuses("a huge count from a wild list", huge, Errno::Fault);
    let list = probe.words(&[0; 4]);
    let nobody = call(Hypercall::MmuUpdate, [list, 1, 0, 0x1234]);
    probe.holds("updates for nobody", nobody == -3 || nobody == -1, nobody);
    probe.works("no operations", call(Hypercall::MmuextOp, [WILD, 0, 0, SELF]));
    probe.refuses("operations from a wild list", call(Hypercall::MmuextOp, [WILD, 1, 0, SELF]), Errno::Fault);
}
