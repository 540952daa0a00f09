//! What the settings of a configuration mean together.

use alloc::{
    format,
    string::{String, ToString},
    vec::Vec,
};

use oxen_abi::domctl::{TSC_MODE_ALWAYS_EMULATE, TSC_MODE_DEFAULT, TSC_MODE_NEVER_EMULATE};

use super::cpus::CpuSet;
use super::syntax::{Setting, Value};
use super::{Action, ConfigError, GuestConfig, Place, disk, vif};

/// The fewest MiB with which any guest can be built.
const MIN_MEMORY: u64 = 1;
/// The most MiB that a configuration can ask for.
const MAX_MEMORY: u64 = 1 << 24;
/// The most virtual processors that the hypervisor gives a guest.
const MAX_VCPUS: u64 = 128;

impl Setting {
    /// What is wrong with it.
    pub(super) fn error(&self, what: &str) -> ConfigError {
        ConfigError { place: self.place, message: format!("`{}` {what}", self.key) }
    }
}

/// All settings of a configuration, each key once.
pub(super) struct Draft {
    pub(super) settings: Vec<Setting>,
}

impl Draft {
    fn place(&self, key: &str) -> Place {
        self.get(key).map_or(Place::Nowhere, |setting| setting.place)
    }

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

    /// A number within bounds, of a unit where it has one; as xl does, a number in quotes counts too.
    fn number(&self, key: &str, unit: &str, least: u64, most: u64) -> Result<Option<u64>, ConfigError> {
        let Some(setting) = self.get(key) else { return Ok(None) };
        let number = match &setting.value {
            Value::Number(n) => Some(*n),
            Value::Text(text) => text.parse().ok(),
            Value::List(_) => None,
        };
        match number {
            Some(n) if (least..=most).contains(&n) => Ok(Some(n)),
            _ => Err(setting.error(&format!("wants a number{unit} from {least} to {most}"))),
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
            Some(text) => Action::parse(&text).ok_or_else(|| ConfigError {
                place: self.place(key),
                message: format!("`{key}` is `{text}`; it may be destroy, restart or preserve"),
            }),
        }
    }

    fn required(&self, key: &str, example: &str) -> Result<String, ConfigError> {
        self.text(key)?.filter(|text| !text.is_empty()).ok_or_else(|| ConfigError {
            place: self.place(key),
            message: format!("`{key}` is missing; write for example {key} = \"{example}\""),
        })
    }

    /// Where its vcpus may or should run: one set for all, or a list with one for each.
    fn cpus(&self, key: &str) -> Result<Vec<CpuSet>, ConfigError> {
        let Some(setting) = self.get(key) else { return Ok(Vec::new()) };
        let one = |value: &Value| {
            let set = match value {
                Value::Text(text) => CpuSet::parse(text),
                Value::Number(number) => CpuSet::parse(&number.to_string()),
                Value::List(_) => Err(anyhow::anyhow!("lists do not nest")),
            };
            set.map_err(|why| setting.error(&format!("cannot be understood: {why}")))
        };
        match &setting.value {
            Value::List(values) => values.iter().map(one).collect(),
            value => Ok(Vec::from([one(value)?])),
        }
    }

    pub(super) fn finish(self) -> Result<GuestConfig, ConfigError> {
        self.check_type()?;
        let memory = self.number("memory", " of MiB", MIN_MEMORY, MAX_MEMORY)?.unwrap_or(128);
        let maxmem = self.number("maxmem", " of MiB", MIN_MEMORY, MAX_MEMORY)?.unwrap_or(memory);
        let vcpus = self.number("vcpus", "", 1, MAX_VCPUS)?.unwrap_or(1);
        let maxvcpus = self.number("maxvcpus", "", 1, MAX_VCPUS)?.unwrap_or(vcpus);
        let at = |key, message| ConfigError { place: self.place(key), message };
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
            balloon_shares: self.number("balloon_shares", "", 1, 1_000_000)?.and_then(|n| u32::try_from(n).ok()),
            vcpus: u32::try_from(vcpus).unwrap_or(1),
            maxvcpus: u32::try_from(maxvcpus).unwrap_or(1),
            cpus: self.cpus("cpus")?,
            cpus_soft: self.cpus("cpus_soft")?,
            cpu_weight: self.number("cpu_weight", "", 1, 65535)?.and_then(|n| u16::try_from(n).ok()),
            cap: self.number("cap", " of percent", 0, 65535)?.and_then(|n| u16::try_from(n).ok()),
            max_grant_version: self.number("max_grant_version", "", 1, 2)?.and_then(|n| u32::try_from(n).ok()),
            tsc_mode: self.tsc_mode()?,
            is_translated: self.number("translated", "", 0, 1)? == Some(1),
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
        match super::judge_name(&name) {
            Ok(()) => Ok(name),
            Err(rule) => Err(ConfigError { place: self.place("name"), message: format!("`name` {rule}") }),
        }
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
        match super::uuid_of(&text) {
            Some(uuid) => Ok(Some(uuid)),
            None => Err(ConfigError {
                place: self.place("uuid"),
                message: format!("`uuid` is `{text}`; it has 32 hexadecimal digits"),
            }),
        }
    }
}
