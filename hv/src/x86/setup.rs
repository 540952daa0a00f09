//! From the first line on the console to dom0: each step of the boot, in order.

use super::device::apic::Apic;
use super::device::ioapic::{self, IoApic};
use super::device::{clock, power, serial};
use super::entry::{descriptors, enter_guests, syscall};
use super::machine::Pc;
use super::memory::space::{self, Division, Loaded, Space};
use super::memory::{smap, tables};
use super::{cpu, percpu};
use crate::log;
use core::ops::Range;
use oxen_hv::addr::{MachineAddr, Mfn, PAGE_BYTES};
use oxen_hv::boot::BootMemory;
use oxen_hv::boot::acpi::{self, Acpi};
use oxen_hv::boot::cmdline::{self, Options};
use oxen_hv::boot::dom0::{self, BuildError, Plan};
use oxen_hv::boot::handoff::{self, BootInfo, Module};
use oxen_hv::boot::memory_map::{Kind, MemoryMap};
use oxen_hv::console::{self, Level};
use oxen_hv::event::pirq::{Interrupts, Signal};
use oxen_hv::machine::CpuId;
use oxen_hv::mem::frame_table::FrameTable;
use oxen_hv::{Hypervisor, sched};

/// The I/O APIC of every PC, where the firmware names none.
const USUAL_IOAPIC: u32 = 0xfec0_0000;
/// Where writes become interrupts, the local APIC's own page first (Intel SDM vol. 3A, 10.11.1).
const LOCAL_APICS: Range<u64> = 0xfee0_0000..0xfef0_0000;
/// What `isa-debug-exit` is told when the machine was set up so that there is nothing to run.
const CONFIGURATION_ERROR: u32 = 0x12;
/// The serial port's ISA interrupt.
const COM1_INTERRUPT: u8 = 4;

pub(crate) fn boot(magic: u32, info: u32) -> ! {
    serial::early();
    log!("Oxen {}, a Xen-compatible hypervisor", env!("CARGO_PKG_VERSION"));
    // SAFETY: the boot CPU comes here once, alone, its block not used yet.
    unsafe { descriptors::early() };
    let info = read_handoff(magic, info);
    let options = cmdline::parse(info.command_line, |word| log!("Command line: {word} is not understood"));
    if let Some(baud) = options.baud {
        serial::console().set_up(baud);
    }
    let features = set_up_cpu();
    let mut division = Division::new(&info);
    // SAFETY: the boot CPU is alone.
    let (space, frames) = unsafe { division.build() };
    // SAFETY: the tables are in place and the block is filled.
    unsafe { descriptors::enter_window() };
    let acpi = acpi::read(&Loaded, info.acpi_root).unwrap_or_default();
    let machine = find_machine(features, &acpi, space);
    // SAFETY: firmware tables were read, and nothing but memory is touched from here on.
    unsafe { tables::trim_direct_map(|range| info.memory_map.has_memory_in(&range)) };
    division.hand_over(&info.memory_map, &frames);
    let memory_map = keep_interrupt_controllers(&info, &acpi, &frames);
    let hv = percpu::HYPERVISOR
        .call_once(|| Hypervisor { memory_map, ..Hypervisor::new(machine, frames, info.command_line) });
    set_log_levels(hv, &options);
    announce(hv, &info);
    listen_to_console(hv);
    // SAFETY: the boot CPU's block is filled.
    let block = unsafe {
        syscall::enable_on_boot_cpu();
        percpu::open(hv, CpuId(0), &hv.cpus[0])
    };
    if sched::bring_up(hv, CpuId(0)).is_err() {
        panic!("no memory for the scheduler");
    }
    if let Err(error) = build_dom0(hv, &info, &options) {
        give_up(&error);
    }
    // SAFETY: the block is the boot CPU's and was just opened.
    unsafe { enter_guests(block) }
}

/// Keeps the pages of the interrupt controllers from dom0, and reserves them in the map of memory that it is told.
fn keep_interrupt_controllers(info: &BootInfo, acpi: &Acpi, frames: &FrameTable) -> MemoryMap {
    let mut map = info.memory_map.clone();
    let ioapics = controllers(acpi).map(|ioapic| ioapic.address.into()..u64::from(ioapic.address) + PAGE_BYTES as u64);
    for range in ioapics.chain([LOCAL_APICS]) {
        map.add(range.clone(), Kind::Reserved);
        let ends = (Mfn::containing(MachineAddr(range.start)), Mfn::containing(MachineAddr(range.end - 1)));
        if let (Some(first), Some(last)) = ends
            && frames.forbid_io(first, last).is_err()
        {
            panic!("too many interrupt controllers");
        }
    }
    map
}

/// The I/O APICs that the firmware names, or the usual one.
fn controllers(acpi: &Acpi) -> impl Iterator<Item = acpi::IoApic> {
    let usual = acpi::IoApic { address: USUAL_IOAPIC, first_gsi: 0 };
    let usual = acpi.ioapics.is_empty().then_some(usual);
    acpi.ioapics.iter().copied().chain(usual)
}

fn set_log_levels(hv: &Hypervisor<Pc>, options: &Options<'_>) {
    let levels = [(&hv.console.level, options.log_level), (&hv.console.guest_level, options.guest_log_level)];
    for (threshold, text) in levels {
        if let Some(text) = text.filter(|text| !threshold.set(text)) {
            log!("Command line: {text} is no log level");
        }
    }
}

fn announce(hv: &Hypervisor<Pc>, info: &BootInfo) {
    const MEGAHERTZ: u64 = 1_000_000;
    let console = |text: core::fmt::Arguments<'_>| console::log(hv, Level::Info, text);
    let mhz = hv.machine.frequencies.tsc / MEGAHERTZ;
    console(format_args!("Loaded by {} with {} modules: {}", info.loader, info.modules.len(), info.command_line));
    console(format_args!("{mhz} MHz; {} MiB free of {} MiB", hv.frames.free_frames() >> 8, hv.frames.end() >> 8));
}

/// Lets what is typed raise an interrupt.
fn listen_to_console(hv: &Hypervisor<Pc>) {
    let signal = Signal { is_level: false, is_active_low: false };
    if hv.machine.route(hv.machine.console_gsi, signal).is_ok() {
        hv.machine.set_masked(hv.machine.console_gsi, false);
        hv.machine.console.interrupt_on_input();
    }
}

/// Builds dom0 from the first module, with the second as its ramdisk, and takes their memory back.
fn build_dom0(hv: &'static Hypervisor<Pc>, info: &BootInfo, options: &Options<'_>) -> Result<(), BuildError> {
    let Some(kernel) = info.modules.first() else {
        log!("There is no module to be dom0: give its kernel with QEMU's -initrd or GRUB's module2");
        power::debug_exit(CONFIGURATION_ERROR);
        power::halt();
    };
    let bytes = |module: &Module| Loaded.bytes(module.range.start, (module.range.end - module.range.start) as usize);
    let plan = Plan {
        kernel: bytes(kernel).unwrap_or(&[]),
        command_line: kernel.command_line,
        ramdisk: info.modules.get(1).and_then(bytes).unwrap_or(&[]),
        memory: options.dom0_memory,
        max_memory: options.dom0_max_memory,
        vcpus: options.dom0_vcpus.unwrap_or(1),
    };
    dom0::build(hv, &plan)?;
    for module in &info.modules {
        space::take_back(&hv.frames, &module.range);
    }
    Ok(())
}

/// Says why there is no dom0, and stops.
fn give_up(error: &BuildError) -> ! {
    log!("{error}");
    power::debug_exit(CONFIGURATION_ERROR);
    power::halt()
}

fn read_handoff(magic: u32, info: u32) -> BootInfo {
    match handoff::read(&Loaded, magic, info) {
        Ok(info) => info,
        Err(error) => panic!("the boot loader's hand-over cannot be used: {error:?}"),
    }
}

/// Sets up the boot CPU.
fn set_up_cpu() -> cpu::Features {
    let features = cpu::Features::detect();
    // SAFETY: once, alone, and text is still writable.
    unsafe {
        if features.smap {
            smap::enable();
        }
        cpu::set_up(&features);
    }
    features
}

/// Finds and sets up the interrupt controllers and the clocks.
fn find_machine(features: cpu::Features, acpi: &Acpi, space: Space) -> Pc {
    ioapic::silence_legacy_controllers();
    let Some(apic) = Apic::find(&features) else { panic!("no local APIC that we can use") };
    apic.enable();
    let Some(frequencies) = clock::calibrate(apic) else { panic!("the 8254 timer does not count") };
    let mut ioapics = heapless::Vec::new();
    for ioapic in controllers(acpi) {
        let _ = IoApic::new(ioapic.address.into(), ioapic.first_gsi).map(|ioapic| ioapics.push(ioapic));
    }
    let apic_scale = (u128::from(frequencies.apic) << 32) / u128::from(frequencies.tsc);
    let wall_clock = clock::wall_clock() - cpu::ticks() / frequencies.tsc;
    let console = serial::console();
    let console_gsi =
        acpi.overrides.iter().find(|o| o.source == COM1_INTERRUPT).map_or(COM1_INTERRUPT.into(), |o| o.gsi);
    Pc {
        features,
        apic,
        ioapics,
        frequencies,
        apic_scale: apic_scale as u64,
        wall_clock,
        console,
        space,
        power_off: acpi.power_off,
        console_gsi,
    }
}
