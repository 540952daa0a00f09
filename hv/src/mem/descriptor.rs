//! Segment descriptors that a guest may have, and the frames that hold them (Intel SDM vol. 3A, 3.4.5).

use super::{
    Hardware, RamFrame,
    editor::Editor,
    entry::Entry,
    frame_type::{Acquired, FrameState, FrameType, Released},
};
use crate::addr::{GuestAddr, MachineAddr, Mfn, Slot};
use core::sync::atomic::Ordering;
use oxen_abi::{
    errno::Errno,
    segments::{FIRST_RESERVED_GDT_PAGE, FLAT_KERNEL_CS},
};
use x86_64::structures::gdt::DescriptorFlags;

/// The frames of a guest's GDT, each held as a descriptor page.
pub type Gdt = [Option<RamFrame>; FIRST_RESERVED_GDT_PAGE];

const TYPE: u64 = 0xf << 40;
/// The type of a 64-bit call gate.
const CALL_GATE: u64 = 0xc << 40;
/// What must be zero in the same word of one, above its target's offset.
const CALL_GATE_RESERVED: u64 = 0xff << 32;
/// The first selector of the GDT that is the hypervisor's.
const FIRST_RESERVED_SELECTOR: u64 = (FIRST_RESERVED_GDT_PAGE as u64) << 12;
const TABLE_INDICATOR: u64 = 1 << 2;
/// In a gate: its target is a segment of ring 3.
const SELECTOR_RING_3: u64 = 3 << 16;

/// A descriptor as the CPU may see it: a guest's kernel runs in ring 3, so its segments are opened to ring
/// 3. A call gate is closed to it: who uses one is told so by the fault that names it, and the guest's
/// kernel does what it likes then.
///
/// # Errors
/// `Inval` for other gates and system segments, which would lead into the hypervisor, and for a call gate to a segment
/// of the hypervisor's but [`FLAT_KERNEL_CS`].
pub const fn check(descriptor: u64) -> Result<u64, Errno> {
    let flags = DescriptorFlags::from_bits_retain(descriptor);
    if !flags.contains(DescriptorFlags::PRESENT) {
        return Ok(descriptor);
    }
    if !flags.contains(DescriptorFlags::USER_SEGMENT) {
        // Type 0 is the upper half of something larger, and loads as nothing.
        return match descriptor & TYPE {
            0 => Ok(descriptor),
            CALL_GATE if is_guests_target(descriptor) => {
                Ok(flags.difference(DescriptorFlags::DPL_RING_3).bits() | SELECTOR_RING_3)
            }
            _ => Err(Errno::Inval),
        };
    }
    Ok(flags.union(DescriptorFlags::DPL_RING_3).bits())
}

const fn is_guests_target(gate: u64) -> bool {
    let selector = gate >> 16 & 0xffff;
    let is_guests =
        selector < FIRST_RESERVED_SELECTOR || selector == FLAT_KERNEL_CS as u64 || selector & TABLE_INDICATOR != 0;
    is_guests && gate & CALL_GATE_RESERVED == 0
}

impl<M: Hardware> Editor<'_, M> {
    /// Takes a frame of the domain as a descriptor page: checks all of it and keeps the guest from writing to it, until
    /// [`Self::put_descriptors`].
    ///
    /// # Errors
    /// `Inval` if it is not the domain's, is in use as something else, or holds what [`check`] refuses; the descriptors
    /// before that one are then already as the CPU may see them, as on Xen.
    pub fn take_descriptors(&self, mfn: Mfn) -> Result<RamFrame, Errno> {
        let owner = self.domain.owner;
        match self.memory.frames.acquire(mfn, owner, FrameType::Descriptor).map_err(|_| Errno::Inval)? {
            Acquired::Ready | Acquired::Changed => return Ok(RamFrame::counted(mfn)),
            Acquired::Unvalidated { retyped } => {
                if retyped {
                    self.flush_stale_use(mfn, owner);
                }
            }
        }
        let page = RamFrame::counted(mfn);
        for word in self.memory.machine.words(page) {
            let descriptor = word.load(Ordering::Relaxed);
            match check(descriptor) {
                Ok(fixed) if fixed != descriptor => word.store(fixed, Ordering::Relaxed),
                Ok(_) => {}
                Err(error) => {
                    self.end_descriptors(page);
                    return Err(error);
                }
            }
        }
        self.memory.mark_written(owner, mfn);
        self.memory.frames.change(page, FrameState::validated);
        Ok(page)
    }

    /// Takes the frame that is mapped at `va`, a page of the guest's LDT.
    ///
    /// # Errors
    /// `Fault` if nothing is mapped there, else as [`Self::take_descriptors`].
    pub fn take_mapped_descriptors(&self, root: Option<RamFrame>, vcpu: u32, va: GuestAddr) -> Result<RamFrame, Errno> {
        if self.is_translated() {
            let number = self.memory.translated_page(self.domain.owner, vcpu, va).ok_or(Errno::Fault)?;
            return self.take_descriptors(self.memory.frame_to_read(self.domain.owner, number)?);
        }
        let root = root.ok_or(Errno::Fault)?;
        let mapping = Entry(self.find(root, va).ok_or(Errno::Fault)?.word.load(Ordering::Relaxed));
        let mfn = mapping.mfn().filter(|_| mapping.is_present()).ok_or(Errno::Fault)?;
        self.take_descriptors(mfn)
    }

    /// Gives back a descriptor page that no CPU shows any more.
    pub fn put_descriptors(&self, page: RamFrame) {
        let must_end = self.memory.frames.change_with(page, |state| match state.release_means() {
            Released::InUse | Released::Idle => (state.release(), false),
            Released::MustDevalidate => (state.partial(), true),
        });
        if must_end == Some(true) {
            self.end_descriptors(page);
        }
    }

    fn end_descriptors(&self, page: RamFrame) {
        self.memory.frames.stamp(page.mfn());
        self.memory.frames.change(page, FrameState::devalidated);
        self.memory.frames.put(page.mfn());
    }

    /// Takes the frames of a GDT as descriptor pages: all of them, or none.
    ///
    /// # Errors
    /// As [`Self::take_descriptors`]; `Inval` for more frames than a guest's GDT may have.
    pub fn take_gdt(&self, frames: &[u64]) -> Result<Gdt, Errno> {
        let mut gdt = [None; FIRST_RESERVED_GDT_PAGE];
        if frames.len() > gdt.len() {
            return Err(Errno::Inval);
        }
        for (place, &frame) in gdt.iter_mut().zip(frames) {
            match self.descriptor_frame(frame).and_then(|mfn| self.take_descriptors(mfn)) {
                Ok(page) => *place = Some(page),
                Err(error) => {
                    self.put_gdt(gdt);
                    return Err(error);
                }
            }
        }
        Ok(gdt)
    }

    /// The frame that a guest names as a page of descriptors.
    fn descriptor_frame(&self, number: u64) -> Result<Mfn, Errno> {
        if self.is_translated() {
            return self.memory.frame_to_read(self.domain.owner, number);
        }
        Mfn::new(number).ok_or(Errno::Inval)
    }

    /// Gives back the frames of a GDT that no CPU shows any more.
    pub fn put_gdt(&self, gdt: Gdt) {
        for page in gdt.into_iter().flatten() {
            self.put_descriptors(page);
        }
    }

    /// Writes one descriptor into a frame of the domain, be it a descriptor page or any other that could be written to
    /// (`update_descriptor`).
    ///
    /// # Errors
    /// `Inval` for a bad descriptor, an unaligned address, or a frame that cannot be written.
    #[inline(always)]
    pub fn write_descriptor(&self, address: MachineAddr, descriptor: u64) -> Result<(), Errno> {
        let slot = Slot::at_offset(address.offset()).ok_or(Errno::Inval)?;
        let mfn = Mfn::containing(address).ok_or(Errno::Inval)?;
        let fixed = check(descriptor)?;
        let state = self.memory.frames.state(mfn);
        if state.owner() != self.domain.named() {
            return Err(Errno::Inval);
        }
        self.write_judged_descriptor(mfn, state, slot, fixed)
    }

    /// The same where the address is one of the domain's memory, which is translated; what that refuses is `refusal`
    /// where it is not.
    ///
    /// # Errors
    /// As [`Self::write_descriptor`].
    #[cold]
    #[inline(never)]
    pub fn write_translated_descriptor(
        &self,
        address: MachineAddr,
        descriptor: u64,
        refusal: Errno,
    ) -> Result<(), Errno> {
        let number = Mfn::containing(address).filter(|_| self.is_translated()).ok_or(refusal)?;
        let (slot, fixed) = (Slot::at_offset(address.offset()).ok_or(refusal)?, check(descriptor)?);
        let (mfn, _) = self.memory.meant(self.domain.named(), number).ok_or(refusal)?;
        self.write_judged_descriptor(mfn, self.memory.frames.state(mfn), slot, fixed)
    }

    /// Writes a descriptor that was judged into a frame of the domain.
    #[inline(always)]
    fn write_judged_descriptor(&self, mfn: Mfn, state: FrameState, slot: Slot, fixed: u64) -> Result<(), Errno> {
        let write = |frame: RamFrame| slot.of(self.memory.machine.words(frame)).store(fixed, Ordering::Release);
        if state.kind() == FrameType::Descriptor && state.uses() != 0 && state.is_validated() {
            write(RamFrame::counted(mfn));
            self.memory.mark_written(self.domain.owner, mfn);
        } else {
            let held = self.memory.hold_writable(mfn, self.domain.owner).map_err(|_| Errno::Inval)?;
            write(held.frame());
            self.memory.note_written(held.frame());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::check;
    use oxen_abi::errno::Errno;

    #[test]
    fn segments_are_opened_to_ring_3_and_gates_are_refused() {
        assert_eq!(check(0x00af_9b00_0000_ffff), Ok(0x00af_fb00_0000_ffff));
        assert_eq!(check(0x00cf_f300_0000_ffff), Ok(0x00cf_f300_0000_ffff));
        assert_eq!(check(0x0040_f500_0000_0000), Ok(0x0040_f500_0000_0000));
        assert_eq!(check(0), Ok(0));
        for system in (1..16_u64).filter(|&system| system != 0xc) {
            assert_eq!(check(1 << 47 | system << 40), Err(Errno::Inval), "type {system}");
        }
    }

    #[test]
    fn call_gates_are_closed_and_lead_to_the_guest_alone() {
        const GATE: u64 = 0x0000_ec00_0000_0000;
        for selector in [0x8, 0x1003, 0xdfff, 0xe033, 0xe00c, 0xfff7] {
            let gate = GATE | 0x1234 << 48 | selector << 16 | 0x5678;
            assert_eq!(check(gate), Ok(gate & !(3 << 45) | 3 << 16), "{selector:#x}");
            assert_eq!(check(gate | 1 << 32), Err(Errno::Inval), "parameters");
        }
        for selector in [0xe000, 0xe008, 0xe02b, 0xe030, 0xfff8] {
            assert_eq!(check(GATE | selector << 16), Err(Errno::Inval), "{selector:#x}");
        }
    }
}
