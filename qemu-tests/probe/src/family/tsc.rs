//! The time stamp counter as the toolstack chose it (`tsc_mode`): its rate, what of it is told, how time goes with it.
//! `tsc=MODE` on the command line names the mode that the guest was made with.

use core::sync::atomic::Ordering;

use oxen_abi::hypercall::Hypercall;
use oxen_abi::vcpu;
use oxen_domu_lib::{machine, println, start_info, time};

use crate::judge::{Probe, call};

/// The leaf of CPUID that tells of it (`arch-x86/cpuid.h`).
const LEAF: u32 = 0x4000_0003;
const EMULATED: u32 = 1;
const ALWAYS_EMULATED: u32 = 1;
const NEVER_EMULATED: u32 = 2;
/// How long its rate is measured, in nanoseconds.
const MEASURED: u64 = 400 * time::MILLISECOND;

pub(crate) fn ask(probe: &mut Probe) {
    let Some(mode) = start_info::option("tsc").and_then(|mode| mode.parse::<u32>().ok()) else { return };
    let [features, told_mode, khz, incarnation] = machine::cpuid(LEAF, 0);
    let [low, high, mul, shift] = machine::cpuid(LEAF, 1);
    let [host, rest @ ..] = machine::cpuid(LEAF, 2);
    let Some(scale) = scale(probe) else { return };
    println!(
        "probe: tsc: features {features:#x} mode {told_mode} khz {khz} incarnation {incarnation} \
         offset {high:#x}:{low:#x} scale {mul:#x}:{shift:#x} host {host} {rest:?}; time {scale:x?}"
    );
    let is_emulated = features & EMULATED != 0;
    probe.is("cpuid tells the mode", told_mode.into(), mode.into());
    match mode {
        ALWAYS_EMULATED => probe.holds("it is emulated", is_emulated, features.into()),
        NEVER_EMULATED => probe.holds("it is the processor's", !is_emulated, features.into()),
        _ => {}
    }
    probe.is("the rate is the machine's", khz.into(), host.into());
    probe.is("nothing stands beside the machine's rate", rest.iter().map(|&word| i64::from(word)).sum(), 0);
    probe.is("it is set for the first time", incarnation.into(), 1);
    if is_emulated {
        probe.is("cpuid tells the multiplier of the time", mul.into(), scale.0.into());
        probe.is("and the shift", i64::from(shift as i32), scale.1.into());
    }
    rate(probe, khz);
}

/// Multiplier and shift of the vcpu's time, from an area for it.
fn scale(probe: &mut Probe) -> Option<(u32, i8)> {
    let area = probe.page()?;
    let argument = probe.words(&[area.address()]);
    let got = call(Hypercall::VcpuOp, [vcpu::VCPUOP_REGISTER_VCPU_TIME_MEMORY_AREA.into(), 0, argument]);
    probe.works("an area for the time", got);
    let [_, _, _, scale, ..] = area.words64();
    let scale = scale.load(Ordering::SeqCst);
    // The hypervisor goes on writing there.
    core::mem::forget(area);
    Some((scale as u32, (scale >> 32) as i8))
}

/// Ticks and nanoseconds pass as the rate says; the nanoseconds are those that the
/// hypervisor counts of the vcpu's life.
fn rate(probe: &mut Probe, khz: u32) {
    let (begin, ticks) = (lived(probe), machine::tsc());
    let mut last = ticks;
    let mut backwards = 0;
    while lived(probe).wrapping_sub(begin) < MEASURED {
        let now = machine::tsc();
        backwards += i64::from(now < last);
        last = now;
    }
    let (nanoseconds, ticks) = (lived(probe).wrapping_sub(begin), machine::tsc().wrapping_sub(ticks));
    probe.is("it never goes back", backwards, 0);
    let seen = u128::from(ticks) * 1_000_000 / u128::from(nanoseconds.max(1));
    println!("probe: tsc: {ticks} ticks in {nanoseconds} ns: {seen} kHz");
    probe.holds("it ticks at its rate", seen.abs_diff(khz.into()) * 20 < khz.into(), seen as i64);
}

/// Nanoseconds since the vcpu was made.
fn lived(probe: &Probe) -> u64 {
    call(Hypercall::VcpuOp, [vcpu::VCPUOP_GET_RUNSTATE_INFO.into(), 0, probe.address()]);
    (2..6).map(|index| probe.word(index)).sum()
}
