//! What is said at boot, in lines like Xen's.

use super::{Faults, Found, Ibrs, Plan, SpecCtrl, Way};
use core::fmt::{self, Display, Formatter, Write};

/// What was found and what is done about it, as lines for the log.
#[derive(Clone, Copy, Debug)]
pub struct Report<'a> {
    /// The CPU.
    pub found: &'a Found,
    /// What is done.
    pub plan: &'a Plan,
}

/// One line of the report.
#[derive(Clone, Copy, Debug)]
enum Line {
    Title,
    Hints,
    Features,
    Faults,
    Settings,
    L1tf,
    Guests,
    Apart,
    L1tfGuests,
    Left,
}

impl<'a> Report<'a> {
    /// Its lines, in order.
    pub fn lines(self) -> impl Iterator<Item = impl Display + 'a> {
        let always = [Line::Title, Line::Hints, Line::Features, Line::Faults, Line::Settings];
        let l1tf = self.found.faults.contains(Faults::L1TF).then_some(Line::L1tf);
        let left = (!self.left().is_empty()).then_some(Line::Left);
        let lines = always.into_iter().chain(l1tf).chain([Line::Guests, Line::Apart, Line::L1tfGuests]).chain(left);
        lines.map(move |line| Said { report: self, line })
    }

    /// The faults that nothing is done about.
    #[must_use]
    pub fn left(self) -> Faults {
        let Plan { ibrs, own, way, entry_barrier, buffers, gathers, l1tf, .. } = *self.plan;
        let own = own.unwrap_or_default();
        let mut left = self.found.faults;
        left.set(Faults::SPECTRE_V2, ibrs == Ibrs::Off && !entry_barrier);
        let barred = Faults::BRANCH_TYPE | Faults::SRSO;
        let defended = [
            (entry_barrier, barred),
            (buffers, Faults::MDS | Faults::TAA | Faults::MMIO | Faults::RFDS | Faults::TSA),
            (gathers == Some(true), Faults::GDS),
            (way.contains(Way::DIVIDER), Faults::DIV),
            (way.contains(Way::HISTORY) || own.contains(SpecCtrl::BHI_DIS_S), Faults::BHI),
            (own.contains(SpecCtrl::SSBD) || self.plan.guests_control, Faults::SSB),
            (self.plan.chicken[1].is_some(), Faults::ZENBLEED),
            (l1tf.judged[1], Faults::L1TF),
            (self.plan.apart[1], Faults::MELTDOWN),
        ];
        for (_, faults) in defended.into_iter().filter(|&(is_done, _)| is_done) {
            left -= faults;
        }
        left
    }
}

const fn enabled(is_on: bool) -> &'static str {
    if is_on { "enabled" } else { "disabled" }
}

/// The names of the flags that are set, each behind a space.
fn write_names<F: bitflags::Flags + Copy>(f: &mut Formatter<'_>, flags: F) -> fmt::Result {
    flags.iter_names().try_for_each(|(name, _)| write!(f, " {name}"))
}

/// The names of what is so, each behind a space; `None` where nothing is.
fn write_said<const N: usize>(f: &mut Formatter<'_>, said: [(bool, &str); N]) -> fmt::Result {
    if said.iter().all(|(is_so, _)| !is_so) {
        return f.write_str(" None");
    }
    said.iter().filter(|(is_so, _)| *is_so).try_for_each(|(_, name)| write!(f, " {name}"))
}

struct Said<'a> {
    report: Report<'a>,
    line: Line,
}

impl Display for Said<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Report { found, plan } = self.report;
        match self.line {
            Line::Title => f.write_str("Speculative mitigation facilities:"),
            Line::Hints => {
                f.write_str("  Hardware hints:")?;
                write_names(f, found.hints)
            }
            Line::Features => {
                f.write_str("  Hardware features:")?;
                write_names(f, found.controls)
            }
            Line::Faults => {
                f.write_str("  Believed vulnerable to:")?;
                write_names(f, found.faults)
            }
            Line::Settings => write_settings(f, plan),
            Line::L1tf => write!(
                f,
                "  L1TF: believed vulnerable, maxphysaddr L1D {}, CPUID {}, Safe address {:x}",
                found.cache_bits, found.address_bits, plan.l1tf.safe
            ),
            Line::Guests => {
                f.write_str("  Support for PV VMs:")?;
                write_said(
                    f,
                    [
                        (plan.guests_control, "MSR_SPEC_CTRL"),
                        (plan.way.contains(Way::RETURNS), "RSB"),
                        // Whoever comes on a CPU finds all of its registers loaded, always.
                        (true, "EAGER_FPU"),
                        (plan.buffers, "VERW"),
                        (plan.entry_barrier, "IBPB-entry"),
                        (plan.way.contains(Way::HISTORY), "BHB-entry"),
                    ],
                )
            }
            Line::Apart => {
                let [dom0, others] = plan.apart.map(enabled);
                write!(f, "  XPTI (64-bit PV only): Dom0 {dom0}, DomU {others} (without PCID)")
            }
            Line::L1tfGuests => {
                let [dom0, others] = plan.l1tf.judged.map(enabled);
                write!(f, "  PV L1TF checks: Dom0 {dom0}, DomU {others}")
            }
            Line::Left => {
                f.write_str("  Not defended against:")?;
                write_names(f, self.report.left())
            }
        }
    }
}

fn write_settings(f: &mut Formatter<'_>, plan: &Plan) -> fmt::Result {
    // There are no thunks: the compiler makes none.
    f.write_str("  Xen settings: BTI-Thunk: N/A, SPEC_CTRL:")?;
    match plan.own {
        None => f.write_str(" No")?,
        Some(own) => {
            for (name, bit) in [
                ("IBRS", SpecCtrl::IBRS),
                ("STIBP", SpecCtrl::STIBP),
                ("SSBD", SpecCtrl::SSBD),
                ("PSFD", SpecCtrl::PSFD),
                ("BHI_DIS_S", SpecCtrl::BHI_DIS_S),
            ] {
                write!(f, " {name}")?;
                f.write_char(if own.contains(bit) { '+' } else { '-' })?;
            }
        }
    }
    f.write_str(", Other:")?;
    let is_cleared = plan.way.contains(Way::HISTORY);
    write_said(
        f,
        [
            (plan.ibrs == Ibrs::Automatic, "AUTO_IBRS"),
            (plan.switch_barrier, "IBPB-ctxt"),
            (plan.buffers, "VERW"),
            (plan.way.contains(Way::DIVIDER), "DIV"),
            (plan.gathers == Some(true), "GDS_MIT"),
            (is_cleared && plan.clearing == super::Clearing::Short, "BHB-short"),
            (is_cleared && plan.clearing == super::Clearing::Long, "BHB-long"),
        ],
    )
}
