//! The host's memory, devices and hypervisor, as its owner's tools ask for them.

use crate::{addr::Mfn, caller::Caller, machine::Machine, mem::guest_ptr::GuestPtr, pci::Address, reply::Control};
use oxen_abi::{
    errno::Errno,
    sysctl::{LivepatchName, Sysctl, SysctlLivepatchList, SysctlLivepatchOp, SysctlPageOfflineOp, SysctlPcitopoinfo},
};
use zerocopy::{FromBytes, IntoBytes};

impl<M: Machine> Caller<'_, M> {
    /// Whether frames were taken out of use: none is, and none can be. All of them are answered for, up to the first
    /// that there is not.
    pub(super) fn offline_pages(&self, _: Control, request: SysctlPageOfflineOp) -> Result<(), Errno> {
        const OFFLINE: u32 = 1;
        const ONLINE: u32 = 2;
        const QUERY: u32 = 3;
        /// Frames that one call can ask for.
        const MAX_FRAMES: u32 = 4096;
        /// What stands where there is no answer.
        const NO_ANSWER: u32 = 0x0101_0101;
        let more = request.end.checked_sub(request.start).ok_or(Errno::Inval)?;
        if matches!(request.cmd, OFFLINE | ONLINE) {
            return Err(Errno::OpNotSupp);
        }
        if more >= MAX_FRAMES {
            return Err(Errno::NoMem);
        }
        let (hv, count) = (self.hv, u64::from(more) + 1);
        let status = GuestPtr::<u32>::new(request.status, count)?;
        let mut is_sound = true;
        for index in 0..count {
            let mfn = Mfn::new(u64::from(request.start).wrapping_add(index));
            is_sound &= request.cmd == QUERY && mfn.is_some_and(|mfn| self.is_memory_frame(mfn));
            status.write(hv.machine(), index, if is_sound { &0 } else { &NO_ANSWER })?;
        }
        if is_sound { Ok(()) } else { Err(Errno::Inval) }
    }

    /// Whether the firmware says that a frame is memory.
    fn is_memory_frame(&self, mfn: Mfn) -> bool {
        let address = mfn.address().as_u64();
        self.hv.memory.frames.is_ram(mfn) || self.hv.memory_map.ram().any(|range| range.contains(&address))
    }

    /// On which nodes devices sit: it is not told of those that are known, and others are not known.
    pub(super) fn get_device_nodes(&self, _: Control, op: &mut Sysctl) -> Result<(), Errno> {
        /// Devices that one call can ask for.
        const MAX_DEVICES: u32 = 4096;
        /// `XEN_INVALID_NODE_ID`.
        const NO_NODE: u32 = u32::MAX;
        /// `XEN_INVALID_DEV`.
        const UNKNOWN: u32 = u32::MAX - 1;
        let request: SysctlPcitopoinfo = op.get();
        if request.devs == 0 || request.nodes == 0 {
            return Err(Errno::Inval);
        }
        let machine = self.hv.machine();
        let num_devs = request.num_devs.min(MAX_DEVICES);
        let devices = GuestPtr::<u32>::new(request.devs, num_devs.into())?;
        let nodes = GuestPtr::<u32>::new(request.nodes, num_devs.into())?;
        for index in 0..num_devs.into() {
            let [low, high, bus, devfn] = devices.read(machine, index)?.to_le_bytes();
            let function = Address::new(u16::from_le_bytes([low, high]), bus, devfn);
            let is_known = self.hv.memory.pci.lock().is_known(function);
            nodes.write(machine, index, if is_known { &NO_NODE } else { &UNKNOWN })?;
        }
        op.set(&SysctlPcitopoinfo { num_devs, ..request });
        Ok(())
    }

    /// Patches to the hypervisor that runs: there are none, and none can be loaded.
    pub(super) fn livepatch_op(&self, _: Control, op: &mut Sysctl) -> Result<(), Errno> {
        const UPLOAD: u32 = 0;
        const GET: u32 = 1;
        const LIST: u32 = 2;
        const ACTION: u32 = 3;
        let request: SysctlLivepatchOp = op.get();
        if request.pad != 0 {
            return Err(Errno::Inval);
        }
        match request.cmd {
            LIST => {
                let mut list = SysctlLivepatchList::read_from_bytes(request.u.as_bytes()).map_err(|_| Errno::Inval)?;
                if list.pad != 0 {
                    return Err(Errno::Inval);
                }
                (list.version, list.nr, list.name_total_size, list.metadata_total_size) = (1, 0, 0, 0);
                let mut answer = request;
                answer.u.as_mut_bytes().copy_from_slice(list.as_bytes());
                op.set(&answer);
                Ok(())
            }
            UPLOAD => {
                self.check_livepatch_name(&request)?;
                let [_, _, bytes, payload, ..] = request.u;
                if bytes == 0 {
                    return Err(Errno::Inval);
                }
                GuestPtr::<u8>::new(payload, bytes)?.read(self.hv.machine(), 0)?;
                Err(Errno::OpNotSupp)
            }
            GET | ACTION => {
                self.check_livepatch_name(&request)?;
                Err(Errno::NoEnt)
            }
            _ => Err(Errno::OpNotSupp),
        }
    }

    /// A patch's name is text that ends.
    fn check_livepatch_name(&self, request: &SysctlLivepatchOp) -> Result<(), Errno> {
        const MAX_NAME: u16 = 128;
        let (name, _) = LivepatchName::read_from_prefix(request.u.as_bytes()).map_err(|_| Errno::Inval)?;
        if !(1..=MAX_NAME).contains(&name.size) || name.pad != [0; 3] {
            return Err(Errno::Inval);
        }
        let letters = GuestPtr::<u8>::new(name.name, name.size.into())?;
        letters.read(self.hv.machine(), 0)?;
        if letters.read(self.hv.machine(), u64::from(name.size).wrapping_sub(1))? == 0 {
            Ok(())
        } else {
            Err(Errno::Inval)
        }
    }
}

/// Watching and dividing caches and memory's bandwidth: the processor is not asked to.
pub(super) const fn allocation(is_monitoring: bool, command: u32) -> Errno {
    /// The commands of `xen_sysctl_psr_alloc`.
    const LAST: u32 = 2;
    if is_monitoring || command <= LAST { Errno::NoDev } else { Errno::OpNotSupp }
}
