//! What is done about a CPU's faults.

use super::{
    Choices, Clearing, Controls, DE_CFG, EFER, Faults, Found, Hints, LS_CFG, MCU_OPT_CTRL, SPEC_CTRL, SpecCtrl,
};
use crate::{cpu_model::CpuModel, ports::Registers};
use bitflags::bitflags;

/// How indirect branches of the hypervisor are kept from being steered by guests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ibrs {
    /// By nothing.
    Off,
    /// IBRS is set on each way in, and as the guest has it on the way out.
    OnEntry,
    /// IBRS is set for good: the CPU tells privileges apart by itself.
    Always,
    /// The same by a bit of `EFER` (AMD's automatic IBRS).
    Automatic,
}

bitflags! {
    /// What the ways in and out of ring 0 do for a vcpu.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct Way: u32 {
        /// In: predictions are forgotten.
        const BARRIER = 1 << 0;
        /// In: the hypervisor's `SPEC_CTRL` is loaded; out: the guest's.
        const CONTROL = 1 << 1;
        /// In: the stack of return predictions is filled.
        const RETURNS = 1 << 2;
        /// In: the history of branches is overwritten.
        const HISTORY = 1 << 3;
        /// Out: the divider's last quotient is overwritten.
        const DIVIDER = 1 << 4;
        /// Out: nothing of the hypervisor is left in the address space but what the next way in needs; in: all is back.
        const APART = 1 << 5;
    }
}

/// What the ways in and out do for the vcpu that runs; the entry code reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Ways {
    /// What they do.
    pub way: Way,
    /// `SPEC_CTRL` while the hypervisor runs.
    pub own: SpecCtrl,
    /// `SPEC_CTRL` while the guest runs.
    pub guests: SpecCtrl,
    /// Rounds of branches that overwrite the history, and branches of each.
    pub rounds: [u32; 2],
}

/// Which entries that are not present a guest may write, where the CPU follows them into its cache (XSA-273).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct L1tf {
    /// Whether the control domain's are judged, and others'.
    pub judged: [bool; 2],
    /// The bits of an address that the cache compares.
    pub compared: u64,
    /// The first address that no RAM can have.
    pub safe: u64,
}

impl L1tf {
    fn of(found: &Found, asked: [Option<bool>; 2]) -> Self {
        let is_vulnerable = found.faults.contains(Faults::L1TF);
        let [control, others] = asked;
        let safe = if found.cache_bits > found.address_bits {
            1 << found.address_bits
        } else {
            3 << found.cache_bits.saturating_sub(2)
        };
        Self {
            judged: [control.unwrap_or(false), others.unwrap_or(is_vulnerable)],
            compared: (1 << found.cache_bits) - 1,
            safe,
        }
    }

    /// Whether the control domain's entries are judged, or another's.
    #[must_use]
    pub const fn judges(&self, is_control: bool) -> bool {
        let [of_control, of_others] = self.judged;
        if is_control { of_control } else { of_others }
    }

    /// Whether an entry that is not present leads to nothing that the cache could hold.
    #[must_use]
    pub const fn is_safe(&self, entry: u64) -> bool {
        const FRAME: u64 = 0x000f_ffff_ffff_f000;
        let address = entry & FRAME & self.compared;
        address == 0 || address >= self.safe
    }
}

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// How indirect branches of the hypervisor are kept from being steered.
    pub ibrs: Ibrs,
    /// `SPEC_CTRL` while the hypervisor runs; `None`: there is none.
    pub own: Option<SpecCtrl>,
    /// Whether guests have a `SPEC_CTRL` of their own.
    pub guests_control: bool,
    /// What the ways do for every vcpu.
    pub way: Way,
    /// How the history of branches is overwritten, if it is.
    pub clearing: Clearing,
    /// Whether predictions are forgotten on the way in from guests other than the control domain.
    pub entry_barrier: bool,
    /// Whether predictions are forgotten when a CPU goes to another guest.
    pub switch_barrier: bool,
    /// Whether buffers are overwritten on the way out.
    pub buffers: bool,
    /// Whether gathered loads are guarded by microcode; `None`: it has no such guard.
    pub gathers: Option<bool>,
    /// Whether guests' address spaces are kept apart from the hypervisor's: the control domain's, and others'.
    pub apart: [bool; 2],
    /// Entries that are not present.
    pub l1tf: L1tf,
    /// What is written to chicken bits: AMD's way of SSBD, and the one against Zenbleed.
    pub chicken: [Option<(u32, u64)>; 2],
}

impl Plan {
    /// No defences.
    pub const NOTHING: Self = Self {
        ibrs: Ibrs::Off,
        own: None,
        guests_control: false,
        way: Way::empty(),
        clearing: Clearing::Short,
        entry_barrier: false,
        switch_barrier: false,
        buffers: false,
        gathers: None,
        apart: [false; 2],
        l1tf: L1tf { judged: [false; 2], compared: 0, safe: 0 },
        chicken: [None; 2],
    };

    /// What to do on this CPU where the command line asks this.
    #[must_use]
    pub fn of(found: &Found, asked: &Choices) -> Self {
        let has = |control| found.controls.contains(control);
        let is_amd = found.cpu.vendor.is_like_amd();
        let has_control = found.controls.intersects(Controls::IBRS | Controls::STIBP | Controls::SSBD);
        let ibrs = ibrs(found, asked.ibrs);
        // Intel's register alone: of AMD's, Xen's guests see nothing either.
        let guests_control = has(Controls::IBRS) && !is_amd && asked.guests_control.unwrap_or(true);
        let is_apart = has(Controls::BHI_CTRL) && asked.history_apart.unwrap_or(found.faults.contains(Faults::BHI));
        let mut own = SpecCtrl::empty();
        own.set(SpecCtrl::IBRS, matches!(ibrs, Ibrs::OnEntry | Ibrs::Always));
        own.set(SpecCtrl::STIBP, has(Controls::STIBP) && asked.stibp.unwrap_or(is_amd));
        own.set(SpecCtrl::SSBD, has(Controls::SSBD) && asked.ssbd.unwrap_or(false));
        own.set(SpecCtrl::PSFD, has(Controls::PSFD) && asked.psfd.unwrap_or(false));
        own.set(SpecCtrl::BHI_DIS_S, is_apart);
        let entry_barrier =
            has(Controls::IBPB) && asked.entry_barrier.unwrap_or_else(|| needs_entry_barrier(found, ibrs));
        let switch_barrier = has(Controls::IBPB) && asked.switch_barrier.unwrap_or(true);
        // What else would keep a guest's return predictions from ring 0, and from the next guest.
        let forgets_returns = !is_amd || !switch_barrier || found.hints.contains(Hints::IBPB_RET);
        let mut way = Way::empty();
        way.set(Way::RETURNS, asked.returns.unwrap_or(!found.has_smep || !forgets_returns));
        way.set(Way::HISTORY, asked.history.unwrap_or(found.faults.contains(Faults::BHI) && !is_apart));
        way.set(Way::DIVIDER, asked.divider.unwrap_or(found.faults.contains(Faults::DIV)));
        Self {
            ibrs,
            own: has_control.then_some(own),
            guests_control,
            way,
            clearing: asked.clearing.unwrap_or_else(|| clearing(&found.cpu)),
            entry_barrier,
            switch_barrier,
            buffers: asked.buffers.unwrap_or_else(|| leaves_in_buffers(found, asked.has_devices)),
            gathers: has(Controls::GDS_CTRL).then(|| asked.gathers.unwrap_or(true)),
            apart: asked.apart.map(|wanted| wanted.unwrap_or(found.faults.contains(Faults::MELTDOWN))),
            l1tf: L1tf::of(found, asked.l1tf),
            chicken: [ssbd_by_chicken_bit(found, asked.ssbd), against_zenbleed(found)],
        }
    }

    /// The same on a machine whose RAM ends there.
    #[must_use]
    pub fn with_ram_to(self, end: u64) -> Self {
        Self { l1tf: L1tf { safe: self.l1tf.safe.max(end), ..self.l1tf }, ..self }
    }

    /// Whether the ways in and out have anything to do for any vcpu.
    #[must_use]
    pub fn changes_ways(&self) -> bool {
        let switches = self.ibrs == Ibrs::OnEntry || self.guests_control;
        !self.way.is_empty() || self.entry_barrier || self.buffers || switches || self.keeps_any_apart()
    }

    /// Whether any guest's address space is kept apart from the hypervisor's.
    #[must_use]
    pub const fn keeps_any_apart(&self) -> bool {
        let [control, others] = self.apart;
        control || others
    }

    /// Whether the control domain's is, or another's.
    #[must_use]
    pub const fn keeps_apart(&self, is_control: bool) -> bool {
        let [control, others] = self.apart;
        if is_control { control } else { others }
    }

    /// What the ways do for a vcpu of the control domain or of another, with this `SPEC_CTRL` of its own.
    #[must_use]
    pub fn of_vcpu(&self, is_control: bool, guests: SpecCtrl) -> Ways {
        let own = self.own.unwrap_or_default();
        // What the guest does not notice stays set, which saves writing the register on both ways.
        let kept = if self.ibrs == Ibrs::OnEntry { own - SpecCtrl::IBRS } else { own };
        let guests = if self.guests_control { guests | kept } else { kept };
        let mut way = self.way;
        way.set(Way::BARRIER, self.entry_barrier && !is_control);
        way.set(Way::CONTROL, guests != own);
        way.set(Way::APART, self.keeps_apart(is_control));
        Ways { way, own, guests, rounds: self.clearing.rounds() }
    }

    /// Writes the registers that stay as they are. Once, on each CPU.
    pub fn set_up(&self, machine: &impl Registers) {
        let change = |register, clear: u64, set: u64| {
            if let Some(value) = machine.read_msr(register) {
                machine.write_msr(register, value & !clear | set);
            }
        };
        if let Some(own) = self.own {
            machine.write_msr(SPEC_CTRL, own.bits().into());
        }
        if self.ibrs == Ibrs::Automatic {
            change(EFER, 0, AUTO_IBRS_ON);
        }
        if let Some(is_guarded) = self.gathers {
            change(MCU_OPT_CTRL, GATHERS_UNGUARDED, if is_guarded { 0 } else { GATHERS_UNGUARDED });
        }
        for &(register, bit) in self.chicken.iter().flatten() {
            change(register, 0, bit);
        }
    }
}

impl Default for Plan {
    fn default() -> Self {
        Self::NOTHING
    }
}

/// Automatic IBRS, in `EFER`.
const AUTO_IBRS_ON: u64 = 1 << 21;
/// Gathered loads are not guarded, in `MCU_OPT_CTRL`.
const GATHERS_UNGUARDED: u64 = 1 << 4;
/// Halves of vector registers are kept as they should be, in `DE_CFG`.
const NO_ZENBLEED: u64 = 1 << 9;

fn ibrs(found: &Found, asked: Option<bool>) -> Ibrs {
    let has = |control| found.controls.contains(control);
    if asked == Some(false) {
        Ibrs::Off
    } else if has(Controls::AUTO_IBRS) {
        Ibrs::Automatic
    } else if !has(Controls::IBRS) {
        Ibrs::Off
    } else if found.hints.intersects(Hints::EIBRS | Hints::IBRS_ALWAYS) {
        Ibrs::Always
    } else {
        Ibrs::OnEntry
    }
}

/// Where kinds of branches are mistaken, nothing less than forgetting them helps; nor where there is no IBRS.
fn needs_entry_barrier(found: &Found, ibrs: Ibrs) -> bool {
    let returns = found.faults.contains(Faults::SRSO) && found.controls.contains(Controls::IBPB_BRTYPE);
    found.faults.contains(Faults::BRANCH_TYPE) || returns || ibrs == Ibrs::Off
}

/// Whether something is left in buffers that VERW overwrites. Devices are the control domain's alone, unless it is said
/// that others have some.
fn leaves_in_buffers(found: &Found, has_devices: bool) -> bool {
    let mut leaks = Faults::MDS | Faults::TAA | Faults::RFDS | Faults::TSA;
    leaks.set(Faults::MMIO, has_devices);
    let overwrites = Controls::MD_CLEAR | Controls::FB_CLEAR | Controls::RFDS_CLEAR | Controls::VERW_CLEAR;
    found.faults.intersects(leaks) && found.controls.intersects(overwrites)
}

/// Alder Lake and Sapphire Rapids, and what came after, remember more branches than those before.
fn clearing(cpu: &CpuModel) -> Clearing {
    let remembers_long = matches!(cpu.model, 0x8f | 0x97 | 0x9a | 0xaa | 0xac | 0xb7 | 0xba | 0xbe | 0xbf | 0xcf);
    if remembers_long { Clearing::Long } else { Clearing::Short }
}

/// AMD's CPUs without the bit in `SPEC_CTRL` have one elsewhere, which a hypervisor below does not show.
fn ssbd_by_chicken_bit(found: &Found, asked: Option<bool>) -> Option<(u32, u64)> {
    if asked != Some(true) || found.is_virtual || found.controls.contains(Controls::SSBD) {
        return None;
    }
    match found.cpu.family {
        0x15 => Some((LS_CFG, 1 << 54)),
        0x16 => Some((LS_CFG, 1 << 33)),
        0x17 | 0x18 => Some((LS_CFG, 1 << 10)),
        _ => None,
    }
    .filter(|_| found.cpu.vendor.is_like_amd())
}

/// Zen 2's, which a hypervisor below does not show either.
fn against_zenbleed(found: &Found) -> Option<(u32, u64)> {
    (found.faults.contains(Faults::ZENBLEED) && !found.is_virtual).then_some((DE_CFG, NO_ZENBLEED))
}
