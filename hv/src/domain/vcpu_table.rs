//! A domain's vcpus, and where each has its `vcpu_info` until its guest chooses a place.

use super::vcpu::Vcpu;
use crate::{
    addr::PAGE_BYTES,
    config::MAX_VCPUS,
    heap::{self, Reserve},
    mem::{Hardware, Memory, Ram, RamFrame},
    shared_info::{VCPU_INFO_BYTES, VcpuInfoPlace},
};
use alloc::{boxed::Box, sync::Arc};
use oxen_abi::{errno::Errno, segments::XEN_LEGACY_MAX_VCPUS};
use spin::Once;

/// `vcpu_info`s that fit into a frame.
const INFOS: usize = PAGE_BYTES / VCPU_INFO_BYTES;
/// Frames of those that `shared_info` has no room for, in a domain with all vcpus that one can have.
const INFO_FRAMES: usize = (MAX_VCPUS - XEN_LEGACY_MAX_VCPUS).div_ceil(INFOS);

const _: () = assert!(XEN_LEGACY_MAX_VCPUS * VCPU_INFO_BYTES <= PAGE_BYTES);

type Cell = Once<Arc<Vcpu>>;

/// The vcpus of a domain, as far as they were created. A created vcpu stays until the domain goes.
#[derive(Debug)]
pub(crate) struct VcpuTable {
    near: [Cell; XEN_LEGACY_MAX_VCPUS],
    /// The others that the domain may have.
    far: Box<[Cell]>,
    /// The hypervisor's own frames with the `vcpu_info` of those: their guest brings each to a place of its own before
    /// it starts the vcpu, but a vcpu that a toolstack starts needs one before.
    infos: [Once<RamFrame>; INFO_FRAMES],
}

impl VcpuTable {
    /// Room for `count` vcpus.
    ///
    /// # Errors
    /// `NoMem` without memory for it.
    pub(crate) fn new(machine: &impl Reserve, count: usize) -> Result<Self, Errno> {
        let far = match count.checked_sub(XEN_LEGACY_MAX_VCPUS) {
            None | Some(0) => Box::default(),
            Some(far) => heap::row(machine, far, |_| Once::new())?,
        };
        Ok(Self {
            near: [const { Once::new() }; XEN_LEGACY_MAX_VCPUS],
            far,
            infos: [const { Once::new() }; INFO_FRAMES],
        })
    }

    /// Where the vcpu with this number is or will be.
    #[inline]
    pub(crate) fn cell(&self, id: u32) -> Option<&Cell> {
        let id = id as usize;
        self.near.get(id).or_else(|| self.far.get(id.checked_sub(XEN_LEGACY_MAX_VCPUS)?))
    }

    /// The vcpus that there are.
    pub(crate) fn each(&self) -> impl Iterator<Item = &Arc<Vcpu>> {
        self.near.iter().chain(&self.far).filter_map(Once::get)
    }

    /// The first place of a vcpu's `vcpu_info`, with events masked where it is new.
    ///
    /// # Errors
    /// `Inval` for a number that no vcpu has, `NoMem` without a frame.
    pub(crate) fn make_info(
        &self,
        memory: &Memory<impl Hardware>,
        shared_info: RamFrame,
        id: u32,
    ) -> Result<VcpuInfoPlace, Errno> {
        if let Some(far) = (id as usize).checked_sub(XEN_LEGACY_MAX_VCPUS) {
            self.infos.get(far / INFOS).ok_or(Errno::Inval)?.try_call_once(|| memory.take_own(0))?;
        }
        let place = self.info(&memory.machine, shared_info, id).ok_or(Errno::Inval)?;
        place.set_upcall_mask(true);
        Ok(place)
    }

    /// The first place of a vcpu's `vcpu_info`.
    pub(crate) fn info(&self, memory: &impl Ram, shared_info: RamFrame, id: u32) -> Option<VcpuInfoPlace> {
        match (id as usize).checked_sub(XEN_LEGACY_MAX_VCPUS) {
            None => VcpuInfoPlace::new(memory, shared_info, id as usize * VCPU_INFO_BYTES),
            Some(far) => {
                VcpuInfoPlace::new(memory, *self.infos.get(far / INFOS)?.get()?, far % INFOS * VCPU_INFO_BYTES)
            }
        }
    }

    /// Gives the frames back. No vcpu runs any more, and no event is raised: the domain is dead.
    pub(crate) fn give_back_infos(&self, memory: &Memory<impl Hardware>) {
        self.infos.iter().filter_map(Once::get).for_each(|&frame| memory.give_back_own(frame.mfn()));
    }
}
