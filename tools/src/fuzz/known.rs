//! Where Oxen differs from Xen on purpose, or where Xen's answer is an accident of its build: with the reason.

/// A difference: what both lines hold, what Xen's holds besides, and why. With `lasts`, what follows in a sequence may
/// follow from it.
struct Known {
    both: &'static str,
    xen: &'static str,
    lasts: bool,
    #[cfg_attr(not(test), expect(dead_code, reason = "for the reader"))]
    why: &'static str,
}

const KNOWN: [Known; 0] = [];

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
