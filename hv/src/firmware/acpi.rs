//! As much of ACPI as the hypervisor needs: the interrupt controllers and how the power goes off. Dom0 gets the rest.

use super::{BootMemory, number};
use crate::pci::{MAX_WINDOWS, Window};
use heapless::Vec;

/// An I/O APIC (MADT entry type 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoApic {
    /// Machine address of its registers.
    pub address: u32,
    /// The first of its interrupt lines.
    pub first_gsi: u32,
}

/// An ISA interrupt that is not wired one to one (MADT entry type 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Override {
    /// The ISA interrupt.
    pub source: u8,
    /// The line it is wired to.
    pub gsi: u32,
    /// Whether it signals by level.
    pub is_level: bool,
    /// Whether it is active low.
    pub is_active_low: bool,
}

/// How the machine is put into a sleep state that it does not come back from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PowerOff {
    /// The control port of event block A.
    pub control_a: u16,
    /// That of block B; 0 if there is none.
    pub control_b: u16,
    /// Sleep types for S5, for A and B.
    pub sleep_types: [u8; 2],
}

/// What the tables say.
#[derive(Clone, Debug, Default)]
pub struct Acpi {
    /// Local APICs that are or can be enabled.
    pub cpus: Vec<u8, 64>,
    /// I/O APICs.
    pub ioapics: Vec<IoApic, 8>,
    /// ISA interrupts that are wired differently.
    pub overrides: Vec<Override, 16>,
    /// How the power goes off, if the tables say it in a way that we understand.
    pub power_off: Option<PowerOff>,
    /// The first of the power management timer's four ports.
    pub timer_port: Option<u16>,
    /// Windows of PCI's configuration space.
    pub windows: Vec<Window, MAX_WINDOWS>,
}

/// The longest table that is believed.
const MAX_TABLE: usize = 1 << 20;
const HEADER: usize = 36;

/// Reads the tables from the root pointer that the loader passed, or else the one that is found where a PC's BIOS
/// leaves it. `None` if there are no tables.
pub fn read(memory: &impl BootMemory, root: Option<&'static [u8]>) -> Option<Acpi> {
    let pointer = root.filter(|pointer| is_root(pointer)).or_else(|| find_root(memory))?;
    let mut acpi = Acpi::default();
    let revision = number::<1>(pointer, 15)?;
    let long = if revision >= 2 { number::<8>(pointer, 24).filter(|&a| a != 0) } else { None };
    let (list, entry_size) = match long.and_then(|at| table_at(memory, at, b"XSDT")) {
        Some(list) => (list, 8),
        None => (table_at(memory, number::<4>(pointer, 16)?, b"RSDT")?, 4),
    };
    for entry in list.get(HEADER..)?.chunks_exact(entry_size) {
        let Some(at) = (if entry_size == 8 { number::<8>(entry, 0) } else { number::<4>(entry, 0) }) else { continue };
        if let Some(table) = table_at(memory, at, b"APIC") {
            read_madt(table, &mut acpi);
        } else if let Some(table) = table_at(memory, at, b"FACP") {
            read_fadt(memory, table, &mut acpi);
        } else if let Some(table) = table_at(memory, at, b"MCFG") {
            let windows = table.get(44..).unwrap_or(&[]).chunks_exact(16);
            acpi.windows = windows.filter_map(read_window).take(MAX_WINDOWS).collect();
        }
    }
    Some(acpi)
}

/// Looks for the root pointer on the 16-byte boundaries of the BIOS's last 128 KiB (ACPI 5.2.5.1).
fn find_root(memory: &impl BootMemory) -> Option<&'static [u8]> {
    let bios = memory.bytes(0xe_0000, 0x2_0000)?;
    (0..bios.len()).step_by(16).filter_map(|at| bios.get(at..)).find(|pointer| is_root(pointer))
}

/// Whether a root pointer begins here (ACPI 5.2.5.3).
fn is_root(bytes: &[u8]) -> bool {
    bytes.starts_with(b"RSD PTR ") && bytes.get(..20).is_some_and(has_good_sum)
}

fn has_good_sum(bytes: &[u8]) -> bool {
    bytes.iter().fold(0_u8, |sum, &byte| sum.wrapping_add(byte)) == 0
}

/// The table at an address, if it is this one and whole.
fn table_at(memory: &impl BootMemory, at: u64, signature: &[u8; 4]) -> Option<&'static [u8]> {
    let header = memory.bytes(at, HEADER)?;
    let length = usize::try_from(number::<4>(header, 4)?).ok()?;
    if !header.starts_with(signature) || !(HEADER..=MAX_TABLE).contains(&length) {
        return None;
    }
    memory.bytes(at, length).filter(|table| has_good_sum(table))
}

/// The Multiple APIC Description Table (ACPI 5.2.12).
fn read_madt(table: &[u8], acpi: &mut Acpi) {
    let mut entries = table.get(44..).unwrap_or(&[]);
    while let Some((kind, length)) = number::<1>(entries, 0).zip(number::<1>(entries, 1)) {
        let Some(entry) = entries.get(..length as usize).filter(|_| length >= 2) else { return };
        let _ = read_madt_entry(kind, entry, acpi);
        entries = entries.get(length as usize..).unwrap_or(&[]);
    }
}

fn read_madt_entry(kind: u64, entry: &[u8], acpi: &mut Acpi) -> Option<()> {
    match kind {
        0 if number::<4>(entry, 4)? & 3 != 0 => {
            let _ = acpi.cpus.push(number::<1>(entry, 3)? as u8);
        }
        1 => {
            let (address, first_gsi) = (number::<4>(entry, 4)? as u32, number::<4>(entry, 8)? as u32);
            let _ = acpi.ioapics.push(IoApic { address, first_gsi });
        }
        2 => {
            let flags = number::<2>(entry, 8)?;
            let _ = acpi.overrides.push(Override {
                source: number::<1>(entry, 3)? as u8,
                gsi: number::<4>(entry, 4)? as u32,
                is_level: flags >> 2 & 3 == 3,
                is_active_low: flags & 3 == 3,
            });
        }
        _ => {}
    }
    Some(())
}

/// An entry of the table MCFG (PCI Firmware Specification 3.2, 4.1.2): one that lies in whole frames, in order.
fn read_window(entry: &[u8]) -> Option<Window> {
    let window = Window {
        address: number::<8>(entry, 0)?,
        segment: number::<2>(entry, 8)? as u16,
        first_bus: number::<1>(entry, 10)? as u8,
        last_bus: number::<1>(entry, 11)? as u8,
    };
    (window.frames().is_some() && window.first_bus <= window.last_bus).then_some(window)
}

/// The Fixed ACPI Description Table (ACPI 5.2.9), and S5 out of the table it points to.
fn read_fadt(memory: &impl BootMemory, table: &[u8], acpi: &mut Acpi) {
    acpi.timer_port = find_timer(table);
    acpi.power_off = (|| {
        let control_a = u16::try_from(number::<4>(table, 64)?).ok().filter(|&port| port != 0)?;
        let control_b = u16::try_from(number::<4>(table, 68)?).ok()?;
        let sleep_types = find_s5(table_at(memory, number::<4>(table, 40)?, b"DSDT")?)?;
        Some(PowerOff { control_a, control_b, sleep_types })
    })();
}

/// The first port of the power management timer (ACPI 4.8.3.3): `X_PM_TMR_BLK` where it
/// names I/O ports, else `PM_TMR_BLK`.
fn find_timer(table: &[u8]) -> Option<u16> {
    const FIRST_WITH_LONG: u64 = 3;
    const IO_PORTS: u64 = 1;
    let is_long = number::<1>(table, 8)? >= FIRST_WITH_LONG && number::<1>(table, 208) == Some(IO_PORTS);
    let long = number::<8>(table, 212).filter(|&port| is_long && port != 0);
    let port = long.or_else(|| number::<4>(table, 76))?;
    u16::try_from(port).ok().filter(|&port| port != 0)
}

/// Finds `Name (_S5, Package () { a, b, … })` among the bytes of AML, without running it.
fn find_s5(aml: &[u8]) -> Option<[u8; 2]> {
    const NAME: u8 = 0x08;
    const PACKAGE: u8 = 0x12;
    let at = aml.windows(4).position(|w| w == b"_S5_")?;
    let is_named = |back: usize| at.checked_sub(back).and_then(|i| aml.get(i)) == Some(&NAME);
    if !is_named(1) && !is_named(2) {
        return None;
    }
    let rest = aml.get(at + 4..)?;
    let (&[PACKAGE, lead], _) = rest.split_first_chunk::<2>()? else { return None };
    // The package's length takes one byte, and as many more as its two upper bits say; then the count of elements.
    let mut elements = rest.get(3 + usize::from(lead >> 6)..)?;
    let mut next = || {
        let (&first, after) = elements.split_first()?;
        let (value, after) = match first {
            0x0a => after.split_first().map(|(&value, after)| (value, after))?,
            0 | 1 => (first, after),
            _ => return None,
        };
        elements = after;
        Some(value)
    };
    Some([next()?, next()?])
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Image(std::vec::Vec<(u64, &'static [u8])>);

    impl BootMemory for Image {
        fn bytes(&self, start: u64, length: usize) -> Option<&'static [u8]> {
            let (base, bytes) = self.0.iter().find(|(base, b)| (*base..*base + b.len() as u64).contains(&start))?;
            let offset = (start - base) as usize;
            bytes.get(offset..offset.checked_add(length)?)
        }
    }

    fn table(signature: &[u8; 4], body: &[u8]) -> &'static [u8] {
        let mut bytes = vec![0_u8; HEADER];
        bytes.extend_from_slice(body);
        bytes[..4].copy_from_slice(signature);
        let length = bytes.len() as u32;
        bytes[4..8].copy_from_slice(&length.to_le_bytes());
        bytes[9] = 0_u8.wrapping_sub(bytes.iter().fold(0, |sum, b| sum.wrapping_add(*b)));
        bytes.leak()
    }

    fn machine(madt: &[u8], dsdt: &[u8]) -> Image {
        let mut facp = vec![0_u8; 60];
        facp[4..8].copy_from_slice(&0x4000_u32.to_le_bytes());
        facp[28..32].copy_from_slice(&0x604_u32.to_le_bytes());
        facp[40..44].copy_from_slice(&0x608_u32.to_le_bytes());
        // Behind eight bytes: one that is right, one that is not in whole frames, one with its buses in
        // the wrong order, and half of one.
        let windows = [
            &[0; 8][..],
            &[0, 0, 0, 0xb0, 0, 0, 0, 0, 1, 0, 0, 255, 0, 0, 0, 0],
            &[8, 0, 0, 0xb0, 0, 0, 0, 0, 0, 0, 0, 255, 0, 0, 0, 0],
            &[0, 0, 0, 0xb0, 0, 0, 0, 0, 0, 0, 3, 2, 0, 0, 0, 0],
            &[0, 0, 0, 0xb0, 0, 0, 0, 0],
        ]
        .concat();
        let mut bios = vec![0_u8; 0x2_0000];
        let mut pointer = *b"RSD PTR \0BOCHS \0\x00\x10\0\0";
        pointer[8] = 0_u8.wrapping_sub(pointer.iter().fold(0, |sum, b| sum.wrapping_add(*b)));
        bios[0x40..0x54].copy_from_slice(&pointer);
        Image(vec![
            (0xe_0000, bios.leak()),
            (0x1000, table(b"RSDT", &[0, 0x20, 0, 0, 0, 0x30, 0, 0, 0, 0x50, 0, 0])),
            (0x2000, table(b"APIC", madt)),
            (0x3000, table(b"FACP", &facp)),
            (0x4000, table(b"DSDT", dsdt)),
            (0x5000, table(b"MCFG", &windows)),
        ])
    }

    #[test]
    fn controllers_and_power_are_found() {
        let madt = [
            &[0, 0, 0xe0, 0xfe, 1, 0, 0, 0][..],
            &[0, 8, 0, 0, 1, 0, 0, 0, 0, 8, 1, 1, 1, 0, 0, 0, 0, 8, 2, 2, 0, 0, 0, 0],
            &[1, 12, 0, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0],
            &[2, 10, 0, 0, 2, 0, 0, 0, 0, 0, 2, 10, 0, 9, 9, 0, 0, 0, 13, 0],
        ]
        .concat();
        let acpi = read(&machine(&madt, b"\x08_S5_\x12\x08\x04\x0a\x05\x01\x00\x00"), None).unwrap();
        assert_eq!(acpi.cpus, [0, 1]);
        assert_eq!(acpi.ioapics, [IoApic { address: 0xfec0_0000, first_gsi: 0 }]);
        assert_eq!(acpi.overrides[0], Override { source: 0, gsi: 2, is_level: false, is_active_low: false });
        assert_eq!(acpi.overrides[1], Override { source: 9, gsi: 9, is_level: true, is_active_low: false });
        assert_eq!(acpi.power_off, Some(PowerOff { control_a: 0x604, control_b: 0, sleep_types: [5, 1] }));
        assert_eq!(acpi.timer_port, Some(0x608));
        assert_eq!(acpi.windows, [Window { address: 0xb000_0000, segment: 1, first_bus: 0, last_bus: 255 }]);
    }

    #[test]
    fn bad_tables_say_nothing() {
        let acpi = read(&machine(&[0, 0, 0, 0, 0, 0, 0, 0, 1, 200, 3], b"no sleep"), None).unwrap();
        assert!(acpi.ioapics.is_empty() && acpi.power_off.is_none());
        assert!(read(&Image(vec![]), None).is_none());
        // A root pointer that is none does not hide the one in the BIOS.
        let machine = machine(&[], b"no sleep");
        for root in [&b"RSD PTR "[..], &[0; 36], b"RSD PTR \x01OXEN  \0\0\0\0\0"] {
            assert_eq!(read(&machine, Some(root)).unwrap().timer_port, Some(0x608));
        }
    }

    #[test]
    fn the_timer_is_where_the_long_field_says_if_it_is_about_ports() {
        let table = |revision: u8, short: u32, space: u8, long: u64| {
            let mut table = [0_u8; 244];
            table[8] = revision;
            table[76..80].copy_from_slice(&short.to_le_bytes());
            table[208] = space;
            table[212..220].copy_from_slice(&long.to_le_bytes());
            find_timer(&table)
        };
        assert_eq!(table(1, 0x408, 1, 0x808), Some(0x408));
        assert_eq!(table(3, 0x408, 1, 0x808), Some(0x808));
        assert_eq!(table(3, 0x408, 0, 0xfed0_0000), Some(0x408), "registers in memory");
        assert_eq!(table(3, 0x408, 1, 0), Some(0x408));
        assert_eq!(table(3, 0, 1, 0), None);
        assert_eq!(table(3, 0, 1, 0x1_0000), None);
        assert_eq!(find_timer(&[0; 78]), None, "cut short");
    }
}
