//! Defences against speculative execution: what a CPU does ahead of time and takes back leaves traces, and a guest may
//! read there what it may not read.
//!
//! Three steps, each a pure function of the one before: [`Found`] says what the CPU is vulnerable to and by what it can
//! be told to behave (CPUID, `ARCH_CAPABILITIES`, tables of models where the CPU does not say it itself); [`Choices`]
//! is what the command line asks, in Xen's words; [`Plan`] is what is done. Then [`Plan::set_up`] writes the registers
//! that stay as they are, once on each CPU, and [`Plan::of_vcpu`] says what the ways in and out of ring 0 do for a vcpu
//! while it runs ([`Ways`]). Where no vcpu needs anything, these ways are as they always were: what it takes is put in
//! at boot, if at all (`x86/entry/defend.s`).
//!
//! Facts of CPUs are those of the manufacturers' documents and of Xen's advisories; which defence is on by default is
//! as in Xen 4.17. Rust as it is released makes no retpolines: what Xen defends by them is defended here by IBRS while
//! the hypervisor runs, or by IBPB on the way in where there is no IBRS.

mod choices;
mod faults;
mod found;
mod plan;
mod report;
#[cfg(test)]
mod tests;

pub use choices::{Choices, Clearing};
pub use faults::Faults;
pub use found::{Controls, Found, Hints};
pub use plan::{Ibrs, L1tf, Plan, Way, Ways};
pub use report::Report;

/// `SPEC_CTRL`: what is predicted, and for whom.
pub const SPEC_CTRL: u32 = 0x48;
/// `PRED_CMD`: written to have predictions forgotten.
pub const PRED_CMD: u32 = 0x49;
/// `ARCH_CAPABILITIES`: of which attacks a CPU of Intel's is free, and how it predicts.
pub const ARCH_CAPABILITIES: u32 = 0x10a;
/// `MCU_OPT_CTRL`: what microcode does against leaks of Intel's CPUs.
const MCU_OPT_CTRL: u32 = 0x123;
/// `EFER`.
const EFER: u32 = 0xc000_0080;
/// Chicken bits of AMD's load and store unit, and of its decoder.
const LS_CFG: u32 = 0xc001_1020;
const DE_CFG: u32 = 0xc001_1029;

bitflags::bitflags! {
    /// Bits of [`SPEC_CTRL`].
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct SpecCtrl: u32 {
        /// Indirect branches are not steered by who had less privilege.
        const IBRS = 1 << 0;
        /// Nor by the CPU's other thread.
        const STIBP = 1 << 1;
        /// Loads wait for stores whose address is not known yet.
        const SSBD = 1 << 2;
        /// Nothing is forwarded to a load by guessing.
        const PSFD = 1 << 7;
        /// Indirect branches of the kernel are not steered by the history of user mode's.
        const BHI_DIS_S = 1 << 10;
    }
}

/// [`PRED_CMD`]: indirect branch prediction barrier.
pub const IBPB: u64 = 1;
