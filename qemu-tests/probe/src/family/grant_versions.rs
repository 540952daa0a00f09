//! `grant_table_op` with a table of version 2: chosen and given up again, its status frames, parts of pages and offers
//! passed on; and what is asked of caches and of tables as a whole. Afterwards the table is of version 1, as it was.

use core::sync::atomic::{AtomicU64, Ordering};

use oxen_abi::domid::DomId;
use oxen_abi::errno::Errno;
use oxen_abi::grant_table as abi;
use oxen_abi::hypercall::Hypercall;
use oxen_domu_lib::grant::{Access, Words};
use oxen_domu_lib::memory::map::Mapping;
use oxen_domu_lib::memory::{Mfn, Page};

use super::grants::{SELF, WRITABLE, copy, grant, map, unmap};
use crate::judge::{Probe, call};
use crate::raw::{self, WILD};

const PERMIT: u64 = abi::GTF_PERMIT_ACCESS as u64;
const OVER: u64 = 0xffff_8300_0000_0000;
/// An entry that outlives changes, and one that does not; nobody else uses them.
const KEPT: usize = 4;
const LOST: usize = 100;

/// Chooses a version; the result, and the version that is in force then.
fn choose(probe: &Probe, version: u32) -> (i64, u32) {
    let argument = probe.words32(&[version]);
    (grant(abi::GNTTABOP_SET_VERSION, argument, 1), probe.word32(0))
}

/// A list of frames by `setup_table` or `get_status_frames`: the status, and the first frame.
fn frames(probe: &Probe, status_frames: bool, count: u32, list: u64) -> (i64, u64) {
    let own = SELF as u32;
    let (command, argument) = if status_frames {
        (abi::GNTTABOP_GET_STATUS_FRAMES, probe.words(&[u64::from(count) | u64::from(own) << 32, list]))
    } else {
        (abi::GNTTABOP_SETUP_TABLE, probe.words(&[u64::from(own) | u64::from(count) << 32, 0, list]))
    };
    let result = grant(command, argument, 1);
    let status = if status_frames { (probe.word(0) >> 48) as i16 } else { probe.word(1) as i16 };
    (if result == 0 { status.into() } else { result - 1000 }, probe.word(64))
}

fn frame(probe: &Probe, status_frames: bool) -> u64 {
    frames(probe, status_frames, 1, probe.address() + 512).1
}

fn load(words: &[AtomicU64], at: usize) -> u64 {
    words.get(at).map_or(0, |word| word.load(Ordering::SeqCst))
}

fn store(words: &[AtomicU64], at: usize, value: u64) {
    if let Some(word) = words.get(at) {
        word.store(value, Ordering::SeqCst);
    }
}

/// The table as words, and its status words.
struct Table {
    entries: Mapping,
    status: Mapping,
    me: DomId,
}

impl Table {
    /// Offers something to ourselves.
    fn offer(&self, reference: usize, flags: u16, upper: u32, body: u64) {
        store(self.entries.words64(), 2 * reference + 1, body);
        let head = u64::from(flags) | u64::from(self.me.0) << 16 | u64::from(upper) << 32;
        store(self.entries.words64(), 2 * reference, head);
    }

    fn status(&self, reference: usize) -> i64 {
        self.status.words16().get(reference).map_or(-1, |word| word.load(Ordering::SeqCst).into())
    }
}

pub(super) fn ask(probe: &mut Probe, me: DomId) {
    let (Some(page), Some(place)) = (probe.page(), probe.page()) else { return };
    caches(probe, &page);
    lists(probe);
    let root = raw::cr3() >> 12;
    let got = copy(probe, (page.mfn().raw(), SELF, 0), (root, SELF, 0), 8, 0);
    probe.is("copy into a page table", got, abi::GNTST_GENERAL_ERROR.into());
    let Ok(entries) = Mapping::of(DomId::SELF, &[Mfn::new(frame(probe, false))], Access::ReadWrite) else {
        return probe.holds("the table is mapped", false, 0);
    };
    choices(probe, &entries, me, &page);
    let Ok(status) = Mapping::of(DomId::SELF, &[Mfn::new(frame(probe, true))], Access::ReadWrite) else {
        return probe.holds("the status frame is mapped", false, 0);
    };
    let table = Table { entries, status, me };
    kept(probe, &table, &page);
    whole(probe, &table, &page, &place);
    parts(probe, &table, &page, &place);
    passed(probe, &table, &place);
    exchanged(probe, &table, &page, &place);
    back(probe, table, &page, &place);
}

fn caches(probe: &mut Probe, page: &Page) {
    let flush = |probe: &Probe, address: u64, offset: u64, length: u64, op: u32| {
        let argument = probe.words(&[address, offset | length << 16 | u64::from(op) << 32]);
        grant(abi::GNTTABOP_CACHE_FLUSH, argument, 1)
    };
    let own = page.mfn().raw() << 12;
    let (clean, drop, by_reference) = (abi::GNTTAB_CACHE_CLEAN, abi::GNTTAB_CACHE_INVAL, abi::GNTTAB_CACHE_SOURCE_GREF);
    let got = [clean, clean | drop, 0].map(|op| flush(probe, own, 0, 4096, op));
    probe.holds("caches of a page of ours", got == [0; 3], got[0]);
    probe.refuses("what was written is not dropped", flush(probe, own, 8, 8, drop), Errno::OpNotSupp);
    probe.refuses("caches by a reference", flush(probe, 0, 0, 8, clean | by_reference), Errno::Inval);
    probe.refuses("an operation on caches that is not there", flush(probe, own, 0, 8, 4), Errno::Inval);
    probe.refuses("caches beyond a page", flush(probe, own, 4000, 97, clean), Errno::Inval);
    probe.refuses("caches from a page's end on", flush(probe, own, 4096, 0, clean), Errno::Inval);
    probe.works("no bytes of no page", flush(probe, u64::MAX, 0, 0, clean));
    probe.refuses("caches of no memory", flush(probe, 1 << 50, 0, 8, clean), Errno::Inval);
    let argument = probe.words(&[own, 8 << 16 | 1 << 32]);
    let continued = u64::from(abi::GNTTABOP_CACHE_FLUSH) | 1 << 12;
    probe.works("caches, gone on with", call(Hypercall::GrantTableOp, [continued, argument, 1]));
    let argument = probe.words(&[own, 0]);
    let got = call(Hypercall::GrantTableOp, [continued, argument, 1]);
    probe.refuses("nothing cannot be gone on with", got, Errno::IlSeq);
    let map = u64::from(abi::GNTTABOP_MAP_GRANT_REF) | 1 << 12;
    probe.refuses("nor can a map", call(Hypercall::GrantTableOp, [map, argument, 1]), Errno::Inval);
    probe.refuses("caches by a wild list", grant(abi::GNTTABOP_CACHE_FLUSH, WILD, 1), Errno::Fault);
}

/// The lists that tables are told by.
fn lists(probe: &mut Probe) {
    let argument = probe.words32(&[SELF as u32]);
    probe.refuses("no table is printed", grant(abi::GNTTABOP_DUMP_TABLE, argument, 1), Errno::NoSys);
    let list = probe.address() + 512;
    probe.works("no status frame of version 1", frames(probe, true, 0, list).0);
    let got = frames(probe, true, 1, list).0;
    probe.is("there is none", got, abi::GNTST_GENERAL_ERROR.into());
    let fault = -i64::from(Errno::Fault as u16) - 1000;
    for (what, status_frames) in [("the table's frames", false), ("the status frames", true)] {
        probe.is(what, frames(probe, status_frames, 1, OVER).0, fault);
    }
    let got = frames(probe, false, 1, WILD).0;
    probe.is("frames to nowhere", got, abi::GNTST_BAD_VIRT_ADDR.into());
    let got = frames(probe, false, 100_000, list).0;
    probe.is("too many frames", got, abi::GNTST_GENERAL_ERROR.into());
}

fn choices(probe: &mut Probe, entries: &Mapping, me: DomId, page: &Page) {
    for version in [0, 3] {
        let (result, now) = choose(probe, version);
        probe.refuses("a version that is not there", result, Errno::Inval);
        probe.is("it stays 1", now.into(), 1);
    }
    let (result, now) = choose(probe, 1);
    probe.is("version 1 again", result + i64::from(now), 1);
    // Of version 1: a reserved entry with a mark that nobody asks for, and one for a transfer.
    let offer = |flags: u16| u64::from(flags) | u64::from(me.0) << 16 | page.mfn().raw() << 32;
    store(entries.words64(), KEPT, offer(abi::GTF_PERMIT_ACCESS | abi::GTF_WRITING | abi::GTF_PWT));
    store(entries.words64(), KEPT + 1, offer(abi::GTF_ACCEPT_TRANSFER));
    store(entries.words64(), LOST, offer(abi::GTF_PERMIT_ACCESS));
    let (status, handle) = map(probe, 0, abi::GNTMAP_DEVICE_MAP, LOST as u32, me.0.into());
    probe.works("an entry in use", status);
    let (result, now) = choose(probe, 2);
    probe.refuses("keeps the version", result, Errno::Busy);
    probe.is("that is 1", now.into(), 1);
    let argument = probe.words(&[0, page.mfn().raw() << 12, handle.into()]);
    probe.works("it goes", grant(abi::GNTTABOP_UNMAP_GRANT_REF, argument, 1));
    let (result, now) = choose(probe, 2);
    probe.works("version 2", result);
    probe.is("it is 2", now.into(), 2);
    let argument = probe.words32(&[SELF as u32, 0]);
    probe.works("get_version", grant(abi::GNTTABOP_GET_VERSION, argument, 1));
    probe.is("it says 2", probe.word32(1).into(), 2);
}

/// What is left of the entries of version 1.
fn kept(probe: &mut Probe, table: &Table, page: &Page) {
    let words = |at: usize| (load(table.entries.words64(), 2 * at), load(table.entries.words64(), 2 * at + 1));
    let prefix = |flags: u16| u64::from(flags) | u64::from(table.me.0) << 16;
    let (head, body) = words(KEPT);
    let wanted = prefix(abi::GTF_PERMIT_ACCESS | abi::GTF_PWT);
    probe.holds("a reserved entry is kept", (head, body) == (wanted, page.mfn().raw()), head as i64);
    probe.is("its mark stands apart", table.status(KEPT), abi::GTF_WRITING.into());
    let (head, _) = words(KEPT + 1);
    probe.is("one for a transfer as well", head as i64, prefix(abi::GTF_ACCEPT_TRANSFER) as i64);
    probe.is("another entry is not", words(LOST).0 as i64 | words(LOST / 2).0 as i64, 0);
    let list = probe.address() + 512;
    let got = frames(probe, true, 2, list).0;
    probe.is("a second status frame", got, abi::GNTST_GENERAL_ERROR.into());
}

/// Pages as a whole.
fn whole(probe: &mut Probe, table: &Table, page: &Page, place: &Page) {
    let me = u64::from(table.me.0);
    let host = abi::GNTMAP_HOST_MAP;
    let (reading, writing) = (i64::from(abi::GTF_READING), i64::from(abi::GTF_WRITING));
    table.offer(LOST, abi::GTF_PERMIT_ACCESS, 0x1234_5678, page.mfn().raw());
    // What is mapped over, the processor may know; who maps sees to that.
    probe.works("the place is empty", call(Hypercall::UpdateVaMapping, [place.address(), 0, 2]));
    let (status, handle) = map(probe, place.address(), host, LOST as u32, me);
    probe.works("map", status);
    probe.is("the marks", table.status(LOST), reading | writing);
    let head = load(table.entries.words64(), 2 * LOST);
    probe.is("the entry has none", head as i64, (PERMIT | me << 16 | 0x1234_5678 << 32) as i64);
    place.words64()[3].store(0x33, Ordering::SeqCst);
    probe.is("the page is written", page.words64()[3].load(Ordering::SeqCst) as i64, 0x33);
    let (result, now) = choose(probe, 1);
    probe.refuses("in use it keeps the version", result, Errno::Busy);
    probe.is("that is 2", now.into(), 2);
    probe.works("unmap", unmap(probe, place.address(), handle));
    probe.is("no marks", table.status(LOST), 0);
    let again = call(Hypercall::UpdateVaMapping, [place.address(), place.mfn().raw() << 12 | WRITABLE, 2]);
    probe.works("the place gets its own page back", again);
    table.offer(LOST, abi::GTF_PERMIT_ACCESS | abi::GTF_READONLY, 0, page.mfn().raw());
    let got = map(probe, place.address(), host, LOST as u32, me).0;
    probe.is("a readable one is not mapped writable", got, abi::GNTST_GENERAL_ERROR.into());
    probe.is("and not marked", table.status(LOST), 0);
    for frame in [1 << 32 | page.mfn().raw(), u64::MAX, 0x200] {
        table.offer(LOST, abi::GTF_PERMIT_ACCESS, 0, frame);
        let got = map(probe, place.address(), host, LOST as u32, me).0;
        probe.is("map a frame that is not ours", got, abi::GNTST_BAD_PAGE.into());
        probe.is("and nothing is marked", table.status(LOST), 0);
    }
    let got = map(probe, place.address(), host, 256, me).0;
    probe.is("a frame holds 256 entries", got, abi::GNTST_BAD_GNTREF.into());
}

/// Parts of pages.
fn parts(probe: &mut Probe, table: &Table, page: &Page, place: &Page) {
    let me = u64::from(table.me.0);
    let part = abi::GTF_PERMIT_ACCESS | abi::GTF_SUB_PAGE;
    table.offer(LOST, part, 64 | 32 << 16, page.mfn().raw());
    let got = map(probe, place.address(), abi::GNTMAP_HOST_MAP, LOST as u32, me).0;
    probe.is("a part is not mapped", got, abi::GNTST_GENERAL_ERROR.into());
    page.words64()[8].store(0x88, Ordering::SeqCst);
    let own = place.mfn().raw();
    let from = |offset| (LOST as u64, me, offset);
    let fetch =
        |probe: &Probe, offset, length| copy(probe, from(offset), (own, SELF, 0), length, abi::GNTCOPY_SOURCE_GREF);
    probe.works("but copied from", fetch(probe, 64, 32));
    probe.is("it is copied", place.words64()[0].load(Ordering::SeqCst) as i64, 0x88);
    probe.works("and to", copy(probe, (own, SELF, 0), from(88), 8, abi::GNTCOPY_DEST_GREF));
    let general = i64::from(abi::GNTST_GENERAL_ERROR);
    for (offset, length) in [(63, 8), (65, 32), (96, 1), (97, 0), (0, 4096)] {
        probe.is("not what is beside it", fetch(probe, offset, length), general);
    }
    probe.works("no bytes at its end", fetch(probe, 96, 0));
    probe.is("beyond the page", fetch(probe, 64, 4096), abi::GNTST_BAD_COPY_ARG.into());
    table.offer(LOST, part, 4095 | 0xffff << 16, page.mfn().raw());
    probe.works("a part that leaves the page, within it", fetch(probe, 4095, 1));
    let both = abi::GNTCOPY_SOURCE_GREF | abi::GNTCOPY_DEST_GREF;
    table.offer(LOST, part, 64 | 32 << 16, page.mfn().raw());
    probe.works("from it to itself", copy(probe, from(64), from(80), 16, both));
    probe.is("not beside itself", copy(probe, from(64), from(96), 16, both), general);
    probe.is("no marks are left", table.status(LOST), 0);
}

/// Offers that are passed on: by us to us only such as lead nowhere.
fn passed(probe: &mut Probe, table: &Table, place: &Page) {
    let me = table.me.0;
    let fetch = |probe: &Probe| {
        let from = (LOST as u64, u64::from(me), 0);
        copy(probe, from, (place.mfn().raw(), SELF, 0), 8, abi::GNTCOPY_SOURCE_GREF)
    };
    for domain in [me, 0x1234, SELF as u16] {
        table.offer(LOST, abi::GTF_TRANSITIVE, domain.into(), KEPT as u64);
        let got = fetch(probe);
        probe.is("an offer that is passed on from nowhere", got, abi::GNTST_GENERAL_ERROR.into());
        let got = map(probe, place.address(), abi::GNTMAP_HOST_MAP, LOST as u32, me.into()).0;
        probe.is("is not mapped either", got, abi::GNTST_GENERAL_ERROR.into());
        probe.is("and not marked", table.status(LOST), 0);
    }
}

fn exchanged(probe: &mut Probe, table: &Table, page: &Page, place: &Page) {
    let exchange = |probe: &Probe, a: usize, b: usize| {
        let argument = probe.words32(&[a as u32, b as u32, 0]);
        let result = grant(abi::GNTTABOP_SWAP_GRANT_REF, argument, 1);
        if result == 0 { i64::from(probe.word32(2) as i16) } else { result - 1000 }
    };
    table.offer(LOST, abi::GTF_PERMIT_ACCESS, 7, page.mfn().raw());
    table.offer(LOST + 1, abi::GTF_INVALID, 0, 0);
    if let Some(word) = table.status.words16().get(LOST) {
        word.store(0x4000, Ordering::SeqCst);
    }
    probe.works("swap", exchange(probe, LOST, LOST + 1));
    let body = load(table.entries.words64(), 2 * LOST + 3);
    let status = (table.status(LOST), table.status(LOST + 1));
    probe.holds("words and marks are swapped", body == page.mfn().raw() && status == (0, 0x4000), status.1);
    probe.is("beyond the table", exchange(probe, LOST, 256), abi::GNTST_BAD_GNTREF.into());
    let (status, handle) = map(probe, place.address(), abi::GNTMAP_HOST_MAP, LOST as u32 + 1, table.me.0.into());
    probe.works("map what was swapped", status);
    probe.is("in use it is not", exchange(probe, LOST, LOST + 1), abi::GNTST_EAGAIN.into());
    probe.works("unmap", unmap(probe, place.address(), handle));
    let again = call(Hypercall::UpdateVaMapping, [place.address(), place.mfn().raw() << 12 | WRITABLE, 2]);
    probe.works("the place gets its own page back", again);
    probe.is("what nobody marked is left", table.status(LOST + 1), 0x4000);
}

/// Back to version 1.
fn back(probe: &mut Probe, table: Table, page: &Page, place: &Page) {
    let me = table.me.0;
    let (result, _) = choose(probe, 1);
    probe.refuses("a status frame that is mapped keeps the version", result, Errno::Busy);
    let Table { entries, status, .. } = table;
    drop(status);
    let prefix = |flags: u16| u64::from(flags) | u64::from(me) << 16;
    let offer = |at: usize, head: u64, body: u64| {
        store(entries.words64(), 2 * at + 1, body);
        store(entries.words64(), 2 * at, head);
    };
    for (head, body) in [(PERMIT, 1 << 32), (abi::GTF_TRANSITIVE.into(), 0)] {
        offer(KEPT, head, body);
        let (result, now) = choose(probe, 1);
        probe.refuses("what version 1 cannot tell", result, Errno::Range);
        probe.is("keeps version 2", now.into(), 2);
    }
    let part = abi::GTF_PERMIT_ACCESS | abi::GTF_SUB_PAGE | abi::GTF_PCD;
    offer(KEPT, prefix(part) | 5 << 32 | 6 << 48, page.mfn().raw());
    offer(KEPT + 1, prefix(abi::GTF_ACCEPT_TRANSFER), page.mfn().raw());
    offer(KEPT + 2, prefix(abi::GTF_PERMIT_ACCESS), page.mfn().raw());
    let flags = abi::GNTMAP_HOST_MAP | abi::GNTMAP_READONLY;
    let (status, handle) = map(probe, place.address(), flags, KEPT as u32 + 2, me.into());
    probe.works("a reserved entry in use", status);
    let (result, now) = choose(probe, 1);
    probe.is("keeps no version", result + i64::from(now), 1);
    let word = |at: usize| load(entries.words64(), at);
    let seen = word(KEPT);
    // What nobody asked for in its status word, in version 1, was a mark of writing.
    probe.is("its flags are kept", (seen & 0xffff) as i64, (part | abi::GTF_WRITING).into());
    probe.is("its page is", (seen >> 32) as i64, page.mfn().raw() as i64);
    probe.is("nothing of what it waited for", word(KEPT + 1) as i64, 0);
    let used = prefix(abi::GTF_PERMIT_ACCESS | abi::GTF_READING) | page.mfn().raw() << 32;
    probe.is("its mark is", word(KEPT + 2) as i64, used as i64);
    probe.works("unmap", unmap(probe, place.address(), handle));
    let used = prefix(abi::GTF_PERMIT_ACCESS) | page.mfn().raw() << 32;
    probe.is("and goes", word(KEPT + 2) as i64, used as i64);
    let again = call(Hypercall::UpdateVaMapping, [place.address(), place.mfn().raw() << 12 | WRITABLE, 2]);
    probe.works("the place gets its own page back", again);
    (KEPT..KEPT + 3).for_each(|at| store(entries.words64(), at, 0));
}
