//! Guest configurations: the documented subset of xl.cfg.

pub mod cpus;
pub mod disk;
mod draft;
mod keys;
pub mod syntax;
#[cfg(test)]
mod tests;
pub mod vif;

pub use keys::KEYS;

use alloc::{format, string::String, vec::Vec};
use core::fmt;

use crate::suggest;
use cpus::CpuSet;
use disk::Disk;
use draft::Draft;
use syntax::Setting;
use vif::Interface;

/// Where something was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In this line of the configuration, from 1.
    Line(usize),
    /// Among the words behind the configuration's name.
    CommandLine,
    /// Nowhere: something is missing altogether.
    Nowhere,
}

/// Why a configuration is refused, or what of it does not count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// Where.
    pub place: Place,
    /// What is wrong.
    pub message: String,
}

impl core::error::Error for ConfigError {}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place {
            Place::Line(line) => write!(f, "line {line}: {}", self.message),
            Place::CommandLine => write!(f, "on the command line: {}", self.message),
            Place::Nowhere => f.write_str(&self.message),
        }
    }
}

/// What happens with a guest that has stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Everything is given back.
    Destroy,
    /// It starts again from its configuration.
    Restart,
    /// It stays as it is, to be looked at.
    Preserve,
}

impl Action {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "destroy" => Some(Self::Destroy),
            "restart" => Some(Self::Restart),
            "preserve" => Some(Self::Preserve),
            _ => None,
        }
    }
}

/// One guest to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestConfig {
    /// Unique among the running guests.
    pub name: String,
    /// Given, or chosen by the toolstack.
    pub uuid: Option<[u8; 16]>,
    /// File of the archive.
    pub kernel: String,
    /// File of the archive.
    pub ramdisk: Option<String>,
    /// What the kernel is told.
    pub cmdline: String,
    /// MiB at the start.
    pub memory: u64,
    /// MiB that it may grow to.
    pub maxmem: u64,
    /// Its shares of the machine's memory relative to others, 1000 by default, where a policy shares it out. xl has
    /// none.
    pub balloon_shares: Option<u32>,
    /// Online at the start.
    pub vcpus: u32,
    /// That there can be.
    pub maxvcpus: u32,
    /// Where its vcpus may run: one set for all, or one for each of the first; anywhere without.
    pub cpus: Vec<CpuSet>,
    /// Where they should run, in the same way.
    pub cpus_soft: Vec<CpuSet>,
    /// Share of the processor relative to others, 256 by default.
    pub cpu_weight: Option<u16>,
    /// Percent of one processor that it may use at most.
    pub cap: Option<u16>,
    /// The greatest version that its grant table may have; the hypervisor's without.
    pub max_grant_version: Option<u32>,
    /// How it has its time stamp counter, a `TSC_MODE_*`; the hypervisor's choice without.
    pub tsc_mode: Option<u32>,
    /// Whether the hypervisor translates its frames for it, instead of showing it the machine's. xl has no such guests.
    pub is_translated: bool,
    /// Virtual disks.
    pub disks: Vec<Disk>,
    /// Network interfaces.
    pub vifs: Vec<Interface>,
    /// After a clean end.
    pub on_poweroff: Action,
    /// When it asks to be restarted.
    pub on_reboot: Action,
    /// After a crash.
    pub on_crash: Action,
}

/// Reads a configuration.
///
/// # Errors
/// [`ConfigError`]: a key is unknown, missing or twice there, or its value makes no sense.
pub fn parse(source: &str) -> Result<GuestConfig, ConfigError> {
    parse_with(source, &[]).map(|(config, _)| config)
}

/// Reads a configuration. Words of the form KEY=VALUE count instead of its own settings, and later ones instead of
/// earlier ones. Comes with what xl knows and what does not count here.
///
/// # Errors
/// As [`parse`].
pub fn parse_with(source: &str, words: &[String]) -> Result<(GuestConfig, Vec<ConfigError>), ConfigError> {
    let mut settings: Vec<Setting> = Vec::new();
    for setting in syntax::parse(source)? {
        if settings.iter().any(|earlier| earlier.key == setting.key) {
            return Err(setting.error("is given twice"));
        }
        settings.push(setting);
    }
    for word in words {
        let setting = syntax::parse_word(word)?;
        settings.retain(|earlier| earlier.key != setting.key);
        settings.push(setting);
    }
    let mut warnings = Vec::new();
    for setting in &settings {
        let key = setting.key.as_str();
        if keys::OTHERS.contains(&key) {
            warnings.push(setting.error("means nothing here and does not count"));
        } else if !KEYS.contains(&key) {
            return Err(unknown_key(setting));
        }
    }
    Ok((Draft { settings }.finish()?, warnings))
}

/// Whether a guest can be named so.
///
/// # Errors
/// What a name must be.
pub fn judge_name(name: &str) -> Result<(), &'static str> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '+');
    let is_free = !matches!(name, "" | "Domain-0") && name.parse::<u32>().is_err();
    if is_free && name.chars().all(good) && !name.starts_with('-') && name.len() <= 64 {
        return Ok(());
    }
    Err("must consist of letters, digits, `-`, `_`, `.`, `+`, not be a number, and have at most 64 of them")
}

/// A UUID as text.
pub fn uuid_text(uuid: &[u8; 16]) -> String {
    let number = u128::from_be_bytes(*uuid);
    let part = |shift: u32, digits: u32| (number >> shift) & ((1 << (4 * digits)) - 1);
    format!("{:08x}-{:04x}-{:04x}-{:04x}-{:012x}", part(96, 8), part(80, 4), part(64, 4), part(48, 4), part(0, 12))
}

/// The UUID that a text with 32 hexadecimal digits is.
pub fn uuid_of(text: &str) -> Option<[u8; 16]> {
    let digits: String = text.chars().filter(|c| *c != '-').collect();
    let number = u128::from_str_radix(&digits, 16).ok().filter(|_| digits.len() == 32 && !digits.starts_with('+'));
    number.map(u128::to_be_bytes)
}

fn unknown_key(setting: &Setting) -> ConfigError {
    let advice = match suggest::nearest(&setting.key, KEYS) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("known are: {}", KEYS.join(", ")),
    };
    ConfigError { place: setting.place, message: format!("unknown key `{}`; {advice}", setting.key) }
}
