//! What the hypervisor says of itself, and what it says to calls that are not there.

use oxen_abi::errno::Errno;
use oxen_abi::hypercall::Hypercall;
use oxen_abi::version as abi;

use crate::judge::{Probe, call};
use crate::raw::{self, WILD, hypercall};

fn version(command: u32, argument: u64) -> i64 {
    call(Hypercall::XenVersion, [command.into(), argument])
}

pub(crate) fn ask(probe: &mut Probe) {
    let kept = raw::registers_kept();
    probe.holds("the hypercall page keeps RCX and R11", kept == (1, 2), kept.0 as i64);
    let scratch = probe.words(&[0; 256]);
    probe.is("the version is 4.17", version(abi::XENVER_VERSION, 0), 4 << 16 | 17);
    probe.works("extraversion", version(abi::XENVER_EXTRAVERSION, scratch));
    probe.works("compile_info", version(abi::XENVER_COMPILE_INFO, scratch));
    probe.words(&[0; 256]);
    probe.works("capabilities", version(abi::XENVER_CAPABILITIES, scratch));
    probe.is("capabilities begin with xen-3.0-x86_64", probe.word(0) as i64, i64::from_le_bytes(*b"xen-3.0-"));
    probe.works("changeset", version(abi::XENVER_CHANGESET, scratch));
    probe.works("platform_parameters", version(abi::XENVER_PLATFORM_PARAMETERS, scratch));
    probe.is("the hypervisor's slots begin at 256", probe.word(0) as i64, 0xffff_8000_0000_0000_u64 as i64);
    probe.words32(&[0, 0]);
    probe.works("get_features", version(abi::XENVER_GET_FEATURES, scratch));
    let features = probe.word32(1);
    probe.holds("mmu_pt_update_preserve_ad is offered", features & 1 << 5 != 0, features.into());
    probe.holds("no feature of translated guests is offered", features & 0b1010 == 0, features.into());
    probe.words32(&[9, 0]);
    probe.refuses("features beyond the last word", version(abi::XENVER_GET_FEATURES, scratch), Errno::Inval);
    probe.is("pagesize", version(abi::XENVER_PAGESIZE, 0), 4096);
    probe.works("guest_handle", version(abi::XENVER_GUEST_HANDLE, scratch));
    probe.refuses("capabilities to a wild address", version(abi::XENVER_CAPABILITIES, WILD), Errno::Fault);
    probe.refuses("features to a wild address", version(abi::XENVER_GET_FEATURES, WILD), Errno::Fault);
    let hypervisors = 0xffff_82d0_8000_0000;
    probe.refuses("features into the hypervisor", version(abi::XENVER_GET_FEATURES, hypervisors), Errno::Fault);
    probe.refuses("a sub-operation that is not there", version(99, scratch), Errno::NoSys);

    for number in [11, 38, 43, 47, 56, 63] {
        probe.refuses("a hypercall that is not there", hypercall(number, [0; 5]), Errno::NoSys);
    }
    let text = probe.words(&[u64::from_le_bytes(*b"probe..\n")]);
    if probe.privileged {
        probe.holds("console_io write", call(Hypercall::ConsoleIo, [0, 8, text]) >= 0, 0);
        probe.refuses("console_io from a wild address", call(Hypercall::ConsoleIo, [0, 8, WILD]), Errno::Fault);
        probe.refuses("a console_io that is not there", call(Hypercall::ConsoleIo, [7, 8, text]), Errno::NoSys);
    } else {
        probe.refuses("console_io read by a guest", call(Hypercall::ConsoleIo, [1, 8, text]), Errno::Perm);
    }
}
