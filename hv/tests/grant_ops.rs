//! Grant tables under hostile hands: random requests against a model of the ABI, everything counted again as they go.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "it is a test")]

mod support;

use oxen_abi::{
    domid::DomId,
    errno::Errno,
    grant_table::{self as abi, GnttabCopy, GnttabCopyPtr, GnttabMapGrantRef, GnttabTransfer, GnttabUnmapAndReplace},
};
use oxen_hv::{
    addr::{GuestAddr, Mfn},
    domain::Progress,
    grant,
    hypercall::grant::grant_table_op,
    mem::{Memory, Tlb, editor::Editor, entry::Entry, frame_type::FrameType},
};
use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering::SeqCst},
};
use support::{
    audit::{self, Holds},
    boot,
    dice::Dice,
    entry_address,
    guest::{Guest, Home},
};
use zerocopy::{FromBytes, Immutable, IntoBytes};

const GUESTS: usize = 3;
/// Entries of each table that are played with.
const REFS: usize = 12;
const DATA: usize = 8;
/// The L1 slots at which grants are mapped: those after the guest's own pages and tables.
const SPARES: usize = 6;
const FIRST_SPARE: usize = DATA + 4;
/// Mappings that each may hold.
const HANDLES: u32 = 20;
const OPERATIONS: u32 = 400_000;
const OKAY: i16 = abi::GNTST_OKAY;
const GENERAL: i16 = abi::GNTST_GENERAL_ERROR;

/// A use of an entry: of a mapping that lives, or of a copy under way.
#[derive(Clone, Copy, Debug)]
struct Claim {
    granter: usize,
    grantee: usize,
    reference: usize,
    frame: Mfn,
    writes: bool,
}

#[derive(Clone, Copy, Debug)]
struct Mapping {
    claim: u32,
    flags: u32,
}

/// One guest, and what should be true of it.
struct Side {
    guest: Guest,
    home: Home,
    words: [u64; REFS],
    mappings: BTreeMap<u32, Mapping>,
    spares: [Option<(Mfn, bool)>; SPARES],
    loose: Vec<Mfn>,
}

struct World {
    sides: Vec<Side>,
    claims: BTreeMap<u32, Claim>,
    next_claim: u32,
}

impl Side {
    fn new(hv: &'static oxen_hv::Hypervisor<support::Fake>, id: u16) -> Self {
        let mut guest = Guest::new(hv, id, false, 40);
        let home = guest.build_home(DATA);
        *guest.domain.grants.lock() = grant::Grants::new(4, 1);
        grant::grow(hv, &guest.domain, 1).unwrap();
        let loose = (0..3).map(|_| guest.frame()).collect();
        let (words, spares) = ([0; REFS], [None; SPARES]);
        Self { guest, home, words, mappings: BTreeMap::new(), spares, loose }
    }

    fn word(&self, reference: usize) -> &'static AtomicU64 {
        let frame = grant::table_frame(self.guest.hv, &self.guest.domain, 0).unwrap();
        &self.guest.hv.machine.words(frame)[reference]
    }

    /// One request, by hypercall; what comes back stands in the request.
    fn ask<T: FromBytes + IntoBytes + Immutable>(&mut self, command: u32, request: &mut T) -> Result<u64, Errno> {
        self.run();
        self.guest.hv.machine.write_guest(GuestAddr(0), request.as_bytes()).unwrap();
        let answer = self.guest.call(grant_table_op, [u64::from(command), 0, 1, 0]);
        self.guest.hv.machine.read_guest(GuestAddr(0), request.as_mut_bytes()).unwrap();
        answer
    }

    /// Runs the guest, if it does not run already: what the CPU knows then stays.
    fn run(&mut self) {
        let root = self.guest.hv.machine.cpu(0).root;
        if root != self.guest.state.kernel_root {
            self.guest.run();
        }
    }

    /// Whether the guest can read at the spare slot. If so, the CPU knows the translation then.
    fn can_read(&self, slot: usize) -> bool {
        self.guest.hv.machine.read_guest_word(GuestAddr(Self::spare(slot))).is_ok()
    }

    fn spare(slot: usize) -> u64 {
        ((FIRST_SPARE + slot) as u64) << 12
    }

    fn entry_at(&self, slot: usize) -> u64 {
        entry_address(self.home.tables[3], FIRST_SPARE + slot)
    }
}

impl World {
    fn new() -> Self {
        support::on_cpu(0);
        let hv = boot(512);
        let sides = (1..=GUESTS as u16).map(|id| Side::new(hv, id)).collect();
        Self { sides, claims: BTreeMap::new(), next_claim: 0 }
    }

    fn by_id(id: DomId) -> Option<usize> {
        (1..=GUESTS).find(|&n| n == usize::from(id.0)).map(|n| n - 1)
    }

    /// Who uses an entry, of which frame, with how many readers and writers.
    fn pins(&self, granter: usize, reference: usize) -> Option<(usize, Mfn, u64, u64)> {
        let mut of = self.claims.values().filter(|c| c.granter == granter && c.reference == reference);
        let first = of.next()?;
        let mut pins = (first.grantee, first.frame, u64::from(!first.writes), u64::from(first.writes));
        for claim in of {
            assert_eq!((claim.grantee, claim.frame), (pins.0, pins.1));
            pins.2 += u64::from(!claim.writes);
            pins.3 += u64::from(claim.writes);
        }
        Some(pins)
    }

    fn can_take(&self, owner: usize, frame: Mfn, writes: bool) -> bool {
        let side = &self.sides[owner];
        let state = side.guest.hv.frames.state(frame);
        state.owner() == side.guest.domain.owner
            && state.refs() != 0
            && (!writes || state.uses() == 0 || state.kind() == FrameType::Writable)
    }

    fn expect_claim(
        &mut self,
        granter: usize,
        grantee: usize,
        reference: u32,
        writes: bool,
        maps: bool,
    ) -> Result<u32, i16> {
        if reference >= 512 {
            return Err(abi::GNTST_BAD_GNTREF);
        }
        let Some(&word) = self.sides[granter].words.get(reference as usize) else { return Err(GENERAL) };
        let reference = reference as usize;
        let pins = self.pins(granter, reference);
        if pins.is_some_and(|p| p.0 != grantee) {
            return Err(GENERAL);
        }
        if pins.is_none_or(|p| writes && p.3 == 0) {
            let flags = word as u16;
            let mask = abi::GTF_TYPE_MASK | if maps { abi::GTF_SUB_PAGE } else { 0 };
            let is_ours = flags & mask == abi::GTF_PERMIT_ACCESS && (word >> 16) as u16 == grantee as u16 + 1;
            if (pins.is_none() && !is_ours) || (writes && flags & abi::GTF_READONLY != 0) {
                return Err(GENERAL);
            }
            let mark = abi::GTF_READING | if writes { abi::GTF_WRITING } else { 0 };
            self.sides[granter].words[reference] |= u64::from(mark);
        }
        let frame = pins.map(|p| p.1).or(Mfn::new(word >> 32)).filter(|&f| self.can_take(granter, f, writes));
        let Some(frame) = frame else {
            self.unmark(granter, reference);
            return Err(abi::GNTST_BAD_PAGE);
        };
        self.next_claim += 1;
        self.claims.insert(self.next_claim, Claim { granter, grantee, reference, frame, writes });
        Ok(self.next_claim)
    }

    fn unmark(&mut self, granter: usize, reference: usize) {
        let stale = match self.pins(granter, reference) {
            None => abi::GTF_READING | abi::GTF_WRITING,
            Some((_, _, _, 0)) => abi::GTF_WRITING,
            Some(_) => 0,
        };
        self.sides[granter].words[reference] &= !u64::from(stale);
    }

    fn release(&mut self, claim: u32) {
        let claim = self.claims.remove(&claim).unwrap();
        self.unmark(claim.granter, claim.reference);
    }

    fn expect_map(&mut self, me: usize, op: &GnttabMapGrantRef, place: Option<usize>) -> Result<u32, i16> {
        if op.flags & (abi::GNTMAP_DEVICE_MAP | abi::GNTMAP_HOST_MAP) == 0 {
            return Err(abi::GNTST_BAD_GNTREF);
        }
        let granter = Self::by_id(op.dom).ok_or(abi::GNTST_BAD_DOMAIN)?;
        let writes = op.flags & abi::GNTMAP_READONLY == 0;
        let claim = self.expect_claim(granter, me, op.r#ref, writes, true)?;
        if op.flags & abi::GNTMAP_HOST_MAP != 0 {
            let Some(slot) = place else {
                self.release(claim);
                return Err(GENERAL);
            };
            self.sides[me].spares[slot] = Some((self.claims[&claim].frame, writes));
        }
        Ok(claim)
    }

    fn map(&mut self, me: usize, dice: &mut Dice) {
        if self.sides[me].mappings.len() >= HANDLES as usize {
            return self.unmap(me, dice);
        }
        let slot = dice.roll(SPARES as u32) as usize;
        let side = &self.sides[me];
        let other_table = self.sides[(me + 1) % GUESTS].home.tables[3];
        let (by_entry, host_addr, place) = match dice.roll(12) {
            0 => (false, 0x7000_0000_0000, None),
            1 => (false, 0xffff_8300_0000_0000, None),
            2 => (true, side.entry_at(slot) + 4, None),
            3 => (true, entry_address(other_table, FIRST_SPARE), None),
            4 => (true, entry_address(side.home.tables[2], 5), None),
            5 => (true, u64::MAX - 7, None),
            6 | 7 => (true, side.entry_at(slot), Some(slot)),
            _ => (false, Side::spare(slot), Some(slot)),
        };
        let mut flags = dice.pick(&[0, 1, 2, 2, 2, 2, 3]) | dice.pick(&[0, 0, abi::GNTMAP_READONLY]);
        flags |= dice.pick(&[0, abi::GNTMAP_APPLICATION_MAP]) | dice.pick(&[0, 7 << 16, 0xffff << 16]);
        flags |= if by_entry { abi::GNTMAP_CONTAINS_PTE } else { 0 };
        let mut op = GnttabMapGrantRef {
            host_addr,
            flags,
            r#ref: any_ref(dice),
            dom: any_domain(dice),
            status: 99,
            handle: u32::MAX,
            dev_bus_addr: 0,
        };
        let expected = self.expect_map(me, &op, place);
        assert_eq!(self.sides[me].ask(abi::GNTTABOP_MAP_GRANT_REF, &mut op), Ok(0));
        assert_eq!(op.status, expected.err().unwrap_or(OKAY), "map {op:?}");
        if let Ok(claim) = expected {
            assert_eq!(op.dev_bus_addr, self.claims[&claim].frame.address().0);
            let old = self.sides[me].mappings.insert(op.handle, Mapping { claim, flags });
            assert!(old.is_none(), "a handle that was given out twice");
        }
        // What was there before may still be known to the CPU: the guest's own affair, which it sees to.
        self.sides[me].guest.hv.machine.flush();
    }

    fn unmap(&mut self, me: usize, dice: &mut Dice) {
        let side = &self.sides[me];
        let handle = dice.roll(HANDLES + 2);
        let mapping = side.mappings.get(&handle).copied();
        let frame = mapping.map(|m| self.claims[&m.claim].frame);
        let slot = dice.roll(SPARES as u32) as usize;
        // More often than not the right place, if the mapping still is at one.
        let is_it = |place: &Option<(Mfn, bool)>| place.is_some_and(|(f, _)| Some(f) == frame);
        let slot = if dice.roll(4) != 0 { side.spares.iter().position(is_it).unwrap_or(slot) } else { slot };
        let by_entry = mapping.is_some_and(|m| m.flags & abi::GNTMAP_CONTAINS_PTE != 0);
        let host_addr = match dice.roll(8) {
            0 => 0,
            1 => 0x7000_0000_0008,
            _ if by_entry => side.entry_at(slot),
            _ => Side::spare(slot),
        };
        let new_slot = dice.roll(SPARES as u32) as usize;
        let new_addr = if dice.roll(5) == 0 { Side::spare(new_slot) } else { 0 };
        let bus = frame.map_or(0, |f| f.address().0);
        let dev_bus_addr = if new_addr == 0 { dice.pick(&[0, bus, bus, 0x5000]) } else { 0 };
        let expected = self.expect_unmap(me, handle, mapping, (host_addr, slot), (new_addr, new_slot), dev_bus_addr);
        let side = &mut self.sides[me];
        side.run();
        side.can_read(slot);
        let status = if new_addr == 0 {
            let mut op = abi::GnttabUnmapGrantRef { host_addr, dev_bus_addr, handle, status: 99, _pad0: 0 };
            assert_eq!(side.ask(abi::GNTTABOP_UNMAP_GRANT_REF, &mut op), Ok(0));
            op.status
        } else {
            let mut op = GnttabUnmapAndReplace { host_addr, new_addr, handle, status: 99, _pad0: 0 };
            assert_eq!(side.ask(abi::GNTTABOP_UNMAP_AND_REPLACE, &mut op), Ok(0));
            op.status
        };
        assert_eq!(side.can_read(slot), side.spares[slot].is_some(), "after the end of {handle} {mapping:?}");
        assert_eq!(status, expected, "unmap {handle} {mapping:?} at {host_addr:#x}, {new_addr:#x}, {dev_bus_addr:#x}");
    }

    fn expect_unmap(
        &mut self,
        me: usize,
        handle: u32,
        mapping: Option<Mapping>,
        (host_addr, slot): (u64, usize),
        (new_addr, new_slot): (u64, usize),
        dev_bus_addr: u64,
    ) -> i16 {
        let Some(mut mapping) = mapping else { return abi::GNTST_BAD_HANDLE };
        let claim = self.claims[&mapping.claim];
        let is_device = mapping.flags & abi::GNTMAP_DEVICE_MAP != 0;
        if dev_bus_addr != 0 && is_device && dev_bus_addr != claim.frame.address().0 {
            return abi::GNTST_BAD_DEV_ADDR;
        }
        if host_addr != 0 && mapping.flags & abi::GNTMAP_HOST_MAP != 0 {
            let is_by_entry = mapping.flags & abi::GNTMAP_CONTAINS_PTE != 0;
            let side = &mut self.sides[me];
            let is_place = host_addr == Side::spare(slot) || host_addr == side.entry_at(slot);
            let is_there = is_place && side.spares[slot] == Some((claim.frame, claim.writes));
            if !is_there || (new_addr != 0 && (is_by_entry || new_slot == slot)) {
                return GENERAL;
            }
            side.spares[slot] = if new_addr == 0 { None } else { side.spares[new_slot].take() };
            mapping.flags &= !abi::GNTMAP_HOST_MAP;
        }
        if dev_bus_addr != 0 {
            mapping.flags &= !abi::GNTMAP_DEVICE_MAP;
        }
        if mapping.flags & (abi::GNTMAP_HOST_MAP | abi::GNTMAP_DEVICE_MAP) == 0 {
            self.sides[me].mappings.remove(&handle);
            self.release(mapping.claim);
        } else {
            self.sides[me].mappings.insert(handle, mapping);
        }
        OKAY
    }

    fn copy(&mut self, me: usize, dice: &mut Dice) {
        let flags = dice.roll(4) as u16;
        let end = |world: &Self, dice: &mut Dice, by_ref: bool| {
            let u = if by_ref { u64::from(any_ref(dice)) } else { world.any_frame(me, dice) };
            let domid = if !by_ref && dice.roll(8) != 0 { DomId::SELF } else { any_domain(dice) };
            let offset = dice.pick(&[0, 8, 100, 2048, 4095, 4096]);
            GnttabCopyPtr { u, domid, offset, _pad0: 0 }
        };
        let source = end(self, dice, flags & abi::GNTCOPY_SOURCE_GREF != 0);
        let dest = end(self, dice, flags & abi::GNTCOPY_DEST_GREF != 0);
        let len = dice.pick(&[0, 1, 64, 2048, 4096, u16::MAX]);
        let mut op = GnttabCopy { source, dest, len, flags, status: 99, _pad0: 0 };
        let expected = self.expect_copy(me, &op);
        let hv = self.sides[me].guest.hv;
        let read = |frame: Mfn, at: u16| -> Vec<u8> {
            hv.machine.bytes(frame).iter().skip(at.into()).take(len.into()).map(|b| b.load(SeqCst)).collect()
        };
        let wanted = expected.ok().map(|(from, to)| (from, to, read(from, op.source.offset)));
        assert_eq!(self.sides[me].ask(abi::GNTTABOP_COPY, &mut op), Ok(0));
        assert_eq!(op.status, expected.err().unwrap_or(OKAY), "copy {op:?}");
        if let Some((from, to, bytes)) = wanted.filter(|(from, to, _)| from != to) {
            assert_eq!((read(from, op.source.offset), read(to, op.dest.offset)), (bytes.clone(), bytes));
        }
    }

    fn expect_copy(&mut self, me: usize, op: &GnttabCopy) -> Result<(Mfn, Mfn), i16> {
        let owner = |end: &GnttabCopyPtr, by_ref: bool| match end.domid {
            DomId::SELF => Ok(me),
            _ if !by_ref => Err(abi::GNTST_PERMISSION_DENIED),
            id => Self::by_id(id).ok_or(abi::GNTST_BAD_DOMAIN),
        };
        let by_ref = [abi::GNTCOPY_SOURCE_GREF, abi::GNTCOPY_DEST_GREF].map(|flag| op.flags & flag != 0);
        let owners = [owner(&op.source, by_ref[0])?, owner(&op.dest, by_ref[1])?];
        let mut claims = Vec::new();
        let mut frames = Vec::new();
        let mut outcome = Ok(());
        for (n, end) in [op.source, op.dest].into_iter().enumerate() {
            let taken = if by_ref[n] {
                self.expect_claim(owners[n], me, end.u as u32, n == 1, false).map(|claim| {
                    claims.push(claim);
                    self.claims[&claim].frame
                })
            } else {
                Mfn::new(end.u).filter(|&f| self.can_take(owners[n], f, n == 1)).ok_or(abi::GNTST_BAD_PAGE)
            };
            match taken {
                Ok(frame) => frames.push(frame),
                Err(status) => {
                    outcome = Err(status);
                    break;
                }
            }
        }
        claims.into_iter().rev().for_each(|claim| self.release(claim));
        outcome?;
        let end = |offset: u16| u32::from(offset) + u32::from(op.len);
        if end(op.source.offset) > 4096 || end(op.dest.offset) > 4096 {
            return Err(abi::GNTST_BAD_COPY_ARG);
        }
        Ok((frames[0], frames[1]))
    }

    fn transfer(&mut self, me: usize, dice: &mut Dice) {
        let loose = &self.sides[me].loose;
        let mfn = if loose.is_empty() || dice.roll(4) == 0 { self.any_frame(me, dice) } else { dice.pick(loose).raw() };
        let (domid, r#ref) = (any_domain(dice), any_ref(dice));
        let mut op = GnttabTransfer { mfn, domid, _pad0: 0, r#ref, status: 99, _pad1: [0; 3] };
        let expected = self.expect_transfer(me, &op);
        assert_eq!(self.sides[me].ask(abi::GNTTABOP_TRANSFER, &mut op), Ok(0));
        assert_eq!(op.status, expected, "transfer {op:?}");
    }

    fn expect_transfer(&mut self, me: usize, op: &GnttabTransfer) -> i16 {
        let hv = self.sides[me].guest.hv;
        let Some(frame) = Mfn::new(op.mfn).filter(|f| self.sides[me].loose.contains(f)) else {
            return abi::GNTST_BAD_PAGE;
        };
        if hv.frames.state(frame).refs() != 1 {
            return abi::GNTST_BAD_PAGE;
        }
        let Some(to) = Self::by_id(op.domid) else { return abi::GNTST_BAD_DOMAIN };
        let Some(&word) = self.sides[to].words.get(op.r#ref as usize) else { return GENERAL };
        let wanted = u64::from(abi::GTF_ACCEPT_TRANSFER) | (me as u64 + 1) << 16;
        let domain = &self.sides[to].guest.domain;
        let is_full = hv.frames.reserved(domain.owner.slot().unwrap()) >= domain.max_pages.load(SeqCst);
        if word & 0xffff_ffff != wanted || is_full {
            return GENERAL;
        }
        let done = abi::GTF_TRANSFER_COMMITTED | abi::GTF_TRANSFER_COMPLETED;
        self.sides[to].words[op.r#ref as usize] = frame.raw() << 32 | wanted | u64::from(done);
        self.sides[me].loose.retain(|&f| f != frame);
        self.sides[to].loose.push(frame);
        OKAY
    }

    fn swap(&mut self, me: usize, dice: &mut Dice) {
        let (a, b) = (any_ref(dice), any_ref(dice));
        let in_use = |r: u32| self.pins(me, r as usize).is_some();
        let expected = match (a.max(b) >= 512, a != b && (in_use(a) || in_use(b))) {
            (true, _) => abi::GNTST_BAD_GNTREF,
            (false, true) => abi::GNTST_EAGAIN,
            (false, false) => OKAY,
        };
        let mut op = abi::GnttabSwapGrantRef { ref_a: a, ref_b: b, status: 99, _pad0: 0 };
        if a.max(b) < 512 && a.max(b) as usize >= REFS {
            return;
        }
        assert_eq!(self.sides[me].ask(abi::GNTTABOP_SWAP_GRANT_REF, &mut op), Ok(0));
        assert_eq!(op.status, expected, "swap {op:?}");
        if expected == OKAY {
            self.sides[me].words.swap(a as usize, b as usize);
        }
    }

    /// A frame that a guest might name, rightly or wrongly.
    fn any_frame(&self, me: usize, dice: &mut Dice) -> u64 {
        let side = &self.sides[me];
        let other = &self.sides[(me + 1) % GUESTS];
        match dice.roll(12) {
            0 => dice.pick(&side.home.tables).raw(),
            1 => dice.pick(&other.home.data[1..]).raw(),
            2 => dice.pick(&[0, 3, 511, 520, 600, 0xffff_fffe, 0xffff_ffff, u64::MAX]),
            3 | 4 if !side.loose.is_empty() => dice.pick(&side.loose).raw(),
            _ => dice.pick(&side.home.data[1..]).raw(),
        }
    }

    /// A guest writes an entry of its table, in use or not.
    fn write_entry(&mut self, me: usize, dice: &mut Dice) {
        let reference = dice.roll(REFS as u32) as usize;
        let kind = dice.pick(&[0, 1, 1, 1, 1, 2, 3]);
        let flags = kind | dice.pick(&[0, 0, 0, abi::GTF_READONLY, abi::GTF_SUB_PAGE, dice.0 as u16]);
        let grantee = 1 + u64::from(dice.roll(GUESTS as u32));
        let word = (self.any_frame(me, dice) & 0xffff_ffff) << 32 | grantee << 16 | u64::from(flags);
        self.sides[me].words[reference] = word;
        self.sides[me].word(reference).store(word, SeqCst);
    }

    /// A guest uses a mapping, or takes it away without telling the grant table.
    fn use_spare(&mut self, me: usize, dice: &mut Dice) {
        let slot = dice.roll(SPARES as u32) as usize;
        let side = &mut self.sides[me];
        let hv = side.guest.hv;
        side.guest.run();
        let va = GuestAddr(Side::spare(slot) + 8 * u64::from(dice.roll(512)));
        if dice.roll(4) != 0 {
            let is_writable = side.spares[slot].is_some_and(|(_, writable)| writable);
            assert_eq!(hv.machine.read_guest_word(va).is_ok(), side.spares[slot].is_some());
            assert_eq!(hv.machine.write_guest_word(va, dice.0).is_ok(), is_writable);
            return;
        }
        let root = side.guest.state.kernel_root.unwrap();
        let mut editor = Editor::open(hv, &side.guest.domain).unwrap();
        let rights = editor.own_rights();
        let own = side.home.data[1];
        let is_own = dice.roll(2) == 0;
        let entry = if is_own { Entry::to(own, Entry::PRESENT | Entry::WRITABLE | Entry::USER).0 } else { 0 };
        editor.map_at(root, va, entry, &rights).unwrap();
        drop(editor);
        side.spares[slot] = is_own.then_some((own, true));
        hv.machine.flush();
    }

    fn step(&mut self, dice: &mut Dice) {
        let me = dice.roll(GUESTS as u32) as usize;
        match dice.roll(16) {
            0..=2 => self.write_entry(me, dice),
            3..=6 => self.map(me, dice),
            7..=9 => self.unmap(me, dice),
            10..=11 => self.copy(me, dice),
            12 => self.transfer(me, dice),
            13 => self.swap(me, dice),
            _ => self.use_spare(me, dice),
        }
    }

    /// What the model says, and nothing else, is there.
    fn check(&self) {
        for (n, side) in self.sides.iter().enumerate() {
            let words: Vec<u64> = (0..REFS).map(|r| side.word(r).load(SeqCst)).collect();
            assert_eq!(words, side.words, "the entries of guest {n}");
            let grants = side.guest.domain.grants.lock();
            assert_eq!(grants.mappings() as usize, side.mappings.len(), "the mappings of guest {n}");
            let found: Vec<_> = grants.each_pin().collect();
            let expected: Vec<_> = (0..REFS)
                .filter_map(|r| {
                    let (grantee, frame, readers, writers) = self.pins(n, r)?;
                    let slot = self.sides[grantee].guest.domain.owner.slot().unwrap() as u8;
                    Some((r as u32, frame, slot, readers, writers))
                })
                .collect();
            assert_eq!(found, expected, "the pins of guest {n}");
        }
    }

    /// Every hold on every frame of the machine, counted again.
    fn count(&self) {
        let mut known = Holds::default();
        for side in &self.sides {
            known.add(side.guest.domain.shared_info, true);
            known.add(grant::table_frame(side.guest.hv, &side.guest.domain, 0).unwrap(), true);
            known.add(side.home.tables[0], true);
        }
        for claim in self.claims.values() {
            known.add(claim.frame, claim.writes);
        }
        audit::check(self.sides[0].guest.hv, &known, |owner, frame| {
            let to = self.sides.iter().position(|side| side.guest.domain.owner == owner).unwrap();
            let is_mapped = self.sides[to].spares.iter().flatten().any(|&(mapped, _)| mapped == frame);
            is_mapped || self.claims.values().any(|claim| claim.grantee == to && claim.frame == frame)
        });
    }
}

fn any_ref(dice: &mut Dice) -> u32 {
    if dice.roll(20) == 0 {
        dice.pick(&[REFS as u32, 511, 512, 32767, 1 << 15, u32::MAX])
    } else {
        dice.roll(REFS as u32)
    }
}

fn any_domain(dice: &mut Dice) -> DomId {
    DomId(if dice.roll(12) == 0 { dice.pick(&[0, 9, 0x7ff0, 0xffff]) } else { 1 + dice.roll(GUESTS as u32) as u16 })
}

#[test]
fn every_status_is_the_model_s_and_a_refusal_changes_nothing() {
    for seed in [0x9e37_79b9_7f4a_7c15, 5] {
        let (mut world, mut dice) = (World::new(), Dice(seed));
        for n in 0..OPERATIONS / 2 {
            world.step(&mut dice);
            world.check();
            if n % 256 == 0 {
                world.count();
            }
        }
        world.count();
    }
}

#[test]
fn a_dead_domain_holds_nothing_and_what_it_granted_stays_until_it_is_unmapped() {
    let (mut world, mut dice) = (World::new(), Dice(11));
    (0..4000).for_each(|_| world.step(&mut dice));
    let domain = world.sides[0].guest.domain.clone();
    domain.is_dying.store(true, SeqCst);
    let hv = world.sides[0].guest.hv;
    while grant::release_all(hv, &domain) == Progress::Stopped {}
    assert_eq!(domain.grants.lock().mappings(), 0);
    assert_eq!(domain.grants.lock().size().0, 0);
    assert!(grant::table_frame(hv, &domain, 0).is_err());
    world.sides[0].mappings.clear();
    // The others still hold what it granted, and lose nothing when they give it back.
    for n in 1..GUESTS {
        let others: Vec<_> = world.sides[n].guest.domain.grants.lock().each_pin().collect();
        assert!(others.iter().all(|pin| usize::from(pin.2) != domain.owner.slot().unwrap()));
        while grant::release_all(hv, &world.sides[n].guest.domain) == Progress::Stopped {}
    }
    let mut known = Holds::default();
    for side in &world.sides {
        known.add(side.guest.domain.shared_info, true);
        known.add(side.home.tables[0], true);
    }
    audit::check(hv, &known, audit::nothing_lent);
}

#[test]
fn a_batch_that_is_interrupted_goes_on_where_it_was() {
    let mut world = World::new();
    for r in 0..8 {
        let word = world.sides[1].home.data[1].raw() << 32 | 1 << 16 | u64::from(abi::GTF_PERMIT_ACCESS);
        world.sides[1].word(r).store(word, SeqCst);
    }
    let side = &mut world.sides[0];
    let hv = side.guest.hv;
    let op = |r: u32| GnttabMapGrantRef {
        host_addr: 0,
        flags: abi::GNTMAP_DEVICE_MAP,
        r#ref: r,
        dom: DomId(2),
        status: 99,
        handle: 99,
        dev_bus_addr: 0,
    };
    let mut ops: Vec<_> = (0..8).map(op).collect();
    side.guest.run();
    hv.machine.write_guest(GuestAddr(0), ops.as_bytes()).unwrap();
    hv.cpus[0].work.store(1, SeqCst);
    assert_eq!(side.guest.call(grant_table_op, [u64::from(abi::GNTTABOP_MAP_GRANT_REF), 0, 8, 0]), Ok(0));
    hv.machine.read_guest(GuestAddr(0), ops.as_mut_bytes()).unwrap();
    assert!(ops.iter().enumerate().all(|(n, op)| (op.status, op.handle) == (OKAY, n as u32)));
    let unmaps: Vec<_> = (0..8)
        .map(|handle| abi::GnttabUnmapGrantRef {
            host_addr: 0,
            dev_bus_addr: ops[0].dev_bus_addr,
            handle,
            status: 99,
            _pad0: 0,
        })
        .collect();
    hv.machine.write_guest(GuestAddr(0), unmaps.as_bytes()).unwrap();
    assert_eq!(side.guest.call(grant_table_op, [u64::from(abi::GNTTABOP_UNMAP_GRANT_REF), 0, 8, 0]), Ok(0));
    assert_eq!(side.guest.domain.grants.lock().mappings(), 0);
    world.sides[1].words = core::array::from_fn(|r| world.sides[1].word(r).load(SeqCst));
    world.check();
    world.count();
}

#[test]
fn a_domain_of_one_frame_of_mappings_has_256() {
    let mut world = World::new();
    let frame = world.sides[1].home.data[0];
    let offer = u64::from(abi::GTF_PERMIT_ACCESS) | 1 << 16 | frame.raw() << 32;
    world.sides[1].word(8).store(offer, SeqCst);
    let mut op = GnttabMapGrantRef {
        host_addr: 0,
        flags: abi::GNTMAP_DEVICE_MAP | abi::GNTMAP_READONLY,
        r#ref: 8,
        dom: DomId(2),
        status: 99,
        handle: u32::MAX,
        dev_bus_addr: 0,
    };
    for n in 0..256 {
        assert_eq!((world.sides[0].ask(abi::GNTTABOP_MAP_GRANT_REF, &mut op), op.status, op.handle), (Ok(0), OKAY, n));
    }
    assert_eq!((world.sides[0].ask(abi::GNTTABOP_MAP_GRANT_REF, &mut op), op.status), (Ok(0), abi::GNTST_NO_SPACE));
    // The end of the domain gives all of them back, a bounded number at a time.
    let domain = world.sides[0].guest.domain.clone();
    domain.is_dying.store(true, SeqCst);
    let hv = world.sides[0].guest.hv;
    while grant::release_all(hv, &domain) == Progress::Stopped {}
    assert_eq!((domain.grants.lock().mappings(), world.sides[1].guest.domain.grants.lock().each_pin().count()), (0, 0));
}

#[test]
fn questions_about_tables_are_answered_as_xen_does() {
    let mut world = World::new();
    let side = &mut world.sides[0];
    let mut size =
        abi::GnttabQuerySize { dom: DomId::SELF, _pad0: 0, nr_frames: 0, max_nr_frames: 0, status: 99, _pad1: 0 };
    assert_eq!(side.ask(abi::GNTTABOP_QUERY_SIZE, &mut size), Ok(0));
    assert_eq!((size.status, size.nr_frames, size.max_nr_frames), (OKAY, 1, 4));
    for (dom, status) in [(2, abi::GNTST_PERMISSION_DENIED), (9, abi::GNTST_BAD_DOMAIN)] {
        size.dom = DomId(dom);
        assert_eq!((side.ask(abi::GNTTABOP_QUERY_SIZE, &mut size), size.status), (Ok(0), status));
    }
    for (wish, answer) in [(1, Ok(0)), (2, Err(Errno::NoSys)), (3, Err(Errno::Inval)), (0, Err(Errno::Inval))] {
        let mut version = abi::GnttabSetVersion { version: wish };
        assert_eq!((side.ask(abi::GNTTABOP_SET_VERSION, &mut version), version.version), (answer, 1));
    }
    let mut version = abi::GnttabGetVersion { dom: DomId(2), pad: 0, version: 9 };
    assert_eq!(side.ask(abi::GNTTABOP_GET_VERSION, &mut version), Err(Errno::Perm));
    version.dom = DomId(9);
    assert_eq!(side.ask(abi::GNTTABOP_GET_VERSION, &mut version), Err(Errno::Srch));
    version.dom = DomId::SELF;
    assert_eq!((side.ask(abi::GNTTABOP_GET_VERSION, &mut version), version.version), (Ok(0), 1));
    for (command, answer) in
        [(abi::GNTTABOP_DUMP_TABLE, Errno::NoSys), (abi::GNTTABOP_CACHE_FLUSH, Errno::OpNotSupp), (77, Errno::NoSys)]
    {
        assert_eq!(side.ask(command, &mut [0_u64; 4]), Err(answer));
    }
    let map = u64::from(abi::GNTTABOP_MAP_GRANT_REF);
    assert_eq!(side.guest.call(grant_table_op, [map, 0, 1 << 31, 0]), Err(Errno::Inval));
    assert_eq!(side.guest.call(grant_table_op, [map, 0xffff_8300_0000_0000, 1, 0]), Err(Errno::Fault));
    assert_eq!(side.guest.call(grant_table_op, [map, 0x7000_0000_0000, 1, 0]), Err(Errno::Fault));
    assert_eq!(side.guest.call(grant_table_op, [map, 0x7000_0000_0000, 0, 0]), Ok(0));
}

#[test]
fn a_table_is_set_up_and_its_frames_can_be_mapped_by_its_domain_alone() {
    let mut world = World::new();
    let mut setup =
        abi::GnttabSetupTable { dom: DomId::SELF, _pad0: 0, nr_frames: 3, status: 99, _pad1: [0; 3], frame_list: 512 };
    let side = &mut world.sides[0];
    assert_eq!((side.ask(abi::GNTTABOP_SETUP_TABLE, &mut setup), setup.status), (Ok(0), OKAY));
    let (hv, owner) = (side.guest.hv, side.guest.domain.clone());
    let mut list = [0_u64; 3];
    hv.machine.read_guest(GuestAddr(512), list.as_mut_bytes()).unwrap();
    for (index, mfn) in list.into_iter().enumerate() {
        let frame = grant::table_frame(hv, &owner, index as u32).unwrap();
        assert_eq!(frame.raw(), mfn);
        let entry = Entry::to(frame, Entry::PRESENT | Entry::WRITABLE | Entry::USER).0;
        for (n, is_own) in [(0, true), (1, false)] {
            let side = &world.sides[n];
            let mut editor = Editor::open(side.guest.hv, &side.guest.domain).unwrap();
            let rights = editor.own_rights();
            let root = side.guest.state.kernel_root.unwrap();
            let mapped = editor.map_at(root, GuestAddr(Side::spare(index)), entry, &rights);
            assert_eq!(mapped.is_ok(), is_own);
        }
    }
    setup.nr_frames = 5;
    let side = &mut world.sides[0];
    assert_eq!((side.ask(abi::GNTTABOP_SETUP_TABLE, &mut setup), setup.status), (Ok(0), GENERAL));
    (setup.nr_frames, setup.frame_list) = (1, 0x7000_0000_0000);
    assert_eq!((side.ask(abi::GNTTABOP_SETUP_TABLE, &mut setup), setup.status), (Ok(0), abi::GNTST_BAD_VIRT_ADDR));
}
