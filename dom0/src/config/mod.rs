//! Guest configurations: the documented subset of xl.cfg.

pub mod disk;
pub mod syntax;
pub mod vif;

use alloc::{
    format,
    string::{String, ToString},
    vec::Vec,
};
use core::fmt;

use crate::suggest;
use disk::Disk;
use oxen_abi::domctl::{TSC_MODE_ALWAYS_EMULATE, TSC_MODE_DEFAULT, TSC_MODE_NEVER_EMULATE};
use syntax::{Setting, Value};
use vif::Interface;

/// Why a configuration is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// Where, from 1; 0 where something is missing altogether.
    pub line: usize,
    /// What is wrong.
    pub message: String,
}

impl core::error::Error for ConfigError {}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => f.write_str(&self.message),
            line => write!(f, "line {line}: {}", self.message),
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
    /// Online at the start.
    pub vcpus: u32,
    /// That there can be.
    pub maxvcpus: u32,
    /// Share of the processor relative to others, 256 by default.
    pub cpu_weight: Option<u16>,
    /// Percent of one processor that it may use at most.
    pub cap: Option<u16>,
    /// The greatest version that its grant table may have; the hypervisor's without.
    pub max_grant_version: Option<u32>,
    /// How it has its time stamp counter, a `TSC_MODE_*`; the hypervisor's choice without.
    pub tsc_mode: Option<u32>,
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

/// Every key that has a meaning here.
pub const KEYS: [&str; 22] = [
    "name",
    "uuid",
    "type",
    "builder",
    "kernel",
    "ramdisk",
    "cmdline",
    "root",
    "extra",
    "memory",
    "maxmem",
    "vcpus",
    "maxvcpus",
    "cpu_weight",
    "cap",
    "max_grant_version",
    "tsc_mode",
    "disk",
    "vif",
    "on_poweroff",
    "on_reboot",
    "on_crash",
];

/// The fewest MiB with which any guest can be built.
const MIN_MEMORY: u64 = 1;
/// The most virtual processors that the hypervisor gives a guest.
const MAX_VCPUS: u64 = 128;

/// Reads a configuration.
///
/// # Errors
/// [`ConfigError`]: a key is unknown, missing or twice there, or its value makes no sense.
pub fn parse(source: &str) -> Result<GuestConfig, ConfigError> {
    let settings = syntax::parse(source)?;
    for (i, setting) in settings.iter().enumerate() {
        if !KEYS.contains(&setting.key.as_str()) {
            return Err(unknown_key(setting));
        }
        if settings.iter().take(i).any(|earlier| earlier.key == setting.key) {
            return Err(setting.error("is given twice"));
        }
    }
    Draft { settings }.finish()
}

fn unknown_key(setting: &Setting) -> ConfigError {
    let advice = match suggest::nearest(&setting.key, KEYS) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("known are: {}", KEYS.join(", ")),
    };
    ConfigError { line: setting.line, message: format!("unknown key `{}`; {advice}", setting.key) }
}

impl Setting {
    fn error(&self, what: &str) -> ConfigError {
        ConfigError { line: self.line, message: format!("`{}` {what}", self.key) }
    }
}

struct Draft {
    settings: Vec<Setting>,
}

impl Draft {
    fn get(&self, key: &str) -> Option<&Setting> {
        self.settings.iter().find(|s| s.key == key)
    }

    fn text(&self, key: &str) -> Result<Option<String>, ConfigError> {
        self.get(key)
            .map(|s| match &s.value {
                Value::Text(text) => Ok(text.clone()),
                _ => Err(s.error("wants text in quotes")),
            })
            .transpose()
    }

    /// A number within bounds; as xl does, a number in quotes counts too.
    fn number(&self, key: &str, least: u64, most: u64) -> Result<Option<u64>, ConfigError> {
        let Some(setting) = self.get(key) else { return Ok(None) };
        let number = match &setting.value {
            Value::Number(n) => Some(*n),
            Value::Text(text) => text.parse().ok(),
            Value::List(_) => None,
        };
        match number {
            Some(n) if (least..=most).contains(&n) => Ok(Some(n)),
            _ => Err(setting.error(&format!("wants a number from {least} to {most}"))),
        }
    }

    fn texts(&self, key: &str) -> Result<Vec<String>, ConfigError> {
        let Some(setting) = self.get(key) else { return Ok(Vec::new()) };
        let Value::List(items) = &setting.value else { return Err(setting.error("wants a list in brackets")) };
        let each = items.iter().map(|item| match item {
            Value::Text(text) => Ok(text.clone()),
            _ => Err(setting.error("wants a list of texts in quotes")),
        });
        each.collect()
    }

    fn action(&self, key: &str, default: Action) -> Result<Action, ConfigError> {
        match self.text(key)? {
            None => Ok(default),
            Some(text) => Action::parse(&text).ok_or_else(|| {
                let setting = self.get(key).map_or(0, |s| s.line);
                ConfigError {
                    line: setting,
                    message: format!("`{key}` is `{text}`; it may be destroy, restart or preserve"),
                }
            }),
        }
    }

    fn required(&self, key: &str, example: &str) -> Result<String, ConfigError> {
        self.text(key)?.filter(|text| !text.is_empty()).ok_or_else(|| ConfigError {
            line: self.get(key).map_or(0, |s| s.line),
            message: format!("`{key}` is missing; write for example {key} = \"{example}\""),
        })
    }

    fn finish(self) -> Result<GuestConfig, ConfigError> {
        self.check_type()?;
        let memory = self.number("memory", MIN_MEMORY, 1 << 24)?.unwrap_or(128);
        let maxmem = self.number("maxmem", MIN_MEMORY, 1 << 24)?.unwrap_or(memory);
        let vcpus = self.number("vcpus", 1, MAX_VCPUS)?.unwrap_or(1);
        let maxvcpus = self.number("maxvcpus", 1, MAX_VCPUS)?.unwrap_or(vcpus);
        let at = |key, message| ConfigError { line: self.get(key).map_or(0, |s| s.line), message };
        let bounds = [("memory", memory, "maxmem", maxmem), ("vcpus", vcpus, "maxvcpus", maxvcpus)];
        if let Some((low, small, high, great)) = bounds.into_iter().find(|(_, small, _, great)| small > great) {
            return Err(at(high, format!("`{high}` {great} is less than `{low}` {small}")));
        }
        let disks = disk::parse_all(&self.texts("disk")?).map_err(|why| at("disk", format!("{why:#}")))?;
        let vifs = vif::parse_all(&self.texts("vif")?).map_err(|why| at("vif", format!("{why:#}")))?;
        Ok(GuestConfig {
            name: self.name()?,
            uuid: self.uuid()?,
            kernel: self.required("kernel", "hello")?,
            ramdisk: self.text("ramdisk")?,
            cmdline: self.cmdline()?,
            memory,
            maxmem,
            vcpus: u32::try_from(vcpus).unwrap_or(1),
            maxvcpus: u32::try_from(maxvcpus).unwrap_or(1),
            cpu_weight: self.number("cpu_weight", 1, 65535)?.and_then(|n| u16::try_from(n).ok()),
            cap: self.number("cap", 0, 65535)?.and_then(|n| u16::try_from(n).ok()),
            max_grant_version: self.number("max_grant_version", 1, 2)?.and_then(|n| u32::try_from(n).ok()),
            tsc_mode: self.tsc_mode()?,
            disks,
            vifs,
            on_poweroff: self.action("on_poweroff", Action::Destroy)?,
            on_reboot: self.action("on_reboot", Action::Restart)?,
            on_crash: self.action("on_crash", Action::Destroy)?,
        })
    }

    /// By xl's names, or by number as before there were names.
    fn tsc_mode(&self) -> Result<Option<u32>, ConfigError> {
        const NAMES: [(&str, u32); 3] = [
            ("default", TSC_MODE_DEFAULT),
            ("always_emulate", TSC_MODE_ALWAYS_EMULATE),
            ("native", TSC_MODE_NEVER_EMULATE),
        ];
        let Some(setting) = self.get("tsc_mode") else { return Ok(None) };
        let mode = NAMES.into_iter().find(|&(name, mode)| match &setting.value {
            Value::Text(text) => text == name || text.parse() == Ok(mode),
            Value::Number(number) => *number == u64::from(mode),
            Value::List(_) => false,
        });
        let wants = "wants \"default\", \"always_emulate\" or \"native\"";
        mode.map(|(_, mode)| Some(mode)).ok_or_else(|| setting.error(wants))
    }

    fn check_type(&self) -> Result<(), ConfigError> {
        for (key, right) in [("type", &["pv"][..]), ("builder", &["generic", "linux"][..])] {
            if let (Some(setting), Some(text)) = (self.get(key), self.text(key)?)
                && !right.contains(&text.as_str())
            {
                return Err(setting.error(&format!("is `{text}`; only paravirtual guests are built (type = \"pv\")")));
            }
        }
        Ok(())
    }

    fn name(&self) -> Result<String, ConfigError> {
        let name = self.required("name", "hello")?;
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '+');
        if name.chars().all(good) && !name.starts_with('-') && name.len() <= 64 && name.parse::<u32>().is_err() {
            return Ok(name);
        }
        let rule = "must consist of letters, digits, `-`, `_`, `.`, `+`, not be a number, and have at most 64 of them";
        Err(self.get("name").map_or(ConfigError { line: 0, message: rule.to_string() }, |s| s.error(rule)))
    }

    /// `cmdline` as it is, or else `root=ROOT EXTRA`.
    fn cmdline(&self) -> Result<String, ConfigError> {
        let (cmdline, root, extra) = (self.text("cmdline")?, self.text("root")?, self.text("extra")?);
        if let (Some(setting), true) = (self.get("cmdline"), root.is_some() || extra.is_some()) {
            return Err(setting.error("already says everything; leave `root` and `extra` out"));
        }
        let parts = [cmdline, root.map(|r| format!("root={r}")), extra];
        Ok(parts.into_iter().flatten().collect::<Vec<_>>().join(" "))
    }

    fn uuid(&self) -> Result<Option<[u8; 16]>, ConfigError> {
        let Some(text) = self.text("uuid")? else { return Ok(None) };
        let digits: Vec<u8> = text.bytes().filter(|&b| b != b'-').collect();
        let number = core::str::from_utf8(&digits).ok().filter(|d| d.len() == 32 && !d.starts_with('+'));
        match number.and_then(|d| u128::from_str_radix(d, 16).ok()) {
            Some(number) => Ok(Some(number.to_be_bytes())),
            None => Err(ConfigError {
                line: self.get("uuid").map_or(0, |s| s.line),
                message: format!("`uuid` is `{text}`; it has 32 hexadecimal digits"),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_configuration_is_read() {
        let source = r#"
            name = "fs"; type = "pv"
            kernel = "fs"
            root = "/dev/xvda1"
            extra = "console=hvc0 quiet"
            memory = 64
            maxmem = "128"
            vcpus = 2
            disk = [ "phy:/dev/vda,xvda,w" ]
            on_reboot = "preserve"
            uuid = "0fccc158-e4f0-11f1-a0a2-3ed83e07cf68"
        "#;
        let c = parse(source).unwrap();
        assert_eq!((c.name.as_str(), c.memory, c.maxmem, c.vcpus, c.maxvcpus), ("fs", 64, 128, 2, 2));
        assert_eq!(c.cmdline, "root=/dev/xvda1 console=hvc0 quiet");
        assert_eq!((c.on_poweroff, c.on_reboot, c.on_crash), (Action::Destroy, Action::Preserve, Action::Destroy));
        assert_eq!(c.disks.first().unwrap().number, 51712);
        assert_eq!(c.uuid.unwrap().first(), Some(&0x0f));
        assert_eq!(c.max_grant_version, None);
        let versions = ["1", "2", "3"].map(|n| parse(&format!("{source}\nmax_grant_version = {n}")).ok());
        assert_eq!(versions.map(|c| c.and_then(|c| c.max_grant_version)), [Some(1), Some(2), None]);
    }

    #[test]
    fn the_time_stamp_counter_is_chosen_as_in_xl() {
        let mode = |value: &str| parse(&format!("name='a'\nkernel='k'\ntsc_mode={value}")).map(|c| c.tsc_mode);
        let chosen = [("'default'", 0), ("'always_emulate'", 1), ("'native'", 2), ("1", 1), ("'2'", 2)];
        assert!(chosen.into_iter().all(|(value, expected)| mode(value) == Ok(Some(expected))));
        let wants = "line 3: `tsc_mode` wants \"default\", \"always_emulate\" or \"native\"";
        for value in ["'native_paravirt'", "3", "['native']"] {
            assert_eq!(mode(value).unwrap_err().to_string(), wants);
        }
        assert_eq!(parse("name='a'\nkernel='k'").unwrap().tsc_mode, None);
    }

    #[test]
    fn an_unknown_key_is_named_with_line_and_nearest() {
        let message = parse("name = 'x'\nmemry = 3").unwrap_err().to_string();
        assert_eq!(message, "line 2: unknown key `memry`; did you mean `memory`?");
        assert!(parse("zzzzzzzz = 3").unwrap_err().to_string().contains("known are: name"));
    }

    #[test]
    fn what_is_wrong_is_said() {
        let wrong = [
            ("kernel='k'", "`name` is missing; write for example name = \"hello\""),
            ("name='a'", "`kernel` is missing; write for example kernel = \"hello\""),
            ("name='a'\nname='b'", "line 2: `name` is given twice"),
            ("name='a'\nkernel='k'\nmemory='x'", "line 3: `memory` wants a number from 1 to 16777216"),
            ("name='a'\nkernel='k'\nmemory=8\nmaxmem=4", "line 4: `maxmem` 4 is less than `memory` 8"),
            ("name='a'\nkernel='k'\ndisk='x'", "line 3: `disk` wants a list in brackets"),
            ("name='a'\nkernel='k'\ndisk=['x']", "line 3: disk 'x': names no virtual disk, such as vdev=xvda"),
            ("name='a'\nkernel='k'\non_crash='x'", "line 3: `on_crash` is `x`; it may be destroy, restart or preserve"),
            (
                "name='a'\nkernel='k'\ncmdline=''\nroot='x'",
                "line 3: `cmdline` already says everything; leave `root` and `extra` out",
            ),
            ("name='a'\nkernel='k'\nuuid='1'", "line 3: `uuid` is `1`; it has 32 hexadecimal digits"),
            ("type='hvm'", "line 1: `type` is `hvm`; only paravirtual guests are built (type = \"pv\")"),
        ];
        for (source, message) in wrong {
            assert_eq!(parse(source).unwrap_err().to_string(), message, "{source}");
        }
        assert!(parse("name='a b'\nkernel='k'").is_err() && parse("name='17'\nkernel='k'").is_err());
    }
}
