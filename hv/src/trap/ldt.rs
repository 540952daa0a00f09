//! The LDT: its pages become descriptor pages as segments of it are loaded.

use super::vector;
use crate::{
    addr::{GuestAddr, PAGE_BYTES},
    caller::Caller,
    machine::Machine,
    mem::editor::Editor,
    reply::Stop,
};
use oxen_abi::errno::Errno;

/// A selector's bit that names the LDT (Intel SDM vol. 3A, 3.4.2).
const TABLE_INDICATOR: u64 = 1 << 2;

impl<M: Machine> Caller<'_, M> {
    /// The guest used the descriptor at `offset` of its LDT, in a page that no CPU shows yet.
    #[cold]
    pub fn ldt_fault(&mut self, offset: u64, error_code: u32) {
        match self.take_ldt_page(offset as usize / PAGE_BYTES) {
            // Taken, or to be tried again: the instruction is executed once more.
            Ok(_) | Err(Stop::Unfinished) => {}
            Err(Stop::Refused(_) | Stop::Fatal(_)) => {
                self.state.info.set_cr2(self.state.ldt_base.wrapping_add(offset));
                self.inject(vector::PAGE_FAULT, Some(error_code));
            }
        }
    }

    /// Takes the page of a selector's descriptor, if it is in the LDT. Returns whether it
    /// is there now and was not before.
    pub fn take_ldt_page_of(&mut self, selector: u64) -> bool {
        selector & TABLE_INDICATOR != 0 && self.take_ldt_page((selector & 0xfff8) as usize / PAGE_BYTES) == Ok(true)
    }

    /// Takes a page of the LDT. Returns whether it was not there before.
    fn take_ldt_page(&mut self, page: usize) -> Result<bool, Stop> {
        let start = page * PAGE_BYTES;
        let place = self.state.ldt.get_mut(page).ok_or(Errno::Inval)?;
        if start >= usize::from(self.state.ldt_entries) * 8 {
            return Err(Errno::Inval.into());
        }
        if place.is_some() {
            return Ok(false);
        }
        let (root, vcpu) = (self.state.kernel_root, self.vcpu.id);
        let va = GuestAddr::new(self.state.ldt_base.wrapping_add(start as u64));
        *place = Some(Editor::open(&self.hv.memory, &self.domain.memory)?.take_mapped_descriptors(root, vcpu, va)?);
        self.hv.machine().load_descriptor_tables(self.state);
        Ok(true)
    }
}
