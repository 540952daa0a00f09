//! The machine's size and shape, as a toolstack asks for it. It is one socket and one memory node.

use crate::hypercall::number::{index, long};
use crate::{addr::PAGE_SIZE, caller::Caller, machine::Machine, mem::guest_ptr::GuestPtr, reply::Control};
use oxen_abi::{
    errno::Errno,
    sysctl::{
        Capabilities, Sysctl, SysctlAvailheap, SysctlCpuinfo, SysctlCputopo, SysctlCputopoinfo, SysctlGetcpuinfo,
        SysctlMeminfo, SysctlNumainfo, SysctlPhysinfo,
    },
};

/// The distance from a memory node to itself, as ACPI has it.
const OWN_DISTANCE: u32 = 10;

/// Where a processor sits that does not run (`XEN_INVALID_CORE_ID`, `XEN_INVALID_SOCKET_ID`, `XEN_INVALID_NODE_ID`).
const NOWHERE: SysctlCputopo = SysctlCputopo { core: u32::MAX, socket: u32::MAX, node: u32::MAX };

impl<M: Machine> Caller<'_, M> {
    /// What `xl info` shows.
    pub(super) fn get_physical_info(&self, _: Control) -> SysctlPhysinfo {
        let hv = self.hv;
        let online = hv.online_mask();
        let processors = online.count_ones();
        let khz = hv.machine().frequency() / 1000;
        let [_, _, c1, d1] = hv.machine().cpuid(1, 0);
        let [_, _, ce1, de1] = hv.machine().cpuid(0x8000_0001, 0);
        let [ad1, ..] = hv.machine().cpuid(0xd, 1);
        let [_, b7, c7, _] = hv.machine().cpuid(7, 0);
        let [_, _, _, de7] = hv.machine().cpuid(0x8000_0007, 0);
        let v2 = if hv.grants.max_version < 2 { Capabilities::empty() } else { Capabilities::GNTTAB_V2 };
        SysctlPhysinfo {
            threads_per_core: 1,
            cores_per_socket: processors,
            nr_cpus: processors,
            max_cpu_id: online.checked_ilog2().unwrap_or(0),
            nr_nodes: 1,
            max_node_id: 0,
            cpu_khz: u32::try_from(khz).unwrap_or(u32::MAX),
            capabilities: (Capabilities::PV | Capabilities::GNTTAB_V1 | v2).bits(),
            arch_capabilities: 0,
            pad: 0,
            total_pages: hv.memory.frames.ram().into(),
            free_pages: hv.memory.frames.free_frames().into(),
            scrub_pages: 0,
            outstanding_pages: hv.memory.frames.claimed().into(),
            max_mfn: long(hv.memory.frames.end()).saturating_sub(1),
            hw_cap: [d1, c1, de1, ce1, ad1, b7, c7, de7],
        }
    }

    /// How long each processor had nothing to do.
    pub(super) fn get_idle_times(&self, _: Control, op: &mut Sysctl) -> Result<(), Errno> {
        let request: SysctlGetcpuinfo = op.get();
        let hv = self.hv;
        let list = GuestPtr::<SysctlCpuinfo>::new(request.info, request.max_cpus.into())?;
        let mut count = 0_u32;
        for shared in hv.online_cpus().filter_map(|cpu| hv.cpu(cpu)).take(index(request.max_cpus)) {
            list.write(hv.machine(), count.into(), &SysctlCpuinfo { idletime: shared.idle_time() })?;
            count = count.wrapping_add(1);
        }
        op.set(&SysctlGetcpuinfo { nr_cpus: count, ..request });
        Ok(())
    }

    pub(super) fn get_free_memory(&self, _: Control, op: &mut Sysctl) -> Result<(), Errno> {
        let request: SysctlAvailheap = op.get();
        // A node that there is not has nothing.
        let is_known = matches!(request.node, -1 | 0);
        let avail_bytes = if is_known { u64::from(self.hv.memory.frames.free_frames()) * PAGE_SIZE } else { 0 };
        op.set(&SysctlAvailheap { avail_bytes, ..request });
        Ok(())
    }

    /// Where the processors sit; a null pointer asks for their number.
    pub(super) fn get_processor_topology(&self, _: Control, op: &mut Sysctl) -> Result<(), Errno> {
        let request: SysctlCputopoinfo = op.get();
        let online = self.hv.online_mask();
        let count = u64::BITS.wrapping_sub(online.leading_zeros());
        let told = if request.cputopo == 0 { count } else { count.min(request.num_cpus) };
        if request.cputopo != 0 {
            let list = GuestPtr::<SysctlCputopo>::new(request.cputopo, told.into())?;
            for core in 0..told {
                let place = if online >> core & 1 != 0 { SysctlCputopo { core, socket: 0, node: 0 } } else { NOWHERE };
                list.write(self.hv.machine(), core.into(), &place)?;
            }
        }
        op.set(&SysctlCputopoinfo { num_cpus: told, ..request });
        Ok(())
    }

    /// The one memory node, as far as there is room for one; null pointers ask for the number.
    pub(super) fn get_node_info(&self, _: Control, op: &mut Sysctl) -> Result<(), Errno> {
        let request: SysctlNumainfo = op.get();
        let machine = self.hv.machine();
        let frames = &self.hv.memory.frames;
        if (request.meminfo != 0 || request.distance != 0) && request.num_nodes == 0 {
            return Ok(());
        }
        if request.meminfo != 0 {
            let memsize = u64::from(frames.ram()) * PAGE_SIZE;
            let memfree = u64::from(frames.free_frames()) * PAGE_SIZE;
            GuestPtr::one(request.meminfo)?.write(machine, 0, &SysctlMeminfo { memsize, memfree })?;
        }
        if request.distance != 0 {
            GuestPtr::one(request.distance)?.write(machine, 0, &OWN_DISTANCE)?;
        }
        op.set(&SysctlNumainfo { num_nodes: 1, ..request });
        Ok(())
    }
}
