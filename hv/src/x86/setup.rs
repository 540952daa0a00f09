//! The steps of the boot, in the order of the story in `main.rs`.

use super::cpu;
use super::device::apic::Apic;
use super::device::ioapic::{self, IoApic};
use super::device::{clock, power, serial};
use super::entry::{defend, descriptors, enter_guests, syscall};
use super::machine::Pc;
use super::memory::space::{self, Division, Loaded, Space};
use super::memory::{guest, heap, smap, tables};
use super::running::{self, CpuBlock};
use super::watchdog;
use super::{smp, symbols};
use crate::log;
use core::ops::Range;
use oxen_abi::errno::Errno;
use oxen_hv::Hypervisor;
use oxen_hv::addr::{MachineAddr, Mfn, PAGE_BYTES};
use oxen_hv::boot::cmdline::{self, Options};
use oxen_hv::boot::dom0;
use oxen_hv::config::{MAX_CPUS, MAX_VCPUS};
use oxen_hv::console::Level;
use oxen_hv::event::pirq::{Interrupts, Signal};
use oxen_hv::firmware::BootMemory;
use oxen_hv::firmware::acpi::{self, Acpi};
use oxen_hv::firmware::handoff::{self, BootInfo, Module};
use oxen_hv::firmware::memory_map::{Kind, MemoryMap};
use oxen_hv::hardware::CpuId;
use oxen_hv::lock;
use oxen_hv::mem::RamFrame;
use oxen_hv::mem::frame_table::FrameTable;
use oxen_hv::pci::Pci;
use oxen_hv::shootdown::Shootdown;
use oxen_hv::speculation::{Found, Plan, Report};

/// The I/O APIC of every PC, where the firmware names none.
const USUAL_IOAPIC: u32 = 0xfec0_0000;
/// Where writes become interrupts, the local APIC's own page first (Intel SDM vol. 3A, 10.11.1).
const LOCAL_APICS: Range<u64> = 0xfee0_0000..0xfef0_0000;
/// What `isa-debug-exit` is told when the machine was set up so that there is nothing to run.
const CONFIGURATION_ERROR: u32 = 0x12;
/// The serial port's ISA interrupt.
const COM1_INTERRUPT: u8 = 4;

/// Sets the console up and says who is here.
pub(crate) fn speak() {
    serial::early();
    log!("Oxen {}, a Xen-compatible hypervisor", env!("CARGO_PKG_VERSION"));
}

/// Lets faults of the boot be seen.
pub(crate) fn catch_faults() {
    // SAFETY: the boot story comes here once, alone, the block not used yet.
    unsafe { descriptors::early(running::frame_end()) };
}

/// Reads what the loader left.
pub(crate) fn read_handoff(magic: u32, info: u32) -> BootInfo {
    match handoff::read(&Loaded, magic, info) {
        Ok(info) => info,
        Err(error) => give_up(format_args!("The boot loader's hand-over cannot be used: {error:?}")),
    }
}

/// Reads the command line, and sets the console's speed if it says one.
pub(crate) fn read_options(info: &BootInfo) -> Options<'static> {
    let options = cmdline::parse(info.command_line, |word| log!("Command line: {word} is not understood"));
    if let Some(baud) = options.baud {
        serial::console().set_up(baud);
    }
    options
}

/// What the CPU does ahead of time that it should not, and what is done about it.
pub(crate) struct Defences {
    pub found: Found,
    pub plan: Plan,
}

/// Sets up the boot CPU.
pub(crate) fn set_up_cpu(options: &Options<'_>) -> (cpu::Features, Defences) {
    let features = cpu::Features::detect();
    let found = Found::of(&cpu::Bare);
    let plan = Plan::of(&found, &options.speculation);
    // SAFETY: once, alone, and text is still writable.
    unsafe {
        if features.has(cpu::Feature::SMAP) {
            smap::enable();
        }
        defend::put_in(&plan);
        cpu::set_up(&features);
    }
    plan.set_up(&cpu::Bare);
    (features, Defences { found, plan })
}

/// Takes what the hypervisor needs of memory, and builds its address space and its tables of frames there.
pub(crate) fn divide_memory(info: &BootInfo) -> (Division, Space, FrameTable) {
    let mut division = Division::new(info);
    // SAFETY: the boot CPU is alone; when the tables are in place its block is long filled.
    let (space, frames) = unsafe {
        let built = division.build();
        descriptors::enter_window(tables::image_machine_address(&raw const descriptors::BOOT_GDT));
        built
    };
    (division, space, frames)
}

/// Reads what the firmware's tables say. Without tables the machine is taken for a plain PC.
pub(crate) fn read_acpi(info: &BootInfo) -> Acpi {
    acpi::read(&Loaded, info.acpi_root).unwrap_or_default()
}

/// Makes the hypervisor, with all memory that nobody has in its hands.
pub(crate) fn make_hypervisor(
    machine: Pc,
    frames: FrameTable,
    memory: &Division,
    info: &BootInfo,
    acpi: &Acpi,
    options: &Options<'_>,
    defences: &Plan,
) -> &'static Hypervisor<Pc> {
    // SAFETY: firmware tables were read, and nothing but memory is touched from here on.
    unsafe { tables::trim_direct_map(|range| info.memory_map.has_memory_in(&range)) };
    memory.hand_over(&info.memory_map, &machine.space, &frames);
    let memory_map = keep_interrupt_controllers(info, acpi, &frames);
    // Registers are never where RAM is, whatever the firmware says.
    let is_device = |frame| Mfn::new(frame).is_some_and(|mfn| !frames.is_ram(mfn) && !frames.is_forbidden_io(mfn));
    let windows = acpi.windows.iter().filter(|window| window.frames().is_some_and(|mut all| all.all(is_device)));
    let pci = Pci::new(windows.copied().collect());
    let efi = info.efi.clone();
    heap::draw_from(heap::Source {
        take: |order| running::HYPERVISOR.get().ok_or(Errno::NoMem)?.memory.take_own(order).map(RamFrame::mfn),
        give_back: |frame| {
            running::HYPERVISOR.get().into_iter().for_each(|hv| hv.memory.give_back_own(frame));
        },
    });
    guest::have_reads_judged_by(running::may_read);
    let ram_end = (frames.end() * PAGE_BYTES) as u64;
    let hv = running::HYPERVISOR.call_once(|| Hypervisor {
        memory_map,
        grants: options.grants,
        efi,
        build_id: symbols::build_id(),
        speculation: defences.with_ram_to(ram_end),
        ..Hypervisor::new(machine, frames, info.command_line)
    });
    *hv.memory.pci.lock() = pci;
    hv
}

/// Says what was found, and listens to what is typed.
pub(crate) fn announce(hv: &Hypervisor<Pc>, info: &BootInfo, options: &Options<'_>, found: &Found) {
    const MEGAHERTZ: u64 = 1_000_000;
    set_options(hv, options);
    let console = |text: core::fmt::Arguments<'_>| hv.log(Level::Info, text);
    let mhz = hv.machine().frequencies.tsc / MEGAHERTZ;
    console(format_args!("Loaded by {} with {} modules: {}", info.loader, info.modules.len(), info.command_line));
    let ram: u64 = info.memory_map.ram().map(|range| range.end - range.start).sum();
    console(format_args!("{mhz} MHz; {} MiB free of {} MiB", hv.memory.frames.free_frames() >> 8, ram >> 20));
    Report { found, plan: &hv.speculation }.lines().for_each(|line| console(format_args!("{line}")));
    listen_to_console(hv);
}

fn set_options(hv: &Hypervisor<Pc>, options: &Options<'_>) {
    hv.console.guests_may_write.store(options.guest_console, core::sync::atomic::Ordering::Relaxed);
    hv.memory.has_linear_tables.store(options.linear_tables, core::sync::atomic::Ordering::Relaxed);
    let levels = [(&hv.console.level, options.log_level), (&hv.console.guest_level, options.guest_log_level)];
    for (threshold, text) in levels {
        if let Some(text) = text.filter(|text| !threshold.set(text)) {
            log!("Command line: {text} is no log level");
        }
    }
}

/// Lets what is typed raise an interrupt.
fn listen_to_console(hv: &Hypervisor<Pc>) {
    let signal = Signal { is_level: false, is_active_low: false };
    if hv.machine().route(hv.machine().console_gsi, signal).is_ok() {
        hv.machine().set_masked(hv.machine().console_gsi, false);
        hv.machine().console.interrupt_on_input();
    }
}

/// Starts the machine's other CPUs, which wait for guests.
pub(crate) fn start_other_cpus(hv: &'static Hypervisor<Pc>) {
    // Until one runs there is nobody to listen to.
    #[cfg(debug_assertions)]
    lock::watch(|| &super::percpu::this().held);
    lock::listen_while_waiting(|| {
        if let Some(hv) = running::HYPERVISOR.get() {
            hv.machine().serve_shootdown();
        }
    });
    smp::start_all(hv);
}

/// Lets guests and interrupts come in on the boot CPU.
pub(crate) fn open_boot_cpu(hv: &'static Hypervisor<Pc>) -> &'static CpuBlock {
    let cpu = CpuId(0);
    let Some(shared) = hv.cpu(cpu) else { give_up(format_args!("This build knows no CPU")) };
    // SAFETY: once, on the boot CPU, whose block is filled.
    let block = unsafe {
        syscall::enable(0);
        running::open(hv, cpu, shared)
    };
    if hv.bring_up_cpu(cpu).is_err() {
        give_up(format_args!("There is no memory for the scheduler"));
    }
    if !smp::keep_apart(hv, 0, block) {
        give_up(format_args!("There is no memory for a root without the hypervisor"));
    }
    block
}

/// Builds dom0 from the first module, with the second as its ramdisk, and takes back what the loader had of memory.
pub(crate) fn build_dom0(hv: &'static Hypervisor<Pc>, info: &BootInfo, options: &Options<'_>) {
    let Some(kernel) = info.modules.first() else {
        give_up(format_args!("There is no module to be dom0: give its kernel with QEMU's -initrd or GRUB's module2"))
    };
    let bytes = |module: &Module| Loaded.bytes(module.range.start, (module.range.end - module.range.start) as usize);
    let plan = dom0::Plan {
        kernel: bytes(kernel).unwrap_or(&[]),
        command_line: kernel.command_line,
        ramdisk: info.modules.get(1).and_then(bytes).unwrap_or(&[]),
        memory: options.dom0_memory,
        max_memory: options.dom0_max_memory,
        vcpus: options.dom0_vcpus.unwrap_or(hv.online_cpus().count() as u32).min(MAX_VCPUS as u32),
    };
    if let Err(error) = heap::open_during(|| hv.build_dom0(&plan)) {
        give_up(format_args!("{error}"));
    }
    for module in &info.modules {
        space::take_back(&hv.memory.frames, &module.range);
    }
}

/// Traces from the start, if the command line says so.
pub(crate) fn begin_trace(hv: &'static Hypervisor<Pc>, options: &Options<'_>) {
    hv.trace.set_mask(options.trace_mask);
    if options.trace_pages == 0 {
        return;
    }
    match hv.make_trace_buffers(options.trace_pages).and_then(|()| hv.trace.switch(true)) {
        Ok(()) => log!("Tracing: {} pages for each CPU", options.trace_pages),
        Err(error) => log!("tbuf_size={}: {error}: there is no trace", options.trace_pages),
    }
}

/// Watches all CPUs, if that is wanted.
pub(crate) fn watch(hv: &Hypervisor<Pc>, options: &Options<'_>) {
    if options.watchdog {
        let seconds = options.watchdog_timeout;
        match watchdog::start(hv, seconds) {
            true => hv.print(format_args!("NMI watchdog: a CPU may be in the hypervisor for {seconds} s")),
            false => hv.print(format_args!("NMI watchdog: the 8254's interrupt comes as no NMI; there is no watchdog")),
        }
    }
}

/// Goes to the first guest. There is no way back.
pub(crate) fn run(cpu: &'static CpuBlock) -> ! {
    // SAFETY: the block is the boot CPU's and open.
    unsafe { enter_guests(cpu) }
}

/// Says what is wrong with the machine as it was set up, and stops.
fn give_up(why: core::fmt::Arguments<'_>) -> ! {
    log!("{why}");
    power::debug_exit(CONFIGURATION_ERROR);
    power::halt()
}

/// The I/O APICs that the firmware names, or the usual one.
fn controllers(acpi: &Acpi) -> impl Iterator<Item = acpi::IoApic> {
    let usual = acpi::IoApic { address: USUAL_IOAPIC, first_gsi: 0 };
    let usual = acpi.ioapics.is_empty().then_some(usual);
    acpi.ioapics.iter().copied().chain(usual)
}

/// Keeps the pages of the interrupt controllers from dom0, and reserves them in the map of memory that it is told.
fn keep_interrupt_controllers(info: &BootInfo, acpi: &Acpi, frames: &FrameTable) -> MemoryMap {
    let mut map = info.memory_map.clone();
    let ioapics = controllers(acpi).map(|ioapic| ioapic.address.into()..u64::from(ioapic.address) + PAGE_BYTES as u64);
    for range in ioapics.chain([LOCAL_APICS]) {
        map.add(range.clone(), Kind::Reserved);
        let ends = (Mfn::containing(MachineAddr::new(range.start)), Mfn::containing(MachineAddr::new(range.end - 1)));
        if let (Some(first), Some(last)) = ends
            && frames.forbid_io(first, last).is_err()
        {
            give_up(format_args!("There are more interrupt controllers than this build knows"));
        }
    }
    map
}

/// Finds and sets up the interrupt controllers and the clocks.
pub(crate) fn find_machine(features: cpu::Features, acpi: &Acpi, options: &Options<'_>, space: Space) -> Pc {
    ioapic::silence_legacy_controllers();
    let Some(apic) = Apic::find(&features) else { give_up(format_args!("There is no local APIC that we can use")) };
    apic.enable();
    let Some(frequencies) = clock::calibrate(apic) else {
        give_up(format_args!("The 8254 timer does not count, or this machine is never left alone for a millisecond"))
    };
    let mut ioapics = heapless::Vec::new();
    for ioapic in controllers(acpi) {
        let _ = IoApic::new(ioapic.address.into(), ioapic.first_gsi).map(|ioapic| ioapics.push(ioapic));
    }
    let limit = options.max_cpus.unwrap_or(MAX_CPUS).min(MAX_CPUS);
    let others = acpi.cpus.iter().copied().filter(|&id| id != apic.id());
    let apic_ids = core::iter::once(apic.id()).chain(others).take(limit).collect();
    let apic_scale = (u128::from(frequencies.apic) << 32) / u128::from(frequencies.tsc);
    let wall_clock = clock::wall_clock() - cpu::ticks() / frequencies.tsc;
    let console = serial::console();
    let line = |source: u8| acpi.overrides.iter().find(|o| o.source == source).map_or(source.into(), |o| o.gsi);
    Pc {
        features,
        leaves: cpu::Leaves::read(),
        apic,
        apic_ids,
        shootdown: Shootdown::new(),
        ioapics,
        frequencies,
        apic_scale: apic_scale as u64,
        wall_clock,
        console,
        space,
        power_off: acpi.power_off,
        timer_port: acpi.timer_port,
        console_gsi: line(COM1_INTERRUPT),
        timer_gsi: line(watchdog::TIMER_INTERRUPT),
        is_watched: options.watchdog,
        no_reboot: options.no_reboot,
    }
}
