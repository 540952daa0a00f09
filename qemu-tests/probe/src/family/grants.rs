//! `grant_table_op` by grants to ourselves: mapped, unmapped, copied; references, handles
//! and domains that are not there.

use core::sync::atomic::Ordering;

use oxen_abi::domid::DomId;
use oxen_abi::errno::Errno;
use oxen_abi::event_channel;
use oxen_abi::grant_table as abi;
use oxen_abi::hypercall::Hypercall;
use oxen_domu_lib::grant::{Access, Grant};
use oxen_domu_lib::memory::Page;

use crate::judge::{Probe, call};
use crate::raw::WILD;

pub(super) const SELF: u64 = 0x7ff0;
pub(super) const WRITABLE: u64 = 1 | 2 | 1 << 5 | 1 << 6 | 1 << 63;

pub(super) fn grant(command: u32, argument: u64, count: u64) -> i64 {
    call(Hypercall::GrantTableOp, [command.into(), argument, count])
}

/// Our own number: what a port connected to ourselves names as its other end.
fn own_number(probe: &Probe) -> u16 {
    let event = |command: u32, argument| call(Hypercall::EventChannelOp, [command.into(), argument]);
    let argument = probe.words32(&[SELF as u32 | (SELF as u32) << 16, 0]);
    event(event_channel::EVTCHNOP_ALLOC_UNBOUND, argument);
    let unbound = probe.word32(1);
    let argument = probe.words32(&[SELF as u32, unbound, 0]);
    event(event_channel::EVTCHNOP_BIND_INTERDOMAIN, argument);
    let bound = probe.word32(2);
    let argument = probe.words32(&[SELF as u32, bound, 0, 0, 0, 0]);
    event(event_channel::EVTCHNOP_STATUS, argument);
    let number = probe.word32(4) as u16;
    for port in [bound, unbound] {
        let argument = probe.words32(&[port]);
        event(event_channel::EVTCHNOP_CLOSE, argument);
    }
    number
}

/// Maps; returns status and handle.
pub(super) fn map(probe: &Probe, address: u64, flags: u32, reference: u32, domain: u64) -> (i64, u32) {
    let argument = probe.words(&[address, u64::from(flags) | u64::from(reference) << 32, domain, 0]);
    let result = grant(abi::GNTTABOP_MAP_GRANT_REF, argument, 1);
    if result != 0 {
        (result - 1000, 0)
    } else {
        (i64::from((probe.word(2) >> 16) as i16), (probe.word(2) >> 32) as u32)
    }
}

pub(super) fn unmap(probe: &Probe, address: u64, handle: u32) -> i64 {
    let argument = probe.words(&[address, 0, handle.into()]);
    let result = grant(abi::GNTTABOP_UNMAP_GRANT_REF, argument, 1);
    if result != 0 { result - 1000 } else { i64::from((probe.word(2) >> 32) as i16) }
}

/// Copies between (reference or frame, domain, offset)s; returns the status.
pub(super) fn copy(probe: &Probe, from: (u64, u64, u64), to: (u64, u64, u64), length: u64, flags: u16) -> i64 {
    let place = |(page, domain, offset): (u64, u64, u64)| [page, domain | offset << 16];
    let ([a, b], [c, d]) = (place(from), place(to));
    let argument = probe.words(&[a, b, c, d, length | u64::from(flags) << 16]);
    let result = grant(abi::GNTTABOP_COPY, argument, 1);
    if result != 0 { result - 1000 } else { i64::from((probe.word(4) >> 32) as i16) }
}

/// Asks of the first version; returns this guest's number where there are pages for more.
pub(crate) fn ask(probe: &mut Probe) -> Option<DomId> {
    let argument = probe.words32(&[SELF as u32, 0, 0, 0]);
    probe.works("query_size", grant(abi::GNTTABOP_QUERY_SIZE, argument, 1));
    let (frames, most) = (probe.word32(1), probe.word32(2));
    probe.holds("frames are in use, within the limit", frames >= 1 && frames <= most, frames.into());
    let argument = probe.words32(&[SELF as u32, 0]);
    probe.works("get_version", grant(abi::GNTTABOP_GET_VERSION, argument, 1));
    probe.is("it is 1", i64::from(probe.word32(1)), 1);
    let me = DomId(own_number(probe));
    let (page, place) = (probe.page()?, probe.page()?);
    page.words64()[0].store(0x1122_3344, Ordering::SeqCst);
    let Ok(granted) = Grant::new(page, me, Access::ReadWrite) else {
        probe.holds("a grant", false, 0);
        return None;
    };
    mapping(probe, &granted, me, &place);
    copying(probe, &granted, &place);
    probe.holds("the grant ends", granted.end().is_ok(), 0);
    read_only(probe, me, &place);
    wrong(probe, &place);
    Some(me)
}

fn mapping(probe: &mut Probe, granted: &Grant, me: DomId, place: &Page) {
    let reference = granted.reference();
    let host = abi::GNTMAP_HOST_MAP;
    let (status, handle) = map(probe, place.address(), host, reference, me.0.into());
    probe.is("map", status, 0);
    probe.is("the page is seen", place.words64()[0].load(Ordering::SeqCst) as i64, 0x1122_3344);
    place.words64()[1].store(5, Ordering::SeqCst);
    probe.is("and written", granted.page().words64()[1].load(Ordering::SeqCst) as i64, 5);
    let got = unmap(probe, place.address() + 4096, handle);
    probe.holds("unmap from where it is not", got < 0, got);
    probe.is("unmap", unmap(probe, place.address(), handle), 0);
    let got = unmap(probe, place.address(), handle);
    probe.is("unmap twice", got, abi::GNTST_BAD_HANDLE.into());
    let again = call(Hypercall::UpdateVaMapping, [place.address(), place.mfn().address() | WRITABLE, 2]);
    probe.works("the place gets its own page back", again);
    let got = map(probe, WILD, host, reference, me.0.into()).0;
    probe.holds("map at a wild address", got < 0, got);
    let got = map(probe, 0xffff_8300_0000_0000, host, reference, me.0.into()).0;
    probe.holds("map over the hypervisor", got < 0, got);
    let got = map(probe, 0x200 << 12, host | abi::GNTMAP_CONTAINS_PTE, reference, me.0.into()).0;
    probe.holds("map into the hypervisor's frame", got < 0, got);
    let got = map(probe, place.mfn().address(), host | abi::GNTMAP_CONTAINS_PTE, reference, me.0.into()).0;
    probe.holds("map into a page that is no table", got < 0, got);
    let got = map(probe, place.address(), host, 100_000, me.0.into()).0;
    probe.is("map a reference beyond the table", got, abi::GNTST_BAD_GNTREF.into());
    let got = map(probe, place.address(), host, reference, 0x1234).0;
    probe.is("map from nobody", got, abi::GNTST_BAD_DOMAIN.into());
    let got = map(probe, place.address(), 0, reference, me.0.into()).0;
    probe.holds("map nowhere", got < 0, got);
    probe.is("unmap a handle that is not there", unmap(probe, place.address(), 123_456), abi::GNTST_BAD_HANDLE.into());
}

fn copying(probe: &mut Probe, granted: &Grant, place: &Page) {
    let reference = u64::from(granted.reference());
    let own = place.mfn().raw();
    let from = |offset| (reference, SELF, offset);
    probe.is("copy from a grant", copy(probe, from(0), (own, SELF, 64), 16, abi::GNTCOPY_SOURCE_GREF), 0);
    probe.is("it is copied", place.words64()[8].load(Ordering::SeqCst) as i64, 0x1122_3344);
    place.words64()[0].store(99, Ordering::SeqCst);
    probe.is("copy to a grant", copy(probe, (own, SELF, 0), from(4088), 8, abi::GNTCOPY_DEST_GREF), 0);
    probe.is("it is copied", granted.page().words64()[511].load(Ordering::SeqCst) as i64, 99);
    let got = copy(probe, from(4090), (own, SELF, 0), 16, abi::GNTCOPY_SOURCE_GREF);
    probe.is("copy beyond a page's end", got, abi::GNTST_BAD_COPY_ARG.into());
    let got = copy(probe, (100_000, SELF, 0), (own, SELF, 0), 16, abi::GNTCOPY_SOURCE_GREF);
    probe.is("copy from no grant", got, abi::GNTST_BAD_GNTREF.into());
    let got = copy(probe, from(0), (0x200, SELF, 0), 16, abi::GNTCOPY_SOURCE_GREF);
    probe.holds("copy into the hypervisor", got < 0, got);
    let got = copy(probe, (reference, 0x1234, 0), (own, SELF, 0), 16, abi::GNTCOPY_SOURCE_GREF);
    probe.is("copy from nobody", got, abi::GNTST_BAD_DOMAIN.into());
}

fn read_only(probe: &mut Probe, me: DomId, place: &Page) {
    let Ok(granted) = Grant::zeroed(me, Access::ReadOnly) else { return probe.holds("a grant", false, 0) };
    let reference = granted.reference();
    let got = map(probe, place.address(), abi::GNTMAP_HOST_MAP, reference, me.0.into()).0;
    probe.holds("a readable grant is not mapped writable", got < 0, got);
    let to = (u64::from(reference), SELF, 0);
    let got = copy(probe, (place.mfn().raw(), SELF, 0), to, 8, abi::GNTCOPY_DEST_GREF);
    probe.holds("nor copied to", got < 0, got);
    let flags = abi::GNTMAP_HOST_MAP | abi::GNTMAP_READONLY;
    let (status, handle) = map(probe, place.address(), flags, reference, me.0.into());
    probe.is("it is mapped readable", status, 0);
    let Err(granted) = granted.end() else { return probe.holds("a grant in use does not end", false, 0) };
    probe.is("unmap", unmap(probe, place.address(), handle), 0);
    let again = call(Hypercall::UpdateVaMapping, [place.address(), place.mfn().address() | WRITABLE, 2]);
    probe.works("the place gets its own page back", again);
    probe.holds("now it ends", granted.end().is_ok(), 0);
}

fn wrong(probe: &mut Probe, place: &Page) {
    let got = map(probe, place.address(), abi::GNTMAP_HOST_MAP, 500, SELF).0;
    probe.holds("an entry that grants nothing", got < 0, got);
    let transfer = probe.words(&[0x200, SELF, 0]);
    probe.works("transfer of the hypervisor's frame", grant(abi::GNTTABOP_TRANSFER, transfer, 1));
    let status = i64::from((probe.word(1) >> 48) as i16) + i64::from(probe.word(2) as i16);
    probe.holds("has a bad status", status < 0, status);
    for command in [abi::GNTTABOP_MAP_GRANT_REF, abi::GNTTABOP_UNMAP_GRANT_REF, abi::GNTTABOP_COPY] {
        probe.refuses("a wild list", grant(command, WILD, 1), Errno::Fault);
        probe.works("an empty list", grant(command, probe.address(), 0));
        let got = grant(command, WILD, u64::from(u32::MAX));
        probe.holds("a huge count", got == -22 || got == -14, got);
    }
    probe.refuses("an operation that is not there", grant(99, probe.address(), 1), Errno::NoSys);
}
