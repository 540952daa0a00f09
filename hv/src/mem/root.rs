//! Roots of address spaces and pinned tables: what holds a table although no entry refers to it.

use super::{Hardware, PagingDomain, RamFrame, editor::Editor, frame_type::FrameState};
use crate::{
    addr::{MachineAddr, Mfn},
    hardware::CpuId,
    layout::FIRST_HV_SLOT,
    mem::Memory,
    reply::Stop,
};
use core::sync::atomic::Ordering;
use oxen_abi::{errno::Errno, vm_assist::Assists};

/// What a CPU loads into CR3: a root of the guest's, a shadow of one, or the hypervisor's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct RootAddress(MachineAddr);

impl RootAddress {
    /// A root of the guest's, validated and held, or a shadow of one.
    #[inline]
    #[must_use]
    pub const fn of(root: RamFrame) -> Self {
        Self(root.mfn().address())
    }

    /// As CR3 takes it.
    #[inline]
    #[must_use]
    pub const fn address(self) -> MachineAddr {
        self.0
    }

    /// Its frame.
    #[must_use]
    pub const fn mfn(self) -> Option<Mfn> {
        Mfn::containing(self.0)
    }
}

/// What a CPU loads for the vcpu that is on it: the guest's roots, or shadows of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadedRoots {
    /// For the guest's user mode.
    pub user: RootAddress,
    /// For the guest's kernel.
    pub kernel: RootAddress,
    /// Whether they are shadows.
    pub are_shadows: bool,
}

impl LoadedRoots {
    /// Those of a vcpu that never was on a CPU: none can be loaded.
    pub const NOWHERE: Self = {
        let nowhere = RootAddress(MachineAddr::new(0));
        Self { user: nowhere, kernel: nowhere, are_shadows: false }
    };
}

impl<M: Hardware> Editor<'_, M> {
    /// Holds a frame as a table of `level` in the guest's name, until [`Self::unpin`].
    ///
    /// # Errors
    /// As [`Self::take_table`]; `Inval` if it is pinned already, or the domain is being torn down.
    pub fn pin(&mut self, mfn: Mfn, level: u32) -> Result<(), Stop> {
        self.settle()?;
        if self.domain.is_dying.load(Ordering::Acquire) {
            return Err(Errno::Inval.into());
        }
        let table = self.take_table(mfn, level)?;
        let pinned = self
            .memory
            .frames
            .update(mfn, |state| if state.is_pinned() { Err(Errno::Inval) } else { Ok((state.pinned(), ())) });
        if let Err(error) = pinned {
            self.put_table(table);
            return Err(error.into());
        }
        Ok(())
    }

    /// Ends [`Self::pin`].
    ///
    /// # Errors
    /// `Inval` if the frame is not the domain's or not pinned; `Unfinished` before anything was done.
    pub fn unpin(&mut self, mfn: Mfn) -> Result<(), Stop> {
        self.settle()?;
        self.memory.frames.update(mfn, |state: FrameState| {
            if state.owner() != self.domain.owner || !state.is_pinned() {
                return Err(Errno::Inval);
            }
            Ok((state.unpinned(), ()))
        })?;
        self.put_table(RamFrame::counted(mfn));
        Ok(())
    }

    /// Switches a vcpu, which runs on this CPU, to another address space of its kernel's (`MMUEXT_NEW_BASEPTR`).
    /// `current` is where the vcpu keeps the root of the present one, `loaded` the one that the CPU has for it.
    ///
    /// # Errors
    /// As [`Self::take_table`]; then the old one is still in force.
    #[inline(always)]
    pub fn switch(
        &mut self,
        cpu: CpuId,
        current: &mut Option<RamFrame>,
        loaded: &mut RootAddress,
        root: Mfn,
    ) -> Result<(), Stop> {
        let old = *current;
        if old.is_some_and(|old| old.mfn() == root) {
            self.memory.load_root(cpu, *loaded);
            return Ok(());
        }
        if !self.is_plain() {
            return self.switch_slow(cpu, current, loaded, root);
        }
        let root = self.take_table(root, 4)?;
        *current = Some(root);
        *loaded = RootAddress::of(root);
        self.memory.load_root(cpu, *loaded);
        if let Some(old) = old {
            self.put_table(old);
        }
        Ok(())
    }

    #[cold]
    #[inline(never)]
    fn switch_slow(
        &mut self,
        cpu: CpuId,
        current: &mut Option<RamFrame>,
        loaded: &mut RootAddress,
        root: Mfn,
    ) -> Result<(), Stop> {
        self.settle()?;
        if self.is_translated() {
            self.show_numbered(*loaded, Some(root))?;
            self.memory.load_root(cpu, *loaded);
            return Ok(());
        }
        let root = self.take_table(root, 4)?;
        let old = current.replace(root);
        self.change_loaded(loaded, Some(root));
        self.memory.load_root(cpu, *loaded);
        if let Some(old) = old {
            self.put_table(old);
        }
        Ok(())
    }

    /// Has what a CPU loads be another root of the guest's, or show it.
    #[inline]
    fn change_loaded(&self, loaded: &mut RootAddress, root: Option<RamFrame>) {
        if self.paging.is_shadowed {
            self.show_root(*loaded, root);
        } else {
            *loaded = self.memory.root_address(root);
        }
    }

    /// Switches a vcpu to another address space of its user mode's, or to none (`MMUEXT_NEW_USER_BASEPTR`);
    /// `current` and `loaded` as above.
    ///
    /// # Errors
    /// As [`Self::switch`].
    pub fn switch_user(
        &mut self,
        current: &mut Option<RamFrame>,
        loaded: &mut RootAddress,
        root: Option<Mfn>,
    ) -> Result<(), Stop> {
        if !self.is_plain() && self.has_numbered_user(*loaded, root)? {
            return Ok(());
        }
        let old = *current;
        if old.map(RamFrame::mfn) == root {
            return Ok(());
        }
        let mut taken = None;
        if let Some(root) = root {
            let root = self.take_table(root, 4)?;
            self.memory.hide_from_user_mode(self.domain, root);
            taken = Some(root);
        }
        *current = taken;
        self.change_loaded(loaded, taken);
        if let Some(old) = old {
            self.put_table(old);
        }
        Ok(())
    }
}

impl<M: Hardware> Editor<'_, M> {
    /// Finishes what an earlier call left to be given back. Where the domain's numbers are translated, has what a CPU
    /// has loaded for its user mode show another root. Returns whether that is so.
    #[cold]
    #[inline(never)]
    fn has_numbered_user(&mut self, loaded: RootAddress, root: Option<Mfn>) -> Result<bool, Stop> {
        self.settle()?;
        if self.is_translated() {
            self.show_numbered(loaded, root)?;
        }
        Ok(self.is_translated())
    }

    /// Has what a CPU has loaded show the address space of another root, of which the domain's number is given.
    #[cold]
    #[inline(never)]
    fn show_numbered(&self, loaded: RootAddress, root: Option<Mfn>) -> Result<(), Stop> {
        let loaded = loaded.mfn().ok_or(Errno::Inval)?;
        Ok(self.memory.show_translated_root(self.domain.owner, loaded, root.map(Mfn::raw))?)
    }
}

impl<M: Hardware> Memory<M> {
    /// What a CPU loads for a root of the guest's; for none, the hypervisor's own.
    #[inline]
    pub(super) fn root_address(&self, root: Option<RamFrame>) -> RootAddress {
        root.map_or_else(|| RootAddress(self.machine.own_root()), RootAddress::of)
    }

    /// Takes a frame as the root of an address space of `domain`: a use and a reference, to be kept in a vcpu's
    /// `kernel_root` or `user_root` until [`Self::drop_root`].
    ///
    /// # Errors
    /// As [`Editor::take_table`].
    pub fn adopt_root(&self, domain: &PagingDomain, l4: Mfn) -> Result<RamFrame, Stop> {
        Editor::open(self, domain)?.take_table(l4, 4)
    }

    /// Takes the machine-to-phys table out of a root that is to be user mode's, where the guest wants that
    /// (`VMASST_TYPE_m2p_strict`). The table is all that stands in its slot; the root does
    /// not get it back while it is one.
    pub fn hide_from_user_mode(&self, domain: &PagingDomain, root: RamFrame) {
        if domain.assists(Assists::M2P_STRICT)
            && let Some(word) = self.machine.words(root).get(FIRST_HV_SLOT)
        {
            word.store(0, Ordering::Relaxed);
            self.follow_first_slot(domain, root);
        }
    }

    /// Gives back a root that no CPU has loaded any more.
    ///
    /// # Errors
    /// `Unfinished` before anything was done.
    pub fn drop_root(&self, domain: &PagingDomain, l4: RamFrame) -> Result<(), Stop> {
        Editor::open(self, domain)?.put_table(l4);
        Ok(())
    }

    /// Gives back the roots of a vcpu that does not run, its kernel's and its user mode's; no CPU may have them loaded.
    ///
    /// # Errors
    /// `Unfinished`, with what has been given back taken out: call again.
    pub fn drop_roots(
        &self,
        domain: &PagingDomain,
        kernel: &mut Option<RamFrame>,
        user: &mut Option<RamFrame>,
    ) -> Result<(), Stop> {
        while let Some(root) = user.or(*kernel) {
            self.drop_root(domain, root)?;
            if user.take().is_none() {
                *kernel = None;
            }
        }
        Ok(())
    }
}
