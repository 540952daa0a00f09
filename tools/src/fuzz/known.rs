//! Where Oxen differs from Xen on purpose, or where Xen's answer is an accident of its build: with the reason.

/// A difference: what both lines hold, what Xen's holds besides, and why. With `lasts`, what follows in a sequence may
/// follow from it.
struct Known {
    both: &'static str,
    xen: &'static str,
    lasts: bool,
    #[expect(dead_code, reason = "for the reader")]
    why: &'static str,
}

/// A difference whose lines hold `both`, and Xen's `xen`.
const fn known(both: &'static str, xen: &'static str, why: &'static str) -> Known {
    Known { both, xen, lasts: false, why }
}

const KNOWN: [Known; 21] = [
    known("`int 0x", "", "QEMU 7.2 takes the gate of twice the vector; here the instruction says which is meant"),
    known("`forced cpuid` a=40000003", "", "how fast the processor is, as measured"),
    known("event_channel_op_compat(", "", "the interface of before Xen 3.2 is refused"),
    known("physdev_op_compat(", "", "the interface of before Xen 3.2 is refused"),
    known("nmi_op(1", "0", "refused: callback_op has what it did"),
    known("`smsw`", "a=8005003b", "the processor's own CR0: Xen has left the FPU's registers to somebody else"),
    known("physdev_op(1d", "", "the debug port is not this hypervisor's"),
    known("physdev_op(d", "", "interrupts are the control domain's own: what another is named for is refused first"),
    known("physdev_op(e", "", "as above"),
    known("sched_op.other(7", "", "vcpus are not pinned"),
    known("vcpu_op(c", "", "there is no physical id to tell"),
    known("xen_version(a", "", "the image has no build id"),
    known("hypercall 49(", "-14", "how Xen goes on with its shadow tables"),
    known("grant_table_op.other(c", "", "caches are coherent here: nothing is flushed, whatever is asked"),
    known("kexec_op(", "", "there is no other kernel to boot"),
    known("physdev_op(17", "", "interrupts by message are not there"),
    known("physdev_op(1c", "", "interrupts are not acknowledged by a page"),
    known("physdev_op(13", "", "interrupts by message are not there"),
    known("physdev_op(1f", "", "interrupts by message are not there"),
    known("physdev_op(15", "-22", "who may not set up lines is told so before which there are"),
    Known {
        both: "grant_table_op.unmap_and_replace(",
        xen: "=ffff",
        lasts: true,
        why: "refused after all, Xen has taken the other mapping away; here nothing is done",
    },
];

fn find(xen: &str, oxen: &str) -> Option<&'static Known> {
    KNOWN.iter().find(|known| xen.contains(known.both) && oxen.contains(known.both) && xen.contains(known.xen))
}

/// Whether a difference is known.
pub(super) fn is_known(xen: &str, oxen: &str) -> bool {
    find(xen, oxen).is_some()
}

/// Whether what follows in the sequence is not compared.
pub(super) fn lasts(xen: &str, oxen: &str) -> bool {
    find(xen, oxen).is_some_and(|known| known.lasts)
}
