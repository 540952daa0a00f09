//! Which processor it is: who made it, and its family, model and stepping (CPUID leaves 0 and 1).

use crate::ports::Registers;

/// Who made the CPU, by the vendor's name in EBX of CPUID leaf 0: "Genu", "Auth", "Hygo".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vendor {
    /// Intel.
    Intel,
    /// AMD.
    Amd,
    /// Hygon, whose CPUs are AMD's in most.
    Hygon,
    /// Somebody else.
    Other,
}

impl Vendor {
    /// The vendor of this machine's CPUs.
    #[must_use]
    pub fn of(machine: &impl Registers) -> Self {
        Self::by_name(machine.cpuid(0, 0)[1])
    }

    /// The vendor by the first four letters.
    #[must_use]
    pub const fn by_name(ebx: u32) -> Self {
        match &ebx.to_le_bytes() {
            b"Genu" => Self::Intel,
            b"Auth" => Self::Amd,
            b"Hygo" => Self::Hygon,
            _ => Self::Other,
        }
    }

    /// Whether the CPU is of AMD's kind.
    #[must_use]
    pub const fn is_like_amd(self) -> bool {
        matches!(self, Self::Amd | Self::Hygon)
    }
}

/// A processor's vendor, family, model and stepping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuModel {
    /// Who made it.
    pub vendor: Vendor,
    /// The family, the extended one added where there is one.
    pub family: u32,
    /// The model, the extended one in its upper half.
    pub model: u32,
    /// The stepping.
    pub stepping: u32,
}

impl CpuModel {
    /// This machine's.
    #[must_use]
    pub fn of(machine: &impl Registers) -> Self {
        let [signature, ..] = machine.cpuid(1, 0);
        let (family, more_family) = (signature >> 8 & 0xf, signature >> 20 & 0xff);
        let family = if family == 15 { family + more_family } else { family };
        let model = signature >> 4 & 0xf | if family >= 6 { signature >> 12 & 0xf0 } else { 0 };
        Self { vendor: Vendor::of(machine), family, model, stepping: signature & 0xf }
    }
}
