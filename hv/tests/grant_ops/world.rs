//! What should be true: guests, their entries and the claims to them, as the model knows them.

use super::support::{
    Fake,
    audit::{self, Holds},
    boot_with,
    dice::Dice,
    entry_address,
    guest::{Guest, Home},
    on_cpu,
};
use crate::sequence;
use oxen_abi::{
    domid::DomId,
    errno::Errno,
    grant_table::{self as abi},
};
use oxen_hv::{
    Hypervisor,
    addr::{GuestAddr, Mfn},
    caller::Caller,
    grant,
    mem::{RamFrame, Tlb, editor::Editor, entry::Entry as PageEntry, frame_type::FrameType},
};
use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering::SeqCst},
};
use zerocopy::{FromBytes, Immutable, IntoBytes};

pub(crate) const GUESTS: usize = 3;
/// Entries of each table that are played with: the reserved ones and some more.
pub(crate) const REFS: usize = 12;
pub(crate) const RESERVED: usize = abi::GNTTAB_NR_RESERVED_ENTRIES as usize;
pub(crate) const DATA: usize = 8;
/// The L1 slots at which grants are mapped: those after the guest's own pages and tables.
pub(crate) const SPARES: usize = 6;
pub(crate) const FIRST_SPARE: usize = DATA + 4;
/// Mappings that each may hold.
pub(crate) const HANDLES: u32 = 20;
pub(crate) const OKAY: i16 = abi::GNTST_OKAY;
pub(crate) const GENERAL: i16 = abi::GNTST_GENERAL_ERROR;

/// A use of an entry: of a mapping that lives, or of a copy under way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Claim {
    pub(crate) granter: usize,
    pub(crate) grantee: usize,
    pub(crate) reference: usize,
    pub(crate) frame: Mfn,
    pub(crate) writes: bool,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Mapping {
    pub(crate) claim: u32,
    pub(crate) flags: u32,
}

/// An entry: in version 1 the first word alone, its marks in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) head: u64,
    pub(crate) body: u64,
    pub(crate) status: u16,
}

/// One guest, and what should be true of it.
pub(crate) struct Side {
    pub(crate) guest: Guest,
    pub(crate) home: Home,
    pub(crate) version: u32,
    pub(crate) entries: [Entry; REFS],
    pub(crate) mappings: BTreeMap<u32, Mapping>,
    pub(crate) spares: [Option<(Mfn, bool)>; SPARES],
    pub(crate) loose: Vec<Mfn>,
}

pub(crate) struct World {
    pub(crate) sides: Vec<Side>,
    pub(crate) claims: BTreeMap<u32, Claim>,
    pub(crate) next_claim: u32,
}

impl Side {
    fn new(hv: &'static Hypervisor<Fake>, id: u16) -> Self {
        let mut guest = Guest::new(hv, id, false, 40);
        let home = guest.build_home(DATA);
        *guest.domain.grants.lock() = grant::Grants::new(4, 1, 2);
        hv.grow_grant_table(&guest.domain, 1).unwrap();
        let loose = (0..3).map(|_| guest.frame()).collect();
        let (entries, spares) = ([Entry::default(); REFS], [None; SPARES]);
        Self { guest, home, version: 1, entries, mappings: BTreeMap::new(), spares, loose }
    }

    /// Where an entry stands: its first word, and in version 2 the second and the word with its status.
    fn places(&self, reference: usize) -> (&'static AtomicU64, Option<(&'static AtomicU64, &'static AtomicU64)>) {
        let words = |frame: Mfn| self.guest.hv.machine().words(frame);
        let table = words(self.guest.hv.grant_table_frame(&self.guest.domain, 0).unwrap().mfn());
        if self.version == 1 {
            return (&table[reference], None);
        }
        (&table[2 * reference], Some((&table[2 * reference + 1], &words(self.status_frame().unwrap())[reference / 4])))
    }

    pub(crate) fn status_frame(&self) -> Option<Mfn> {
        self.guest.domain.grants.lock().status_frames().first().map(|frame| frame.mfn())
    }

    /// What stands in an entry.
    pub(crate) fn entry(&self, reference: usize) -> Entry {
        let (head, rest) = self.places(reference);
        let (body, status) = rest
            .map_or((0, 0), |(body, status)| (body.load(SeqCst), (status.load(SeqCst) >> (reference % 4 * 16)) as u16));
        Entry { head: head.load(SeqCst), body, status }
    }

    /// The guest writes an entry, in use or not.
    pub(crate) fn write(&mut self, reference: usize, entry: Entry) {
        self.entries[reference] = entry;
        let (head, rest) = self.places(reference);
        head.store(entry.head, SeqCst);
        if let Some((body, status)) = rest {
            body.store(entry.body, SeqCst);
            let shift = reference % 4 * 16;
            let others = status.load(SeqCst) & !(0xffff << shift);
            status.store(others | u64::from(entry.status) << shift, SeqCst);
        }
    }

    /// The guest offers a whole page to a domain, in whichever version its table is.
    pub(crate) fn offer(&mut self, reference: usize, frame: Mfn, to: u16, flags: u16) {
        let head = u64::from(to) << 16 | u64::from(abi::GTF_PERMIT_ACCESS | flags);
        let entry = match self.version {
            1 => Entry { head: head | frame.raw() << 32, ..Entry::default() },
            _ => Entry { head, body: frame.raw(), status: 0 },
        };
        self.write(reference, entry);
    }

    /// One request, by hypercall; what comes back stands in the request.
    pub(crate) fn ask<T: FromBytes + IntoBytes + Immutable>(
        &mut self,
        command: u32,
        request: &mut T,
    ) -> Result<u64, Errno> {
        self.place(request);
        let answer = self.guest.call(Caller::grant_table_op, [u64::from(command), 0, 1, 0]);
        self.guest.hv.machine().read_guest(GuestAddr::new(0), request.as_mut_bytes()).unwrap();
        answer
    }

    /// Writes a request where the guest's calls read it. The CPU marks the tables on the way as accessed and dirty.
    pub(crate) fn place<T: IntoBytes + Immutable>(&mut self, request: &T) {
        self.run();
        self.guest.hv.machine().write_guest(GuestAddr::new(0), request.as_bytes()).unwrap();
    }

    /// Runs the guest, if it does not run already: what the CPU knows then stays.
    pub(crate) fn run(&mut self) {
        let root = self.guest.hv.machine().cpu(0).root;
        if root != self.guest.state.kernel_root.map(RamFrame::mfn) {
            self.guest.run();
        }
    }

    /// Whether the guest can read at the spare slot. If so, the CPU knows the translation then.
    pub(crate) fn can_read(&self, slot: usize) -> bool {
        self.guest.hv.machine().read_guest_word(GuestAddr::new(Self::spare(slot))).is_ok()
    }

    pub(crate) fn spare(slot: usize) -> u64 {
        ((FIRST_SPARE + slot) as u64) << 12
    }

    pub(crate) fn entry_at(&self, slot: usize) -> u64 {
        entry_address(self.home.tables[3], FIRST_SPARE + slot)
    }

    /// Changes the version, which must do.
    pub(crate) fn become_version(&mut self, version: u32) {
        let mut op = abi::GnttabSetVersion { version };
        assert_eq!((self.ask(abi::GNTTABOP_SET_VERSION, &mut op), op.version), (Ok(0), version));
        self.version = version;
        self.entries = core::array::from_fn(|reference| self.entry(reference));
    }
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(grant::Policy::default())
    }

    /// With grant tables as the command line may want them.
    pub(crate) fn with(grants: grant::Policy) -> Self {
        on_cpu(0);
        let hv = boot_with(512, grants);
        let sides = (1..=GUESTS as u16).map(|id| Side::new(hv, id)).collect();
        Self { sides, claims: BTreeMap::new(), next_claim: 0 }
    }

    pub(crate) fn by_id(id: DomId) -> Option<usize> {
        (1..=GUESTS).find(|&n| n == usize::from(id.0)).map(|n| n - 1)
    }

    /// Who uses an entry, of which frame, with how many readers and writers.
    pub(crate) fn pins(&self, granter: usize, reference: usize) -> Option<(usize, Mfn, u64, u64)> {
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

    /// Whether the frame can be used so; the status if not.
    pub(crate) fn can_take(&self, owner: usize, frame: Mfn, writes: bool) -> Result<(), i16> {
        let side = &self.sides[owner];
        let state = side.guest.hv.memory.frames.state(frame);
        if state.owner() != side.guest.domain.owner() || state.refs() == 0 {
            return Err(abi::GNTST_BAD_PAGE);
        }
        if writes && state.uses() != 0 && state.kind() != FrameType::Writable { Err(GENERAL) } else { Ok(()) }
    }

    /// Whether the frame holds status words.
    pub(crate) fn is_status(&self, frame: Mfn) -> bool {
        self.sides.iter().any(|side| side.status_frame() == Some(frame))
    }

    /// Entries of a table of one frame.
    pub(crate) fn entries(&self, side: usize) -> u32 {
        if self.sides[side].version == 1 { 512 } else { 256 }
    }

    /// A frame that a guest might name, rightly or wrongly.
    pub(crate) fn any_frame(&self, me: usize, dice: &mut Dice) -> u64 {
        let side = &self.sides[me];
        let other = &self.sides[(me + 1) % GUESTS];
        match dice.roll(12) {
            0 => dice.pick(&side.home.tables).raw(),
            1 => dice.pick(&other.home.data[1..]).raw(),
            2 => dice.pick(&[0, 3, 511, 520, 600, 0xffff_fffe, 0xffff_ffff, 1 << 32, u64::MAX]),
            3 | 4 if !side.loose.is_empty() => dice.pick(&side.loose).raw(),
            5 if side.version == 2 => side.status_frame().unwrap().raw(),
            _ => dice.pick(&side.home.data[1..]).raw(),
        }
    }

    /// A guest writes an entry of its table, in use or not.
    fn write_entry(&mut self, me: usize, dice: &mut Dice) {
        let reference = dice.roll(REFS as u32) as usize;
        let kind = dice.pick(&[0, 1, 1, 1, 1, 2, 3, 3]);
        let flags = kind | dice.pick(&[0, 0, 0, abi::GTF_READONLY, abi::GTF_SUB_PAGE, dice.0 as u16]);
        let grantee = 1 + u64::from(dice.roll(GUESTS as u32));
        let head = grantee << 16 | u64::from(flags);
        let frame = self.any_frame(me, dice);
        let entry = if self.sides[me].version == 1 {
            Entry { head: head | (frame & 0xffff_ffff) << 32, ..Entry::default() }
        } else if kind == abi::GTF_TRANSITIVE {
            let from = any_domain(dice).0;
            let junk = u64::from(dice.roll(3)) << 32;
            Entry { head: head | u64::from(from) << 32, body: junk | u64::from(any_ref(dice)), status: 0 }
        } else {
            let [first, bytes] =
                [&[0_u16, 8, 100, 4095, 0xffff], &[0_u16, 8, 64, 4096, 0xffff]].map(|of| dice.pick(of));
            let status = dice.pick(&[0, 0, 0, 0, dice.0 as u16]);
            Entry { head: head | u64::from(first) << 32 | u64::from(bytes) << 48, body: frame, status }
        };
        self.sides[me].write(reference, entry);
    }

    /// A guest uses a mapping, or takes it away without telling the grant table.
    fn use_spare(&mut self, me: usize, dice: &mut Dice) {
        let slot = dice.roll(SPARES as u32) as usize;
        self.sides[me].guest.run();
        let side = &self.sides[me];
        let hv = side.guest.hv;
        let va = GuestAddr::new(Side::spare(slot) + 8 * u64::from(dice.roll(512)));
        if dice.roll(4) != 0 {
            let is_writable = side.spares[slot].is_some_and(|(_, writable)| writable);
            assert_eq!(hv.machine().read_guest_word(va).is_ok(), side.spares[slot].is_some());
            // Writing to its own status words is the guest's right, and confuses it alone; here nobody would know.
            let seen = side.spares[slot].map(|(frame, _)| frame);
            if !seen.is_some_and(|frame| self.is_status(frame)) {
                assert_eq!(hv.machine().write_guest_word(va, dice.0).is_ok(), is_writable);
            }
            return;
        }
        let side = &mut self.sides[me];
        let own = match side.status_frame() {
            Some(status) if dice.roll(2) == 0 => status,
            _ => side.home.data[1],
        };
        let root = side.guest.state.kernel_root.unwrap();
        let mut editor = Editor::open(&hv.memory, &side.guest.domain.memory).unwrap();
        let rights = editor.own_rights();
        let is_own = dice.roll(2) == 0;
        let flags = PageEntry::PRESENT | PageEntry::WRITABLE | PageEntry::USER;
        let entry = if is_own { PageEntry::to(own, flags).0 } else { 0 };
        editor.map_at(root, va, entry, &rights).unwrap();
        drop(editor);
        side.spares[slot] = is_own.then_some((own, true));
        hv.machine().flush();
    }

    pub(crate) fn step(&mut self, dice: &mut Dice) -> (usize, &'static str) {
        let me = dice.roll(GUESTS as u32) as usize;
        let (what, operation): (_, fn(&mut Self, usize, &mut Dice)) = match dice.roll(18) {
            0..=2 => ("write_entry", Self::write_entry),
            3..=6 => ("map", Self::map),
            7..=9 => ("unmap", Self::unmap),
            10..=12 => ("copy", Self::copy),
            13 => ("transfer", Self::transfer),
            14 => ("swap", Self::swap),
            15 => ("change_version", Self::change_version),
            _ => ("use_spare", Self::use_spare),
        };
        operation(self, me, dice);
        (me, what)
    }

    /// What the model says, and nothing else, is there.
    pub(crate) fn check(&self) {
        for (n, side) in self.sides.iter().enumerate() {
            let entries: [Entry; REFS] = core::array::from_fn(|reference| side.entry(reference));
            assert_eq!(entries, side.entries, "the entries of guest {n}");
            let grants = side.guest.domain.grants.lock();
            assert_eq!(grants.version(), side.version);
            assert_eq!(grants.mappings() as usize, side.mappings.len(), "the mappings of guest {n}");
            let found: Vec<_> = grants.each_pin().collect();
            let expected: Vec<_> = (0..REFS)
                .filter_map(|r| {
                    let (grantee, frame, readers, writers) = self.pins(n, r)?;
                    let slot = self.sides[grantee].guest.domain.owner().slot().unwrap() as u8;
                    Some((r as u32, frame, slot, readers, writers))
                })
                .collect();
            assert_eq!(found, expected, "the pins of guest {n}");
        }
    }

    /// Every hold on every frame of the machine, counted again.
    pub(crate) fn count(&self) {
        let mut known = Holds::default();
        for side in &self.sides {
            known.add(side.guest.domain.shared_info, true);
            known.add(side.guest.hv.grant_table_frame(&side.guest.domain, 0).unwrap(), true);
            side.guest.domain.grants.lock().status_frames().iter().for_each(|&frame| known.add(frame, true));
            known.add(side.home.tables[0], true);
        }
        for claim in self.claims.values() {
            known.add(claim.frame, claim.writes);
        }
        audit::check(self.sides[0].guest.hv, &known, |owner, frame| {
            let to = self.sides.iter().position(|side| side.guest.domain.owner() == owner).unwrap();
            let is_mapped = self.sides[to].spares.iter().flatten().any(|&(mapped, _)| mapped == frame);
            is_mapped || self.claims.values().any(|claim| claim.grantee == to && claim.frame == frame)
        });
    }
}

impl sequence::World for World {
    fn begin() -> Self {
        Self::new()
    }

    fn act(&mut self, seed: u64) -> String {
        let (me, what) = self.step(&mut Dice(seed));
        self.check();
        self.count();
        format!("guest {me}: {what}")
    }

    fn end(self) {}
}

pub(crate) fn any_ref(dice: &mut Dice) -> u32 {
    if dice.roll(20) == 0 {
        dice.pick(&[REFS as u32, 255, 256, 511, 512, 32767, 1 << 15, u32::MAX])
    } else {
        dice.roll(REFS as u32)
    }
}

pub(crate) fn any_domain(dice: &mut Dice) -> DomId {
    DomId(if dice.roll(12) == 0 { dice.pick(&[0, 9, 0x7ff0, 0xffff]) } else { 1 + dice.roll(GUESTS as u32) as u16 })
}
