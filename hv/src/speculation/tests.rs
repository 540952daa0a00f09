//! CPUs as they were sold, by what CPUID and their registers say, and what becomes of them.

use super::*;
use crate::{cpu_model::Vendor, ports::Registers};
use std::{
    collections::HashMap,
    string::{String, ToString},
    sync::Mutex,
    vec::Vec,
};

/// A CPU that says so much of itself.
#[derive(Default)]
struct Cpu {
    leaves: HashMap<(u32, u32), [u32; 4]>,
    registers: Mutex<HashMap<u32, u64>>,
    writes: Mutex<Vec<(u32, u64)>>,
}

impl Registers for Cpu {
    fn cpuid(&self, leaf: u32, subleaf: u32) -> [u32; 4] {
        self.leaves.get(&(leaf, subleaf)).copied().unwrap_or_default()
    }

    fn read_msr(&self, msr: u32) -> Option<u64> {
        self.registers.lock().unwrap().get(&msr).copied()
    }

    fn write_msr(&self, msr: u32, value: u64) -> bool {
        self.writes.lock().unwrap().push((msr, value));
        self.registers.lock().unwrap().insert(msr, value).is_some()
    }

    fn set_xcr0(&self, _: u64) -> bool {
        false
    }
}

const SMEP: u32 = 1 << 7;
const AVX2: u32 = 1 << 5;
const RTM: u32 = 1 << 11;
const MD_CLEAR: u32 = 1 << 10;
const IBRS_IBPB: u32 = 1 << 26;
const STIBP: u32 = 1 << 27;
const ARCH: u32 = 1 << 29;
const SSBD: u32 = 1 << 31;
/// What microcode since 2018 gives Intel's CPUs.
const CONTROLLED: u32 = MD_CLEAR | IBRS_IBPB | STIBP | SSBD;

/// A CPU of Intel's family 6.
fn intel(model: u32, stepping: u32, seven_b: u32, seven_d: u32, capabilities: u64) -> Cpu {
    let signature = (model & 0xf0) << 12 | 6 << 8 | (model & 0xf) << 4 | stepping;
    let leaves = HashMap::from([
        ((0, 0), [0x16, u32::from_le_bytes(*b"Genu"), 0, 0]),
        ((1, 0), [signature, 0, 0, 0]),
        ((7, 0), [2, seven_b | SMEP, 0, seven_d]),
        ((0x8000_0000, 0), [0x8000_0008, 0, 0, 0]),
        ((0x8000_0008, 0), [46, 0, 0, 0]),
    ]);
    Cpu { leaves, registers: Mutex::new(HashMap::from([(ARCH_CAPABILITIES, capabilities)])), ..Cpu::default() }
}

/// A CPU of AMD's, by its family from 15 on.
fn amd(family: u32, model: u32, eight_b: u32, twenty_one_a: u32) -> Cpu {
    let signature = (family - 15) << 20 | (model & 0xf0) << 12 | 15 << 8 | (model & 0xf) << 4;
    let leaves = HashMap::from([
        ((0, 0), [0x10, u32::from_le_bytes(*b"Auth"), 0, 0]),
        ((1, 0), [signature, 0, 0, 0]),
        ((7, 0), [0, SMEP | AVX2, 0, 0]),
        ((0x8000_0000, 0), [0x8000_0021, 0, 0, 0]),
        ((0x8000_0008, 0), [48, eight_b, 0, 0]),
        ((0x8000_0021, 0), [twenty_one_a, 0, 0, 0]),
    ]);
    Cpu { leaves, ..Cpu::default() }
}

fn skylake() -> Cpu {
    intel(0x5e, 3, AVX2 | RTM, CONTROLLED, 0)
}

/// RDCL_NO, IBRS_ALL, MDS_NO, TAA_NO.
fn ice_lake() -> Cpu {
    intel(0x6a, 6, AVX2, CONTROLLED | ARCH, 0x123)
}

/// Alder Lake, with all that newer microcode says.
fn alder_lake() -> Cpu {
    let capabilities = 1 << 28 | 1 << 26 | 0xe000 | 0x123;
    let mut cpu = intel(0x97, 2, AVX2, CONTROLLED | ARCH, capabilities);
    cpu.leaves.insert((7, 2), [0, 0, 0, 1 << 4]);
    cpu
}

fn zen_1() -> Cpu {
    amd(0x17, 1, 1 << 12, 0)
}

fn zen_2() -> Cpu {
    amd(0x17, 0x31, 1 << 12 | 1 << 14 | 1 << 15 | 1 << 18 | 1 << 24, 0)
}

/// Zen 4: automatic IBRS, IBPB that forgets kinds and returns.
fn zen_4() -> Cpu {
    amd(0x19, 0x11, 1 << 12 | 1 << 14 | 1 << 15 | 1 << 17 | 1 << 24 | 1 << 29 | 1 << 30, 1 << 5 | 1 << 8 | 1 << 28)
}

fn plan(cpu: &Cpu, asked: &Choices) -> Plan {
    Plan::of(&Found::of(cpu), asked)
}

fn default_plan(cpu: &Cpu) -> Plan {
    plan(cpu, &Choices::default())
}

#[test]
fn each_cpu_is_known_for_what_it_does() {
    let always = Faults::SPECTRE_V1 | Faults::SPECTRE_V2;
    let skylakes = Faults::MELTDOWN | Faults::L1TF | Faults::MDS | Faults::TAA | Faults::MMIO | Faults::SSB;
    let zens = Faults::SSB | Faults::SRSO;
    for (name, cpu, wanted) in [
        ("Skylake", skylake(), skylakes | Faults::GDS | Faults::BHI),
        ("Ice Lake", ice_lake(), Faults::SSB | Faults::MMIO | Faults::GDS | Faults::BHI),
        ("Alder Lake", alder_lake(), Faults::RFDS | Faults::BHI | Faults::SSB),
        (
            "Cascade Lake",
            intel(0x55, 7, RTM, CONTROLLED | ARCH, 0x2b),
            Faults::TAA | Faults::MMIO | Faults::SSB | Faults::BHI,
        ),
        ("Bonnell", intel(0x1c, 2, 0, 0, 0), Faults::MELTDOWN | Faults::SSB),
        ("Goldmont", intel(0x5c, 9, 0, ARCH, 1), Faults::RFDS | Faults::SSB),
        ("Silvermont", intel(0x37, 8, 0, 0, 0), Faults::MELTDOWN | Faults::MDS | Faults::SSB),
        ("Zen 1", zen_1(), zens | Faults::BRANCH_TYPE | Faults::DIV),
        ("Zen 2", zen_2(), zens | Faults::BRANCH_TYPE | Faults::ZENBLEED),
        ("Zen 4", zen_4(), zens | Faults::TSA),
        ("Zen 5", amd(0x1a, 2, 1 << 26 | 1 << 29, 1 << 29), Faults::empty()),
    ] {
        let found = Found::of(&cpu);
        assert_eq!(found.faults, wanted | always, "{name}");
    }
}

#[test]
fn newer_microcode_mends_what_it_mends() {
    let old = Found::of(&zen_2());
    let new = zen_2();
    new.registers.lock().unwrap().insert(0x8b, 0x0830_107a);
    assert_eq!(old.faults - Found::of(&new).faults, Faults::ZENBLEED);
}

#[test]
fn leaves_that_there_are_not_say_nothing() {
    let mut cpu = skylake();
    cpu.leaves.insert((0, 0), [6, u32::from_le_bytes(*b"Genu"), 0, 0]);
    cpu.leaves.insert((0x8000_0000, 0), [0x8000_0004, 0, 0, 0]);
    let found = Found::of(&cpu);
    assert_eq!((found.controls, found.has_smep, found.address_bits), (Controls::empty(), false, 36));
    let unsaid = intel(0x6a, 6, 0, CONTROLLED, u64::MAX);
    assert_eq!(Found::of(&unsaid).hints, Hints::empty(), "a register that CPUID does not tell is not read");
}

#[test]
fn defences_are_on_where_the_cpu_needs_them() {
    let skylake = default_plan(&skylake());
    assert_eq!((skylake.ibrs, skylake.own), (Ibrs::OnEntry, Some(SpecCtrl::IBRS)));
    assert!(skylake.buffers && skylake.switch_barrier && skylake.guests_control && !skylake.entry_barrier);
    assert_eq!((skylake.way, skylake.clearing, skylake.l1tf.judged), (Way::HISTORY, Clearing::Short, [false, true]));
    let ice_lake = default_plan(&ice_lake());
    assert_eq!((skylake.apart, ice_lake.apart), ([true; 2], [false; 2]));
    assert_eq!((ice_lake.ibrs, ice_lake.buffers, ice_lake.l1tf.judged), (Ibrs::Always, false, [false; 2]));
    let alder_lake = default_plan(&alder_lake());
    assert_eq!(alder_lake.own, Some(SpecCtrl::IBRS | SpecCtrl::BHI_DIS_S));
    assert_eq!((alder_lake.way, alder_lake.buffers), (Way::empty(), true));
    let zen_1 = default_plan(&zen_1());
    assert_eq!((zen_1.ibrs, zen_1.own, zen_1.entry_barrier), (Ibrs::Off, None, true));
    assert_eq!(zen_1.way, Way::DIVIDER | Way::RETURNS, "its barrier leaves predictions of returns");
    let zen_4 = default_plan(&zen_4());
    assert_eq!((zen_4.ibrs, zen_4.own), (Ibrs::Automatic, Some(SpecCtrl::STIBP)));
    assert!(zen_4.entry_barrier && zen_4.buffers && !zen_4.guests_control && zen_4.way.is_empty());
}

#[test]
fn nothing_is_used_that_the_cpu_does_not_announce() {
    let bare = [intel(0x5e, 3, AVX2, 0, 0), amd(0x17, 0x31, 0, 0), amd(0x10, 2, 0, 0), Cpu::default()];
    let mut all = Choices::default();
    all.set_all_ways(true);
    let all = Choices {
        ibrs: Some(true),
        stibp: Some(true),
        ssbd: Some(true),
        psfd: Some(true),
        history_apart: Some(true),
        switch_barrier: Some(true),
        gathers: Some(false),
        ..all
    };
    for mut cpu in bare {
        cpu.leaves.entry((1, 0)).or_default()[2] |= 1 << 31;
        let plan = plan(&cpu, &all);
        assert_eq!((plan.own, plan.entry_barrier, plan.switch_barrier), (None, false, false));
        plan.set_up(&cpu);
        assert!(cpu.writes.lock().unwrap().is_empty());
        let ways = plan.of_vcpu(false, SpecCtrl::empty());
        assert!(!ways.way.intersects(Way::BARRIER | Way::CONTROL), "what needs no register is done");
    }
}

#[test]
fn all_can_be_refused() {
    let mut none = Choices::default();
    none.refuse_all();
    for cpu in [skylake(), ice_lake(), alder_lake(), zen_1(), zen_2(), zen_4()] {
        let plan = plan(&cpu, &none);
        assert!(!plan.changes_ways() && !plan.switch_barrier && [plan.l1tf.judged, plan.apart] == [[false; 2]; 2]);
        assert_eq!(plan.of_vcpu(false, SpecCtrl::all()).way, Way::empty());
        let mut own = Choices::default();
        own.refuse_own();
        let is_intel = Found::of(&cpu).cpu.vendor == Vendor::Intel;
        assert_eq!(super::tests::plan(&cpu, &own).guests_control, is_intel, "guests may defend themselves");
    }
}

#[test]
fn a_vcpu_gets_its_own_register_back() {
    let on_entry = default_plan(&skylake());
    let ways = |plan: &Plan, guests| plan.of_vcpu(false, guests);
    let switched = ways(&on_entry, SpecCtrl::empty());
    assert_eq!((switched.own, switched.guests), (SpecCtrl::IBRS, SpecCtrl::empty()));
    assert!(switched.way.contains(Way::CONTROL));
    assert!(!ways(&on_entry, SpecCtrl::IBRS).way.contains(Way::CONTROL), "equal: nothing to write");
    let always = default_plan(&ice_lake());
    assert!(!ways(&always, SpecCtrl::empty()).way.contains(Way::CONTROL), "IBRS stays on behind the guest's back");
    let slow = ways(&always, SpecCtrl::SSBD);
    assert_eq!((slow.guests, slow.way.contains(Way::CONTROL)), (SpecCtrl::IBRS | SpecCtrl::SSBD, true));
    let forced = plan(&ice_lake(), &Choices { ssbd: Some(true), ..Choices::default() });
    assert_eq!(
        ways(&forced, SpecCtrl::empty()).guests,
        SpecCtrl::IBRS | SpecCtrl::SSBD,
        "what is global is everybody's"
    );
}

#[test]
fn the_control_domain_is_trusted_with_predictions() {
    let plan = default_plan(&zen_2());
    let has_barrier = |is_control| plan.of_vcpu(is_control, SpecCtrl::empty()).way.contains(Way::BARRIER);
    assert_eq!([has_barrier(true), has_barrier(false)], [false, true]);
}

#[test]
fn registers_that_stay_are_written_once() {
    let writes = |cpu: Cpu, asked: &Choices| {
        plan(&cpu, asked).set_up(&cpu);
        cpu.writes.into_inner().unwrap()
    };
    let zen_4 = zen_4();
    zen_4.registers.lock().unwrap().insert(EFER, 0xd01);
    assert_eq!(writes(zen_4, &Choices::default()), [(SPEC_CTRL, 2), (EFER, 0x20_0d01)]);
    let zen_2 = || {
        let cpu = zen_2();
        cpu.registers.lock().unwrap().insert(DE_CFG, 2);
        cpu
    };
    assert_eq!(writes(zen_2(), &Choices::default()), [(SPEC_CTRL, 3), (DE_CFG, 0x202)]);
    let mut virtual_zen_2 = zen_2();
    virtual_zen_2.leaves.entry((1, 0)).or_default()[2] = 1 << 31;
    assert_eq!(writes(virtual_zen_2, &Choices::default()), [(SPEC_CTRL, 3)], "no chicken bits of a virtual CPU");
    let gathering = || {
        let cpu = intel(0x6a, 6, AVX2, CONTROLLED | ARCH, 1 << 25 | 0x123);
        cpu.registers.lock().unwrap().insert(MCU_OPT_CTRL, 0x11);
        cpu
    };
    assert_eq!(writes(gathering(), &Choices::default()), [(SPEC_CTRL, 1), (MCU_OPT_CTRL, 1)]);
    let unguarded = Choices { gathers: Some(false), ..Choices::default() };
    assert_eq!(writes(gathering(), &unguarded), [(SPEC_CTRL, 1), (MCU_OPT_CTRL, 0x11)]);
    let zen_1 = zen_1();
    zen_1.registers.lock().unwrap().insert(LS_CFG, 0);
    assert_eq!(writes(zen_1, &Choices { ssbd: Some(true), ..Choices::default() }), [(LS_CFG, 1 << 10)]);
}

#[test]
fn addresses_that_the_cache_cannot_hold_are_safe() {
    let l1tf = default_plan(&skylake()).l1tf;
    assert_eq!((l1tf.safe, l1tf.compared), (0x3000_0000_0000, (1 << 46) - 1));
    for (entry, is_safe) in [
        (0, true),
        (0xffe, true),
        (0x1000, false),
        (0x2fff_ffff_f000, false),
        (0x3000_0000_0000, true),
        (0x000f_ffff_ffff_f000, true),
        (1 << 46, true),
        (1 << 46 | 0x1000, false),
        (0xfff0_0000_0000_0ffe, true),
    ] {
        assert_eq!(l1tf.is_safe(entry), is_safe, "{entry:#x}");
    }
    let mut narrow = skylake();
    narrow.leaves.insert((0x8000_0008, 0), [36, 0, 0, 0]);
    assert_eq!(default_plan(&narrow).l1tf.safe, 1 << 36, "above what the CPU can address there is no RAM");
    assert_eq!(default_plan(&narrow).with_ram_to(1 << 40).l1tf.safe, 1 << 40);
}

fn report(cpu: &Cpu, asked: &Choices) -> Vec<String> {
    let found = Found::of(cpu);
    Report { found: &found, plan: &Plan::of(&found, asked) }.lines().map(|line| line.to_string()).collect()
}

#[test]
fn what_is_done_is_said_in_xens_lines() {
    assert_eq!(
        report(&skylake(), &Choices::default()),
        [
            "Speculative mitigation facilities:",
            "  Hardware hints:",
            "  Hardware features: IBPB IBRS STIBP SSBD MD_CLEAR",
            "  Believed vulnerable to: MELTDOWN SPECTRE_V1 SPECTRE_V2 L1TF MDS TAA MMIO SSB GDS BHI",
            "  Xen settings: BTI-Thunk: N/A, SPEC_CTRL: IBRS+ STIBP- SSBD- PSFD- BHI_DIS_S-, \
             Other: IBPB-ctxt VERW BHB-short",
            "  L1TF: believed vulnerable, maxphysaddr L1D 46, CPUID 46, Safe address 300000000000",
            "  Support for PV VMs: MSR_SPEC_CTRL EAGER_FPU VERW BHB-entry",
            "  XPTI (64-bit PV only): Dom0 enabled, DomU enabled (without PCID)",
            "  PV L1TF checks: Dom0 disabled, DomU enabled",
            "  Not defended against: SPECTRE_V1 GDS",
        ]
    );
    let mut none = Choices::default();
    none.refuse_all();
    let lines = report(&zen_4(), &none);
    assert_eq!(lines[4], "  Xen settings: BTI-Thunk: N/A, SPEC_CTRL: IBRS- STIBP- SSBD- PSFD- BHI_DIS_S-, Other: None");
    assert_eq!(lines[8], "  Not defended against: SPECTRE_V1 SPECTRE_V2 SSB SRSO TSA");
}
