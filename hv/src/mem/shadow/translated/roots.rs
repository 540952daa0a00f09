//! Address spaces: which root a vcpu runs on, and what of it is forgotten.

use super::super::{
    super::{Hardware, frame_type::Owner},
    MODES,
};
use crate::{
    addr::{GuestAddr, Mfn},
    mem::Memory,
};
use core::sync::atomic::{AtomicU64, Ordering};
use oxen_abi::errno::Errno;

/// The modes of a vcpu, each with an address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The guest's user mode.
    User = 0,
    /// Its kernel.
    Kernel = 1,
}

/// The number of a vcpu's root.
const fn root_of(vcpu: u32, mode: Mode) -> usize {
    MODES * vcpu as usize + mode as usize
}

/// What of an address space is forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forget {
    /// All that is known of any.
    All,
    /// A page, by a vcpu.
    PageOf(u32, GuestAddr),
    /// A page, by all vcpus.
    Page(GuestAddr),
}

impl<M: Hardware> Memory<M> {
    /// The root of one of a vcpu's address spaces, as the guest numbers it.
    #[must_use]
    pub fn translated_root(&self, owner: Owner, vcpu: u32, mode: Mode) -> Option<u64> {
        self.with_p2m(owner, |translated| translated.roots.get(root_of(vcpu, mode))?.number).flatten()
    }

    /// Has a vcpu run on another root. What is known of address spaces is forgotten.
    ///
    /// # Errors
    /// `Inval` for a vcpu that there cannot be, and for a root that is none of the guest's frames.
    pub fn set_translated_root(&self, owner: Owner, vcpu: u32, mode: Mode, root: Option<u64>) -> Result<(), Errno> {
        self.set_root(owner, root_of(vcpu, mode), root)
    }

    /// The same for the vcpu and the mode for which a CPU has loaded `loaded`.
    ///
    /// # Errors
    /// As [`Self::set_translated_root`].
    pub(in super::super::super) fn show_translated_root(
        &self,
        owner: Owner,
        loaded: Mfn,
        root: Option<u64>,
    ) -> Result<(), Errno> {
        let (_, index) = self.shadow_root(loaded).filter(|(whose, _)| *whose == owner).ok_or(Errno::Inval)?;
        self.set_root(owner, index, root)
    }

    fn set_root(&self, owner: Owner, index: usize, root: Option<u64>) -> Result<(), Errno> {
        let done = self.with_translated(owner, |shadow| {
            let translated = shadow.translated.as_mut()?;
            if root.is_some_and(|gfn| translated.p2m.entry(&self.machine, gfn).is_none()) {
                return None;
            }
            translated.roots.get_mut(index)?.number = root;
            shadow.forget_all(self, owner);
            Some(())
        });
        done.flatten().ok_or(Errno::Inval)
    }

    /// The number of the frame that the tables of a vcpu's kernel have at `va`.
    #[must_use]
    pub fn translated_page(&self, owner: Owner, vcpu: u32, va: GuestAddr) -> Option<u64> {
        let index = root_of(vcpu, Mode::Kernel);
        let leaf =
            self.with_p2m(owner, |translated| translated.walk(self, owner, index, va)?.last().map(|step| step.entry));
        leaf.flatten().filter(|leaf| leaf.is_present()).map(|leaf| leaf.frame_index() as u64)
    }

    /// Forgets translations. A CPU that may know them forgets them afterwards: where all are, here.
    pub fn forget_translations(&self, owner: Owner, what: Forget) {
        self.with_translated(owner, |shadow| match what {
            Forget::All => shadow.forget_all(self, owner),
            Forget::PageOf(vcpu, va) => {
                let first = root_of(vcpu, Mode::User);
                shadow.forget_page(self, first..first + MODES, va);
            }
            Forget::Page(va) => shadow.forget_page(self, 0..shadow.roots.len(), va),
        });
    }

    /// Writes the entry of level 1 for `va` in the tables of a vcpu's kernel.
    ///
    /// # Errors
    /// `Inval` where the tables do not lead to one.
    pub fn write_translated_entry(&self, owner: Owner, vcpu: u32, va: GuestAddr, value: u64) -> Result<(), Errno> {
        let index = root_of(vcpu, Mode::Kernel);
        let written = self.with_p2m(owner, |translated| {
            let place: &AtomicU64 = translated.walk(self, owner, index, va)?.last()?.word;
            place.store(value, Ordering::Release);
            Some(())
        });
        written.flatten().ok_or(Errno::Inval)
    }
}
