//! Where Oxen differs from Xen on purpose, or where Xen's answer is an accident of its build: with the reason.

/// A difference: what both lines hold of several, what Xen's holds besides, and why. With `lasts`, what follows in a
/// sequence may follow from it.
struct Known {
    both: &'static [&'static str],
    xen: &'static str,
    lasts: bool,
    #[expect(dead_code, reason = "for the reader")]
    why: &'static str,
}

/// A difference whose lines hold one of `both`, and Xen's `xen`.
const fn known(both: &'static [&'static str], xen: &'static str, why: &'static str) -> Known {
    Known { both, xen, lasts: false, why }
}

const KNOWN: [Known; 12] = [
    known(&["`int 0x"], "", "QEMU 7.2 takes the gate of twice the vector; here the instruction says which is meant"),
    known(&["`forced cpuid` a=40000003"], "", "how fast the processor is, as measured"),
    known(&["`smsw`"], "a=8005003b", "the processor's own CR0: Xen has left the FPU's registers to somebody else"),
    known(&["hypercall 49("], "-14", "how Xen goes on with its shadow tables"),
    known(&["kexec_op(", "xenoprof_op("], "", "there is no other kernel to boot, and no profiler"),
    Known {
        both: &["platform_op.core_parking(", "platform_op.microcode_update(", "sysctl.cpu_hotplug("],
        xen: "multicall[",
        lasts: true,
        why: "a batch goes on behind it; Xen's ends where work goes to another processor",
    },
    known(&["domctl.irq_permission"], "", "which interrupts there are, and that nobody need have mapped one first"),
    known(&["platform_op.add_memtype"], "", "memory types are the firmware's"),
    known(&["physdev_op(1b"], " = -1", "Xen looks for devices itself; here there are those that dom0 announced"),
    known(&[" "], "is not writable again: -16", "a frame that fails to become a table below one that fails stays one"),
    known(&["sysctl.livepatch_op"], " -22", "no patch is looked at"),
    Known {
        both: &["grant_table_op.unmap_and_replace("],
        xen: "=ffff",
        lasts: true,
        why: "refused after all, Xen has taken the other mapping away; here nothing is done",
    },
];

fn find(xen: &str, oxen: &str) -> Option<&'static Known> {
    let is = |known: &&Known| known.both.iter().any(|both| xen.contains(both) && oxen.contains(both));
    KNOWN.iter().find(|known| is(known) && xen.contains(known.xen))
}

/// Whether a difference is known.
pub(super) fn is_known(xen: &str, oxen: &str) -> bool {
    find(xen, oxen).is_some()
}

/// Whether what follows in the sequence is not compared.
pub(super) fn lasts(xen: &str, oxen: &str) -> bool {
    find(xen, oxen).is_some_and(|known| known.lasts)
}
