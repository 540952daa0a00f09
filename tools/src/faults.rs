//! QEMU's own faults: instructions that versions of it emulate wrongly, and the features
//! that CPU models go without there.

/// QEMU's major and minor number.
pub type Version = (u32, u32);

/// A fault of QEMU's instruction emulation that guests can notice.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// The first version without it; `None` where none is known.
    pub mended: Option<Version>,
    /// What is wrong.
    pub what: &'static str,
    /// The CPU feature without which nothing meets it, in QEMU's name.
    pub spared: Option<&'static str>,
    /// Whether nothing meets it on a machine of one CPU.
    pub needs_many_cpus: bool,
}

/// Those that have been met.
pub const FAULTS: [Fault; 5] = [
    Fault {
        mended: Some((8, 0)),
        what: "`int n` in long mode gives a wrong #GP error code",
        spared: None,
        needs_many_cpus: false,
    },
    Fault {
        mended: Some((8, 0)),
        what: "where the CPU model shows SMAP, iretq and lretq to ring 3 take a bogus page fault, on real Xen too",
        spared: Some("smap"),
        needs_many_cpus: false,
    },
    // Linux does without the instruction by `cli` around others, which masks no event of a paravirtual guest: an event
    // in between spoils its lists of free memory, on real Xen too. So the feature stays where it can.
    Fault {
        mended: Some((8, 0)),
        what: "cmpxchg16b spoils RFLAGS where several CPUs run: Linux 6.12 on four vcpus dies of it, on real Xen too",
        spared: Some("cx16"),
        needs_many_cpus: true,
    },
    Fault {
        mended: Some((11, 0)),
        what: "#DB after MOV SS is not deferred; #GP is raised where #SS is due",
        spared: None,
        needs_many_cpus: false,
    },
    Fault { mended: Some((11, 0)), what: "WRFSBASE takes a non-canonical value", spared: None, needs_many_cpus: false },
];

impl Fault {
    /// Whether a version has it.
    #[must_use]
    pub fn is_in(&self, version: Version) -> bool {
        self.mended.is_none_or(|mended| version < mended)
    }
}

/// A CPU model without the features that this version emulates wrongly on a machine of so many CPUs. Where the model
/// itself speaks of a feature, its word stands.
#[must_use]
pub fn sound_model(model: &str, version: Version, cpus: u32) -> String {
    let is_named = |feature: &str| model.split(',').skip(1).any(|word| word.trim_start_matches(['+', '-']) == feature);
    let met = FAULTS.iter().filter(|fault| fault.is_in(version) && (cpus > 1 || !fault.needs_many_cpus));
    let spared = met.filter_map(|fault| fault.spared);
    spared.filter(|feature| !is_named(feature)).fold(model.to_owned(), |model, feature| format!("{model},-{feature}"))
}

#[cfg(test)]
mod tests {
    use super::sound_model;

    #[test]
    fn a_model_goes_without_what_is_emulated_wrongly() {
        assert_eq!(sound_model("max", (7, 2), 2), "max,-smap,-cx16");
        assert_eq!(sound_model("max", (7, 2), 1), "max,-smap", "one CPU keeps cmpxchg16b");
        assert_eq!(sound_model("max", (10, 0), 2), "max");
        assert_eq!(sound_model("EPYC,-monitor,-smap,+cx16", (7, 2), 2), "EPYC,-monitor,-smap,+cx16");
        assert_eq!(sound_model("max,+smap", (7, 2), 2), "max,+smap,-cx16");
    }
}
