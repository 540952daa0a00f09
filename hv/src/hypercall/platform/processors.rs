//! Processors, as `platform_op` tells of them and is told of them.

use crate::hypercall::number::{uint, ushort};
use crate::{
    addr::PAGE_BYTES,
    caller::Caller,
    cpu_model::{CpuModel, Vendor},
    hardware::CpuId,
    machine::Machine,
    mem::guest_ptr::GuestPtr,
};
use core::ops::RangeInclusive;
use oxen_abi::{
    errno::Errno,
    platform::{
        PlatformOp, XEN_CORE_PARKING_GET, XEN_CORE_PARKING_SET, XEN_PCPU_FLAGS_INVALID, XEN_PCPU_FLAGS_ONLINE,
        XEN_PM_CX, XEN_PM_PDC, XEN_PM_PX, XEN_PM_TX, XenpfCoreParking, XenpfMicrocodeUpdate, XenpfPcpuVersion,
        XenpfPcpuinfo, XenpfSetProcessorPminfo,
    },
};

/// Bytes of patches at most: more than any vendor has for all its processors.
const MAX_MICROCODE: u32 = 16 << 20;

impl<M: Machine> Caller<'_, M> {
    /// Why the processors keep the code that the firmware gave them. What is wrong with the request is told as by who
    /// would load it: not for processors of old, whose code nobody changes; nothing holds nothing for any.
    pub(super) fn refuse_microcode(&self, XenpfMicrocodeUpdate { data, length, .. }: XenpfMicrocodeUpdate) -> Errno {
        let CpuModel { vendor, family, .. } = CpuModel::of(self.hv.machine());
        let is_loadable = match vendor {
            Vendor::Intel => family >= 6,
            Vendor::Amd => family >= 0x10,
            Vendor::Hygon | Vendor::Other => false,
        };
        if !is_loadable {
            return Errno::Inval;
        }
        if length > MAX_MICROCODE {
            return Errno::NoMem;
        }
        if self.check_readable(data, length.into()).is_err() {
            return Errno::Fault;
        }
        if length == 0 { Errno::NoEnt } else { Errno::Inval }
    }

    /// Whether the guest has memory at every byte: one of each page is read.
    fn check_readable(&self, address: u64, length: u64) -> Result<(), Errno> {
        let bytes = GuestPtr::<u8>::new(address, length)?;
        for at in (0..length).step_by(PAGE_BYTES).chain(length.checked_sub(1)) {
            bytes.read(self.hv.machine(), at)?;
        }
        Ok(())
    }

    /// A processor by its number.
    pub(super) fn find_processor(&self, number: u32) -> Result<CpuId, Errno> {
        let is_online = 1_u64.checked_shl(number).unwrap_or(0) & self.hv.online_mask() != 0;
        if is_online { Ok(CpuId(ushort(number.into()))) } else { Err(Errno::Inval) }
    }

    fn last_processor(&self) -> u32 {
        self.hv.online_mask().checked_ilog2().unwrap_or(0)
    }

    /// Processors are numbered as their APICs are.
    pub(super) fn get_processor_info(&self, asked: XenpfPcpuinfo) -> XenpfPcpuinfo {
        let number = asked.xen_cpuid;
        let flags = if self.find_processor(number).is_ok() { XEN_PCPU_FLAGS_ONLINE } else { XEN_PCPU_FLAGS_INVALID };
        XenpfPcpuinfo { xen_cpuid: number, max_present: self.last_processor(), flags, apic_id: number, acpi_id: number }
    }

    /// Vendor, family, model and stepping (leaves 0 and 1 of CPUID); nothing of a processor that there is not.
    pub(super) fn get_processor_version(&self, asked: XenpfPcpuVersion) -> XenpfPcpuVersion {
        let nobody = XenpfPcpuVersion {
            max_present: self.last_processor(),
            vendor_id: [0; 12],
            family: 0,
            model: 0,
            stepping: 0,
            ..asked
        };
        if self.find_processor(asked.xen_cpuid).is_err() {
            return nobody;
        }
        let [_, b, c, d] = self.hv.machine().cpuid(0, 0);
        let mut vendor_id = [0; 12];
        for (place, byte) in vendor_id.iter_mut().zip([b, d, c].iter().flat_map(|word| word.to_le_bytes())) {
            *place = byte;
        }
        let CpuModel { family, model, stepping, .. } = CpuModel::of(self.hv.machine());
        XenpfPcpuVersion { vendor_id, family, model, stepping, ..nobody }
    }

    /// What the control domain's ACPI says of a processor's states. It is heard: processors halt when they idle, and
    /// how fast they run is the firmware's.
    pub(super) fn check_processor_power(&self, request: XenpfSetProcessorPminfo) -> Result<(), Errno> {
        /// Bytes of a sleep state (`xen_processor_cx`).
        const SLEEP_STATE: u64 = 48;
        let [first, second, ..] = request.u;
        let readable = |address, bytes: u64| {
            if bytes != 0 {
                GuestPtr::<u8>::new(address, bytes)?.read(self.hv.machine(), 0)?;
            }
            Ok(())
        };
        match request.r#type {
            XEN_PM_CX => {
                self.find_processor(request.id)?;
                readable(second, u64::from(uint(first)).wrapping_mul(SLEEP_STATE))
            }
            XEN_PM_PX => {
                self.find_processor(request.id)?;
                check_speeds(&request, readable)
            }
            XEN_PM_PDC => self.check_processor_capabilities(first),
            XEN_PM_TX => Err(Errno::NoSys),
            _ => Err(Errno::Inval),
        }
    }

    /// What the control domain's ACPI can do, in the form of `_PDC`: revision, number of words, the words.
    fn check_processor_capabilities(&self, address: u64) -> Result<(), Errno> {
        const REVISION: u32 = 1;
        let words = GuestPtr::<u32>::new(address, 3)?;
        let read = |index| words.read(self.hv.machine(), index);
        match (read(0)?, read(1)?) {
            (REVISION, 1..) => read(2).map(drop),
            _ => Err(Errno::Inval),
        }
    }
}

/// Cores that are to idle for the firmware's sake: none does.
pub(super) fn park(op: &mut PlatformOp) -> Result<bool, Errno> {
    let request: XenpfCoreParking = op.get();
    match request.r#type {
        XEN_CORE_PARKING_SET => Ok(false),
        XEN_CORE_PARKING_GET => {
            op.set(&XenpfCoreParking { idle_nums: 0, ..request });
            Ok(true)
        }
        _ => Err(Errno::Inval),
    }
}

/// How fast a processor can run (`xen_processor_performance`), of which each part may be told apart.
fn check_speeds(
    request: &XenpfSetProcessorPminfo,
    readable: impl FnOnce(u64, u64) -> Result<(), Errno>,
) -> Result<(), Errno> {
    /// `XEN_PX_*`: the registers of control and of status, the states, who runs as fast.
    const REGISTERS: u32 = 1;
    const STATES: u32 = 2;
    const SHARED: u32 = 8;
    /// Bytes of a state (`xen_processor_px`).
    const STATE: u64 = 48;
    /// `XEN_CPUPERF_SHARED_TYPE_*`: by hardware, all, any.
    const SHARED_TYPES: RangeInclusive<u32> = 1..=3;
    let [flags, control, _, status, _, count, states, _, _, _, _, _, shared] = request.u;
    let is_told = |part| uint(flags) & part != 0;
    let space = |register: u64| register >> 32 & 0xff;
    if is_told(REGISTERS) && space(control) != space(status) {
        return Err(Errno::Inval);
    }
    if is_told(STATES) {
        match uint(count) {
            0 | 1 => return Err(Errno::Inval),
            count => readable(states, u64::from(count) * STATE)?,
        }
    }
    if is_told(SHARED) && !SHARED_TYPES.contains(&uint(shared)) {
        return Err(Errno::Inval);
    }
    Ok(())
}
