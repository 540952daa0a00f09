//! The words of the command line for defences against speculative execution, as Xen has them.
//!
//! | part of `spec-ctrl=` | meaning |
//! |---|---|
//! | `no` | nothing, nor what guests would need to defend themselves |
//! | `no-xen` | nothing for the hypervisor's own sake |
//! | `pv=` | `msr-sc`, `rsb`, `verw`, `ibpb-entry` and `bhb-entry` together |
//! | `msr-sc=` | guests have `SPEC_CTRL` |
//! | `rsb=` | on the way in the stack of return predictions is filled |
//! | `verw=`, `md-clear=` | on the way out buffers are overwritten |
//! | `ibpb-entry=` | on the way in, from others than dom0, predictions are forgotten |
//! | `bhb-entry=`, `bhb-seq=short`, `long` | on the way in the history of branches is overwritten |
//! | `ibrs=`, `stibp=`, `ssbd=`, `psfd=`, `bhi-dis-s=` | bits of `SPEC_CTRL` while the hypervisor runs |
//! | `ibpb=` | predictions are forgotten when a CPU goes to another guest |
//! | `gds-mit=`, `div-scrub=` | gathered loads are guarded; the divider's quotient is overwritten |
//! | `unpriv-mmio=` | `verw` where the CPU leaks behind devices, too |
//!
//! A switch stands alone, behind `no-`, or before `=` and its value; the first five also take `=pv` and `=no-pv`. What
//! Xen does for guests with hardware's help, or by its compiler, is not understood: `hvm=`, `l1d-flush=`, `bti-thunk=`,
//! `branch-harden=`, `lock-harden=`.

use super::words::switch;
use crate::speculation::{Choices, Clearing};

/// Reads the value of `spec-ctrl=`. `None` if a part of it is not understood; what stands before it is set.
pub(super) fn set_controls(choices: &mut Choices, value: &str) -> Option<()> {
    value.split(',').try_for_each(|part| set_control(choices, part))
}

fn set_control(choices: &mut Choices, part: &str) -> Option<()> {
    // As a whole they can be turned off only: what is on by default is what the CPU needs.
    if is_refusal(part) {
        choices.refuse_all();
        return Some(());
    }
    if switch("xen", part) == Some(false) {
        choices.refuse_own();
        return Some(());
    }
    if let Some(wanted) = switch("pv", part) {
        choices.set_all_ways(wanted);
        return Some(());
    }
    match part {
        "bhb-seq=short" => choices.clearing = Some(Clearing::Short),
        "bhb-seq=long" => choices.clearing = Some(Clearing::Long),
        // All of them are loaded always.
        "eager-fpu" | "eager-fpu=yes" | "eager-fpu=on" | "eager-fpu=1" | "eager-fpu=true" => {}
        _ => return set_one(choices, part),
    }
    Some(())
}

fn set_one(choices: &mut Choices, part: &str) -> Option<()> {
    for (name, place) in [
        ("msr-sc", &mut choices.guests_control),
        ("rsb", &mut choices.returns),
        ("verw", &mut choices.buffers),
        ("ibpb-entry", &mut choices.entry_barrier),
        ("bhb-entry", &mut choices.history),
    ] {
        let of_pv = || switch("pv", part.strip_prefix(name)?.strip_prefix('=')?);
        if let Some(wanted) = switch(name, part).or_else(of_pv) {
            *place = Some(wanted);
            return Some(());
        }
    }
    for (name, place) in [
        ("md-clear", &mut choices.buffers),
        ("ibrs", &mut choices.ibrs),
        ("stibp", &mut choices.stibp),
        ("ssbd", &mut choices.ssbd),
        ("psfd", &mut choices.psfd),
        ("bhi-dis-s", &mut choices.history_apart),
        ("ibpb", &mut choices.switch_barrier),
        ("gds-mit", &mut choices.gathers),
        ("div-scrub", &mut choices.divider),
    ] {
        if let Some(wanted) = switch(name, part) {
            *place = Some(wanted);
            return Some(());
        }
    }
    choices.has_devices = switch("unpriv-mmio", part)?;
    Some(())
}

/// Reads the value of `xpti=` or `pv-l1tf=` for the control domain and for others. `None` if a part of it is not
/// understood.
pub(super) fn set_both(choices: &mut [Option<bool>; 2], value: &str) -> Option<()> {
    value.split(',').try_for_each(|part| {
        let [control, others] = choices;
        if let Some(wanted) = switch("dom0", part) {
            *control = Some(wanted);
        } else if let Some(wanted) = switch("domu", part) {
            *others = Some(wanted);
        } else if part == "default" {
            *choices = [None; 2];
        } else if part.is_empty() || is_refusal(part) || matches!(part, "yes" | "on" | "true" | "enable" | "1") {
            *choices = [Some(!is_refusal(part)); 2];
        } else {
            return None;
        }
        Some(())
    })
}

fn is_refusal(value: &str) -> bool {
    matches!(value, "no" | "off" | "false" | "disable" | "0")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where a choice is kept.
    type Place = fn(&Choices) -> Option<bool>;

    fn controls(value: &str) -> Option<Choices> {
        let mut choices = Choices::default();
        set_controls(&mut choices, value).map(|()| choices)
    }

    #[test]
    fn each_switch_goes_to_its_place_in_every_spelling() {
        let places: [(&str, Place); 14] = [
            ("msr-sc", |c| c.guests_control),
            ("rsb", |c| c.returns),
            ("verw", |c| c.buffers),
            ("md-clear", |c| c.buffers),
            ("ibpb-entry", |c| c.entry_barrier),
            ("bhb-entry", |c| c.history),
            ("ibrs", |c| c.ibrs),
            ("stibp", |c| c.stibp),
            ("ssbd", |c| c.ssbd),
            ("psfd", |c| c.psfd),
            ("bhi-dis-s", |c| c.history_apart),
            ("ibpb", |c| c.switch_barrier),
            ("gds-mit", |c| c.gathers),
            ("div-scrub", |c| c.divider),
        ];
        for (name, place) in places {
            for (form, wanted) in [("", true), ("=yes", true), ("=1", true), ("=no", false), ("=off", false)] {
                let choices = controls(&std::format!("{name}{form}")).unwrap();
                assert_eq!(place(&choices), Some(wanted), "{name}{form}");
                let others = places.iter().filter(|(other, _)| place(&choices) != Some(wanted) && *other != name);
                assert_eq!(others.count(), 0);
            }
            assert_eq!(place(&controls(&std::format!("no-{name}")).unwrap()), Some(false), "no-{name}");
        }
        for name in ["msr-sc", "rsb", "verw", "ibpb-entry", "bhb-entry"] {
            let said = [controls(&std::format!("{name}=pv")), controls(name)];
            assert!(said[0].is_some() && said[0] == said[1], "{name}");
            assert_eq!(controls(&std::format!("{name}=no-pv")), controls(&std::format!("no-{name}")));
        }
        assert!(controls("unpriv-mmio").unwrap().has_devices);
        assert_eq!(controls("bhb-seq=long,rsb").unwrap().clearing, Some(Clearing::Long));
    }

    #[test]
    fn all_of_it_can_be_refused_and_not_demanded() {
        let none = controls("no").unwrap();
        let refused = [none.guests_control, none.returns, none.buffers, none.entry_barrier, none.history, none.ibrs];
        assert_eq!((refused, none.l1tf), ([Some(false); 6], [Some(false); 2]));
        let own = controls("no-xen").unwrap();
        assert_eq!((own.guests_control, own.ibrs, own.l1tf), (None, Some(false), [None; 2]));
        assert_eq!(controls("no,ibrs").unwrap().ibrs, Some(true), "what comes later counts");
        let ways = controls("no,pv").unwrap();
        assert_eq!((ways.guests_control, ways.history, ways.ibrs), (Some(true), Some(true), Some(false)));
        for bad in ["yes", "on", "xen", "xen=yes", "", "hvm", "l1d-flush", "bti-thunk=retpoline", "eager-fpu=no"] {
            assert_eq!(controls(bad), None, "{bad}");
        }
        for bad in ["bhb-seq=tsx", "branch-harden", "rsb=hvm", "rsb=maybe", "ibrs=pv", "rsb,,verw"] {
            assert_eq!(controls(bad), None, "{bad}");
        }
    }

    #[test]
    fn whose_entries_are_judged() {
        let l1tf = |value| {
            let mut choices = [None; 2];
            set_both(&mut choices, value).map(|()| choices)
        };
        assert_eq!(l1tf(""), Some([Some(true); 2]));
        assert_eq!(l1tf("no"), Some([Some(false); 2]));
        assert_eq!(l1tf("dom0"), Some([Some(true), None]));
        assert_eq!(l1tf("dom0=no,domu"), Some([Some(false), Some(true)]));
        assert_eq!(l1tf("on,default"), Some([None; 2]));
        assert_eq!([l1tf("domx"), l1tf("dom0=maybe")], [None; 2]);
    }
}
