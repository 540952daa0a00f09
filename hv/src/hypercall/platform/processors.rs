//! Processors, as `platform_op` tells of them and is told of them.

use crate::{caller::Caller, hardware::CpuId, machine::Machine, mem::guest_ptr::GuestPtr};
use oxen_abi::{
    errno::Errno,
    platform::{
        PlatformOp, XEN_CORE_PARKING_GET, XEN_CORE_PARKING_SET, XEN_PCPU_FLAGS_INVALID, XEN_PCPU_FLAGS_ONLINE,
        XEN_PM_CX, XEN_PM_PDC, XEN_PM_PX, XEN_PM_TX, XenpfCoreParking, XenpfPcpuVersion, XenpfPcpuinfo,
        XenpfSetProcessorPminfo,
    },
};

/// A processor by its number.
pub(super) fn find<M: Machine>(caller: &Caller<'_, M>, number: u32) -> Result<CpuId, Errno> {
    let is_online = 1_u64.checked_shl(number).unwrap_or(0) & caller.hv.online_mask() != 0;
    if is_online { Ok(CpuId(number as u16)) } else { Err(Errno::Inval) }
}

fn last<M: Machine>(caller: &Caller<'_, M>) -> u32 {
    caller.hv.online_mask().checked_ilog2().unwrap_or(0)
}

/// Processors are numbered as their APICs are.
pub(super) fn told<M: Machine>(caller: &Caller<'_, M>, asked: XenpfPcpuinfo) -> XenpfPcpuinfo {
    let number = asked.xen_cpuid;
    let flags = if find(caller, number).is_ok() { XEN_PCPU_FLAGS_ONLINE } else { XEN_PCPU_FLAGS_INVALID };
    XenpfPcpuinfo { xen_cpuid: number, max_present: last(caller), flags, apic_id: number, acpi_id: number }
}

/// Vendor, family, model and stepping (leaves 0 and 1 of CPUID); nothing of a processor that there is not.
pub(super) fn make<M: Machine>(caller: &Caller<'_, M>, asked: XenpfPcpuVersion) -> XenpfPcpuVersion {
    let nobody =
        XenpfPcpuVersion { max_present: last(caller), vendor_id: [0; 12], family: 0, model: 0, stepping: 0, ..asked };
    if find(caller, asked.xen_cpuid).is_err() {
        return nobody;
    }
    let [_, b, c, d] = caller.hv.machine().cpuid(0, 0);
    let [signature, ..] = caller.hv.machine().cpuid(1, 0);
    let mut vendor_id = [0; 12];
    for (place, byte) in vendor_id.iter_mut().zip([b, d, c].iter().flat_map(|word| word.to_le_bytes())) {
        *place = byte;
    }
    let field = |shift: u32, bits: u32| signature >> shift & ((1 << bits) - 1);
    let family = field(8, 4) + if field(8, 4) == 15 { field(20, 8) } else { 0 };
    let model = field(4, 4) | if family >= 6 { field(16, 4) << 4 } else { 0 };
    XenpfPcpuVersion { vendor_id, family, model, stepping: field(0, 4), ..nobody }
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

/// What the control domain's ACPI says of a processor's states. It is heard: processors halt when they idle, and how fast
/// they run is the firmware's.
pub(super) fn judge_power<M: Machine>(caller: &Caller<'_, M>, request: XenpfSetProcessorPminfo) -> Result<(), Errno> {
    /// Bytes of a sleep state (`xen_processor_cx`).
    const SLEEP_STATE: u64 = 48;
    /// Bytes of a running state (`xen_processor_px`), and the flag that says they are told.
    const RUNNING_STATE: u64 = 48;
    const STATES_TOLD: u32 = 2;
    let [first, second, .., count, states, _, _, _, _, _, _] = request.u;
    let readable = |address, bytes: u64| {
        if bytes != 0 {
            GuestPtr::<u8>::new(address, bytes)?.read(caller.hv.machine(), 0)?;
        }
        Ok(())
    };
    match request.r#type {
        XEN_PM_CX => {
            find(caller, request.id)?;
            readable(second, u64::from(first as u32) * SLEEP_STATE)
        }
        XEN_PM_PX => {
            find(caller, request.id)?;
            match (first as u32 & STATES_TOLD, count as u32) {
                (0, _) => Ok(()),
                (_, 0) => Err(Errno::Inval),
                (_, count) => readable(states, u64::from(count) * RUNNING_STATE),
            }
        }
        XEN_PM_PDC => judge_wishes(caller, first),
        XEN_PM_TX => Err(Errno::NoSys),
        _ => Err(Errno::Inval),
    }
}

/// What the control domain's ACPI can do, in the form of `_PDC`: revision, number of words, the words.
fn judge_wishes<M: Machine>(caller: &Caller<'_, M>, address: u64) -> Result<(), Errno> {
    const REVISION: u32 = 1;
    let words = GuestPtr::<u32>::new(address, 3)?;
    let read = |index| words.read(caller.hv.machine(), index);
    match (read(0)?, read(1)?) {
        (REVISION, 1..) => read(2).map(drop),
        _ => Err(Errno::Inval),
    }
}
