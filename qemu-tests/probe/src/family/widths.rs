//! Arguments that are narrower than the registers they come in: what is above them means nothing, or is refused.

use oxen_abi::errno::Errno;
use oxen_abi::hypercall::Hypercall;
use oxen_abi::{event_channel, grant_table, memory, mmu, physdev, sched, vcpu};

use crate::judge::{Probe, call};
use crate::raw::{self, WILD};

const SELF: u64 = 0x7ff0;
/// Above 32 bits.
const HIGH: u64 = 1 << 32;

pub(crate) fn ask(probe: &mut Probe) {
    probe.holds("the page keeps RCX and R11", raw::page_keeps_registers(), 0);
    let version = Hypercall::XenVersion as u64;
    probe.is("the version without the page", raw::numbered(version, 0, 0), 4 << 16 | 17);
    probe.refuses("a number of more than 32 bits", raw::numbered(version | HIGH, 0, 0), Errno::NoSys);
    probe.refuses("a number beyond the last", raw::numbered(127, 0, 0), Errno::NoSys);
    let list = probe.words(&[version | HIGH, 9, 0, 0, 0, 0, 0, 0]);
    probe.works("a batch with such a number", call(Hypercall::Multicall, [list, 1 | HIGH]));
    probe.is("which is refused there", probe.word(1) as i64, -38);
    commands(probe);
    tables(probe);
    memory(probe);
    registers(probe);
}

/// Commands and counts of 32 bits.
fn commands(probe: &mut Probe) {
    probe.is("xen_version", call(Hypercall::XenVersion, [HIGH, 0]), 4 << 16 | 17);
    probe.works("vm_assist", call(Hypercall::VmAssist, [1 | HIGH, 2 | HIGH]));
    probe.works("fpu_taskswitch", call(Hypercall::FpuTaskswitch, [HIGH]));
    probe.works("sched_op", call(Hypercall::SchedOp, [u64::from(sched::SCHEDOP_YIELD) | HIGH, 0]));
    probe.works("sched_op_compat", call(Hypercall::SchedOpCompat, [u64::from(sched::SCHEDOP_YIELD) | HIGH, 0]));
    probe.is("vcpu_op", call(Hypercall::VcpuOp, [u64::from(vcpu::VCPUOP_IS_UP) | HIGH, HIGH, 0]), 1);
    let argument = probe.words32(&[1]);
    let iopl = u64::from(physdev::PHYSDEVOP_SET_IOPL) | HIGH;
    probe.works("physdev_op", call(Hypercall::PhysdevOp, [iopl, argument]));
    let argument = probe.words32(&[SELF as u32, 0, 0]);
    let status = u64::from(event_channel::EVTCHNOP_STATUS) | HIGH;
    probe.works("event_channel_op", call(Hypercall::EventChannelOp, [status, argument]));
    let argument = probe.words32(&[SELF as u32, 0, 0, 0]);
    let size = u64::from(grant_table::GNTTABOP_QUERY_SIZE);
    probe.works("grant_table_op", call(Hypercall::GrantTableOp, [size | HIGH, argument, 1 | HIGH]));
    let bits = call(Hypercall::GrantTableOp, [size | 1 << 12, argument, 1]);
    probe.refuses("a grant_table_op with bits of a continuation", bits, Errno::Inval);
    let bits = call(Hypercall::GrantTableOp, [0xffe, argument, 1]);
    probe.refuses("one that is not there", bits, Errno::NoSys);
    probe.refuses("callback_op", call(Hypercall::CallbackOp, [HIGH, WILD]), Errno::Fault);
    if probe.privileged {
        probe.works("console_io", call(Hypercall::ConsoleIo, [HIGH, HIGH, probe.address()]));
    }
}

/// Counts, domains and entries of `mmu_update` and `mmuext_op`.
fn tables(probe: &mut Probe) {
    let extended = |probe: &Probe, command: u32, arg1: u64, arg2: u64, domain: u64| {
        let list = probe.words(&[command.into(), arg1, arg2]);
        call(Hypercall::MmuextOp, [list, 1 | HIGH, 0, domain])
    };
    let flush = mmu::MMUEXT_TLB_FLUSH_LOCAL;
    probe.works("mmuext_op for a domain id with more above", extended(probe, flush, 0, 0, SELF | 1 << 16 | HIGH));
    let ldt = mmu::MMUEXT_SET_LDT;
    probe.works("an LDT of 2^32 entries is one of none", extended(probe, ldt, probe.address(), HIGH, SELF));
    probe.works("wherever that is", extended(probe, ldt, probe.address() + 1, 0, SELF));
    probe.works("and one of more is one of few", extended(probe, ldt, probe.address(), 8 | HIGH, SELF));
    probe.works("none again", extended(probe, ldt, 0, 0, SELF));
    let list = probe.words(&[0; 2]);
    probe.works("no updates", call(Hypercall::MmuUpdate, [WILD, HIGH, 0, SELF]));
    for (what, tables) in [("itself", SELF), ("devices", 0x7ff1), ("nobody", 0x1234)] {
        let got = call(Hypercall::MmuUpdate, [list, 0, 0, SELF | (tables + 1) << 16]);
        probe.refuses(&alloc::format!("tables of a domain called {what}"), got, Errno::Srch);
    }
    if !probe.privileged {
        let flush = mmu::MMUEXT_FLUSH_CACHE;
        probe.refuses("flush_cache without a device", extended(probe, flush, 0, 0, SELF), Errno::Acces);
        let flush = mmu::MMUEXT_FLUSH_CACHE_GLOBAL;
        probe.refuses("flush_cache_global without a device", extended(probe, flush, 0, 0, SELF), Errno::Inval);
    }
    let data = probe.page();
    if let Some(data) = data {
        let entry = data.mfn().address() | 1 | 1 << 5 | 1 << 6 | 2 | 1 << 63;
        let got = call(Hypercall::UpdateVaMappingOtherdomain, [data.address(), entry, 2, SELF | 1 << 16]);
        probe.works("update_va_mapping_otherdomain for a domain id with more above", got);
    }
}

/// Commands of `memory_op` with the extent to begin with above them.
fn memory(probe: &mut Probe) {
    let began = |command: u32| u64::from(command) | 1 << memory::MEMOP_EXTENT_SHIFT;
    let argument = probe.words(&[SELF, 0, 0, 0, 0, 0, 0, 0, 0]);
    for (what, command, wanted) in [
        ("current_reservation", memory::XENMEM_CURRENT_RESERVATION, -22),
        ("maximum_reservation", memory::XENMEM_MAXIMUM_RESERVATION, -22),
        ("maximum_gpfn", memory::XENMEM_MAXIMUM_GPFN, -22),
        ("maximum_ram_page", memory::XENMEM_MAXIMUM_RAM_PAGE, -22),
        ("exchange", memory::XENMEM_EXCHANGE, -22),
        ("claim_pages", memory::XENMEM_CLAIM_PAGES, -22),
        ("acquire_resource", memory::XENMEM_ACQUIRE_RESOURCE, -3),
        ("add_to_physmap", memory::XENMEM_ADD_TO_PHYSMAP, -13),
        ("remove_from_physmap", memory::XENMEM_REMOVE_FROM_PHYSMAP, -22),
        ("memory_map", memory::XENMEM_MEMORY_MAP, -38),
        ("set_memory_map", memory::XENMEM_SET_MEMORY_MAP, -38),
        ("machine_memory_map", memory::XENMEM_MACHINE_MEMORY_MAP, -38),
        ("machphys_mapping", memory::XENMEM_MACHPHYS_MAPPING, -38),
        ("machphys_mfn_list", memory::XENMEM_MACHPHYS_MFN_LIST, -38),
        ("get_sharing_freed_pages", memory::XENMEM_GET_SHARING_FREED_PAGES, -38),
    ] {
        let got = call(Hypercall::MemoryOp, [began(command), argument]);
        probe.is(&alloc::format!("{what} that has begun"), got, wanted);
    }
    probe.words(&[0; 9]);
}

fn registers(probe: &mut Probe) {
    probe.works("set_debugreg", call(Hypercall::SetDebugreg, [HIGH, 0]));
    probe.works("get_debugreg", call(Hypercall::GetDebugreg, [HIGH]));
    probe.works("set_segment_base", call(Hypercall::SetSegmentBase, [HIGH, 0]));
    probe.refuses("set_gdt", call(Hypercall::SetGdt, [WILD, 8193 | HIGH]), Errno::Inval);
    for (what, selector) in [("none", 0), ("of another ring", 0xe028), ("with more above", 0x1_e02b), ("wild", 0x1234)]
    {
        let got = call(Hypercall::SetSegmentBase, [3, selector]);
        probe.works(&alloc::format!("a user's GS selector, {what}"), got);
    }
    call(Hypercall::SetSegmentBase, [3, 0]);
}
