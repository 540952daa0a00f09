//! Roots of address spaces and pinned tables: what holds a table although no entry refers to it.

use super::{editor::Editor, frame_type::FrameState, tlb};
use crate::{
    Hypervisor,
    addr::Mfn,
    caller::Caller,
    domain::{Domain, vcpu::VcpuState},
    layout::FIRST_HV_SLOT,
    machine::Machine,
    reply::Stop,
};
use core::sync::atomic::Ordering;
use oxen_abi::{errno::Errno, vm_assist::VMASST_TYPE_M2P_STRICT};

impl<M: Machine> Editor<'_, M> {
    /// Holds a frame as a table of `level` in the guest's name, until [`Self::unpin`].
    ///
    /// # Errors
    /// As [`Self::take_table`]; `Inval` if it is pinned already, or the domain is being torn down.
    pub fn pin(&mut self, mfn: Mfn, level: u32) -> Result<(), Stop> {
        self.settle()?;
        if self.domain.is_dying.load(Ordering::Acquire) {
            return Err(Errno::Inval.into());
        }
        self.take_table(mfn, level)?;
        let pinned = self
            .hv
            .frames
            .update(mfn, |state| if state.is_pinned() { Err(Errno::Inval) } else { Ok((state.pinned(), ())) });
        if let Err(error) = pinned {
            self.put_table(mfn);
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
        self.hv.frames.update(mfn, |state: FrameState| {
            if state.owner() != self.domain.owner || !state.is_pinned() {
                return Err(Errno::Inval);
            }
            Ok((state.unpinned(), ()))
        })?;
        self.put_table(mfn);
        Ok(())
    }
}

/// Takes a frame as the root of an address space of `domain`: a use and a reference, to be kept in a vcpu's
/// `kernel_root` or `user_root` until [`drop_root`].
///
/// # Errors
/// As [`Editor::take_table`].
pub fn adopt<M: Machine>(hv: &Hypervisor<M>, domain: &Domain, l4: Mfn) -> Result<(), Stop> {
    Editor::open(hv, domain)?.take_table(l4, 4)
}

/// Takes the machine-to-phys table out of a root that is to be user mode's, where the guest wants that
/// (`VMASST_TYPE_m2p_strict`). The table is all that stands in its slot; the root does not get it back while it is one.
pub fn hide_from_user_mode<M: Machine>(hv: &Hypervisor<M>, domain: &Domain, root: Mfn) {
    if domain.assists(VMASST_TYPE_M2P_STRICT)
        && let Some(word) = hv.machine.words(root).get(FIRST_HV_SLOT)
    {
        word.store(0, Ordering::Relaxed);
    }
}

/// Gives back a root that no CPU has loaded any more.
///
/// # Errors
/// `Unfinished` before anything was done.
pub fn drop_root<M: Machine>(hv: &Hypervisor<M>, domain: &Domain, l4: Mfn) -> Result<(), Stop> {
    Editor::open(hv, domain)?.put_table(l4);
    Ok(())
}

/// Gives back the roots of a vcpu that does not run; no CPU may have them loaded.
///
/// # Errors
/// `Unfinished`, with what has been given back forgotten in `state`: call again.
pub fn drop_roots<M: Machine>(hv: &Hypervisor<M>, domain: &Domain, state: &mut VcpuState) -> Result<(), Stop> {
    while let Some(root) = state.user_root.or(state.kernel_root) {
        drop_root(hv, domain, root)?;
        if state.user_root.take().is_none() {
            state.kernel_root = None;
        }
    }
    Ok(())
}

/// Switches the caller's kernel to another address space (`MMUEXT_NEW_BASEPTR`).
///
/// # Errors
/// As [`Editor::take_table`]; then the old one is still in force.
pub fn switch<M: Machine>(caller: &mut Caller<'_, M>, editor: &mut Editor<'_, M>, root: Mfn) -> Result<(), Stop> {
    let old = caller.state.kernel_root;
    if old != Some(root) {
        editor.settle()?;
        editor.take_table(root, 4)?;
        caller.state.kernel_root = Some(root);
    }
    tlb::load_root(caller.hv, caller.cpu, root);
    if let Some(old) = old.filter(|&old| old != root) {
        editor.put_table(old);
    }
    Ok(())
}

/// Switches the caller's user mode to another address space, or to none (`MMUEXT_NEW_USER_BASEPTR`).
///
/// # Errors
/// As [`switch`].
pub fn switch_user<M: Machine>(
    caller: &mut Caller<'_, M>,
    editor: &mut Editor<'_, M>,
    root: Option<Mfn>,
) -> Result<(), Stop> {
    let old = caller.state.user_root;
    if old == root {
        return Ok(());
    }
    editor.settle()?;
    if let Some(root) = root {
        editor.take_table(root, 4)?;
        hide_from_user_mode(caller.hv, caller.domain, root);
    }
    caller.state.user_root = root;
    if let Some(old) = old {
        editor.put_table(old);
    }
    Ok(())
}
