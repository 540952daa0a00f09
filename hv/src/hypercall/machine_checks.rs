//! `mca`: what the control domain is told of machine checks (`arch-x86/xen-mca.h`). None is ever recorded.

use super::number::ushort;
use crate::{
    caller::Caller,
    cpu_model::CpuModel,
    machine::Machine,
    mem::guest_ptr::GuestPtr,
    reply::{Args, Reply},
};
use oxen_abi::{
    errno::Errno,
    machine_check::{
        Mca, McaFetch, McaInjectV2, McaLogicalCpu, McaMceinject, McaMsrinject, McaPhyscpuinfo, XEN_MC_ACK,
        XEN_MC_FETCH, XEN_MC_INJECT_CPU_BROADCAST, XEN_MC_INJECT_TYPE_MASK, XEN_MC_INJECT_TYPE_MCE, XEN_MC_INJECT_V2,
        XEN_MC_MCEINJECT, XEN_MC_MSRINJECT, XEN_MC_NODATA, XEN_MC_NONURGENT, XEN_MC_PHYSCPUINFO, XEN_MC_URGENT,
        XEN_MCA_INTERFACE_VERSION,
    },
};
use zerocopy::FromZeros;

impl<M: Machine> Caller<'_, M> {
    /// `mca(request)`.
    ///
    /// # Errors
    /// `Perm` for everybody but the control domain, `Fault`, `Acces` for another version of the interface, `Inval` for
    /// what cannot be: machine checks are not passed on, and no errors are made up for them.
    #[inline(never)]
    pub fn mca(&mut self, args: &mut Args) -> Reply {
        self.control()?;
        let machine = self.hv.machine();
        let place = GuestPtr::<Mca>::one(args[0])?;
        let mut op = place.read(machine, 0)?;
        if op.interface_version != XEN_MCA_INTERFACE_VERSION {
            return Err(Errno::Acces.into());
        }
        match op.cmd {
            XEN_MC_FETCH => {
                let request: McaFetch = op.get();
                // It is about one of the two kinds.
                match request.flags & (XEN_MC_NONURGENT | XEN_MC_URGENT) {
                    XEN_MC_NONURGENT | XEN_MC_URGENT if request.flags & XEN_MC_ACK != 0 => return Ok(0),
                    XEN_MC_NONURGENT | XEN_MC_URGENT if request.data != 0 => {
                        op.set(&McaFetch { flags: XEN_MC_NODATA, fetch_id: 0, ..request });
                    }
                    _ => return Err(Errno::Inval.into()),
                }
            }
            XEN_MC_PHYSCPUINFO => {
                let request: McaPhyscpuinfo = op.get();
                let online = self.hv.online_mask().count_ones();
                if request.info == 0 {
                    op.set(&McaPhyscpuinfo { ncpus: online, ..request });
                } else {
                    if request.ncpus == 0 {
                        return Err(Errno::Inval.into());
                    }
                    let told = request.ncpus.min(online);
                    let list = GuestPtr::<McaLogicalCpu>::new(request.info, told.into())?;
                    let numbers = (0..).filter(|number| self.hv.online_mask() >> number & 1 != 0);
                    for (index, number) in (0..told.into()).zip(numbers) {
                        list.write(machine, index, &self.describe_processor(number))?;
                    }
                    op.set(&McaPhyscpuinfo { ncpus: told, ..request });
                }
            }
            // No register reads otherwise than it is: all that can be asked for is nothing.
            XEN_MC_MSRINJECT => {
                let McaMsrinject { cpu, count, .. } = op.get();
                if !self.is_online(cpu) || count != 0 {
                    return Err(Errno::Inval.into());
                }
            }
            // A machine check for which no bank holds an error leaves nothing behind.
            XEN_MC_MCEINJECT => {
                let McaMceinject { cpu } = op.get();
                if !self.is_online(cpu) {
                    return Err(Errno::Inval.into());
                }
            }
            // As with the one before. The other interrupts need what no processor here has.
            XEN_MC_INJECT_V2 => {
                let McaInjectV2 { flags, cpumap, .. } = op.get();
                let is_anywhere = flags & XEN_MC_INJECT_CPU_BROADCAST != 0
                    || self.read_cpu_bitmap(&cpumap)? & self.hv.online_mask() != 0;
                if !is_anywhere || flags & XEN_MC_INJECT_TYPE_MASK != XEN_MC_INJECT_TYPE_MCE {
                    return Err(Errno::Inval.into());
                }
            }
            _ => return Err(Errno::Inval.into()),
        }
        place.write(machine, 0, &op)?;
        Ok(0)
    }

    fn is_online(&self, cpu: u32) -> bool {
        self.hv.online_mask().checked_shr(cpu).is_some_and(|mask| mask & 1 != 0)
    }

    /// A processor as CPUID tells of it.
    fn describe_processor(&self, number: u32) -> McaLogicalCpu {
        let machine = self.hv.machine();
        let [max, b, c, d] = machine.cpuid(0, 0);
        let [_, _, c1, d1] = machine.cpuid(1, 0);
        let CpuModel { family, model, stepping, .. } = CpuModel::of(machine);
        let mut vendor = [0; 16];
        for (place, byte) in vendor.iter_mut().zip([b, d, c].iter().flat_map(|word| word.to_le_bytes())) {
            *place = byte;
        }
        McaLogicalCpu {
            number,
            chip_id: 0,
            core_id: ushort(number.into()),
            thread_id: 0,
            apic_id: number,
            cluster_id: 0,
            cores: 1,
            active_cores: 1,
            threads: 1,
            cpuid_level: max,
            features: [d1, 0, 0, 0, c1, 0, 0],
            vendor,
            family,
            model,
            stepping,
            ..McaLogicalCpu::new_zeroed()
        }
    }
}
