//! One network interface of a guest: xl's notation.

use alloc::{
    format,
    string::{String, ToString},
    vec::Vec,
};

use anyhow::{Context, Result, bail, ensure};

use crate::bridge::Mac;
use crate::suggest;

/// The one bridge that there is.
pub const BRIDGE: &str = "xenbr0";
/// Where xl's scripts stand. None runs here: the nodes name one, as tools expect it.
const SCRIPTS: &str = "/etc/xen/scripts/";
/// Keys that have a meaning here.
const KEYS: [&str; 8] = ["mac", "bridge", "script", "ip", "vifname", "rate", "type", "model"];

/// Bytes in an interval, as the configuration says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Bytes that may be sent in each interval.
    pub bytes: u64,
    /// Its length in microseconds.
    pub interval: u32,
}

/// An interface as the configuration describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Given, or chosen by the toolstack.
    pub mac: Option<Mac>,
    /// What it is attached to.
    pub bridge: String,
    /// What would attach it elsewhere.
    pub script: String,
    /// Addresses that the guest should have, for whoever reads the node.
    pub ip: Option<String>,
    /// Its name here.
    pub vifname: Option<String>,
    /// How fast the guest may send.
    pub rate: Option<Rate>,
}

impl Interface {
    /// Reads `key=value` fields parted by commas; nothing at all is an interface too.
    ///
    /// # Errors
    /// A field has an unknown key or no such value.
    pub fn parse(text: &str) -> Result<Self> {
        let mut interface = Self {
            mac: None,
            bridge: BRIDGE.into(),
            script: format!("{SCRIPTS}vif-bridge"),
            ip: None,
            vifname: None,
            rate: None,
        };
        for field in text.split(',').map(str::trim).filter(|field| !field.is_empty()) {
            let (key, value) =
                field.split_once('=').with_context(|| format!("`{field}` is not of the form key=value"))?;
            interface.set(key.trim(), value.trim())?;
        }
        Ok(interface)
    }

    fn set(&mut self, key: &str, value: &str) -> Result<()> {
        match key {
            "mac" => {
                let mac = Mac::parse(value).with_context(|| format!("mac `{value}` is not like 00:16:3e:01:02:03"))?;
                ensure!(!mac.is_group(), "mac `{value}` is the address of a group, not of one interface");
                self.mac = Some(mac);
            }
            "bridge" if value == BRIDGE => {}
            "bridge" => bail!("no bridge `{value}`; there is {BRIDGE}"),
            "script" if value.starts_with('/') => self.script = value.to_string(),
            "script" => self.script = format!("{SCRIPTS}{value}"),
            "ip" => self.ip = Some(value.to_string()),
            "vifname" => self.vifname = Some(value.to_string()),
            "rate" => {
                self.rate = Some(
                    parse_rate(value)
                        .with_context(|| format!("rate `{value}` is not like 10Mb/s, 250KB/s or 1MB/s@20ms"))?,
                )
            }
            "type" if value == "vif" => {}
            "type" => bail!("type `{value}` is for other guests; paravirtual ones have type=vif"),
            // Names a card to be emulated, which paravirtual guests have none of; xl takes no notice either.
            "model" => {}
            _ => match suggest::nearest(key, KEYS) {
                Some(near) => bail!("unknown key `{key}`; did you mean `{near}`?"),
                None => bail!("unknown key `{key}`; known: {}", KEYS.join(", ")),
            },
        }
        Ok(())
    }
}

/// The number that `text` begins with, and the rest.
fn number(text: &str) -> Option<(u64, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, rest) = text.split_at(digits);
    Some((number.parse().ok()?, rest))
}

/// xl's notation for a rate: `NUMBER[K|M|G](b|B)/s`, and perhaps `@` with an interval of `us`, `ms` or `s`.
fn parse_rate(text: &str) -> Option<Rate> {
    let (rate, interval) = text.split_once('@').map_or((text, "50ms"), |(rate, interval)| (rate, interval));
    let (count, unit) = number(rate)?;
    let unit = unit.strip_suffix("/s")?;
    let (scale, unit) = match unit.strip_prefix(['K', 'M', 'G']) {
        None => (1, unit),
        Some(rest) => (
            if unit.starts_with('K') {
                1000
            } else if unit.starts_with('M') {
                1_000_000
            } else {
                1_000_000_000
            },
            rest,
        ),
    };
    let per_second = match unit {
        "b" => count.checked_mul(scale)? / 8,
        "B" => count.checked_mul(scale)?,
        _ => return None,
    };
    let (count, unit) = number(interval)?;
    let microseconds = match unit {
        "us" => count,
        "ms" => count.checked_mul(1000)?,
        "s" => count.checked_mul(1_000_000)?,
        _ => return None,
    };
    let interval = u32::try_from(microseconds).ok().filter(|&interval| interval != 0)?;
    let bytes = per_second.checked_mul(interval.into())? / 1_000_000;
    (bytes != 0).then_some(Rate { bytes, interval })
}

/// All fields of a list, read as interfaces.
///
/// # Errors
/// One cannot be read, or has another's address; it is named.
pub fn parse_all(texts: &[String]) -> Result<Vec<Interface>> {
    let mut interfaces: Vec<Interface> = Vec::new();
    for text in texts {
        let interface = Interface::parse(text).with_context(|| format!("vif '{text}'"))?;
        let is_new = interface.mac.is_none() || interfaces.iter().all(|other| other.mac != interface.mac);
        ensure!(is_new, "vif '{text}': another interface has this mac");
        interfaces.push(interface);
    }
    Ok(interfaces)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_description_is_an_interface() {
        let plain = Interface::parse("").unwrap();
        assert_eq!((plain.mac, plain.bridge.as_str(), plain.rate), (None, "xenbr0", None));
        assert_eq!(plain.script, "/etc/xen/scripts/vif-bridge");
    }

    #[test]
    fn all_keys_are_read() {
        let text = "mac=00:16:3E:01:02:ff, bridge=xenbr0, script=vif-nat,ip=10.0.0.2,vifname=web,rate=10Mb/s,type=vif,\
                    model=e1000";
        let all = Interface::parse(text).unwrap();
        assert_eq!(all.mac, Some(Mac([0, 0x16, 0x3e, 1, 2, 0xff])));
        assert_eq!(all.script, "/etc/xen/scripts/vif-nat");
        assert_eq!((all.ip.as_deref(), all.vifname.as_deref()), (Some("10.0.0.2"), Some("web")));
        assert_eq!(all.rate, Some(Rate { bytes: 62_500, interval: 50_000 }));
    }

    #[test]
    fn rates_are_read_as_xl_reads_them() {
        for (text, bytes, interval) in
            [("250KB/s", 12_500, 50_000), ("1MB/s@20ms", 20_000, 20_000), ("1Gb/s@1s", 125_000_000, 1_000_000)]
        {
            assert_eq!(parse_rate(text), Some(Rate { bytes, interval }), "{text}");
        }
        for bad in ["", "10", "10Mb", "Mb/s", "10Xb/s", "10Mb/s@", "10Mb/s@5", "10Mb/s@0ms", "1b/s", "99999999999GB/s"]
        {
            assert_eq!(parse_rate(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_cannot_be_is_said() {
        for (text, message) in [
            ("mca=1", "unknown key `mca`; did you mean `mac`?"),
            ("mac=1", "mac `1` is not like 00:16:3e:01:02:03"),
            ("mac=01:16:3e:01:02:03", "mac `01:16:3e:01:02:03` is the address of a group, not of one interface"),
            ("bridge=br1", "no bridge `br1`; there is xenbr0"),
            ("type=ioemu", "type `ioemu` is for other guests; paravirtual ones have type=vif"),
            ("rate=fast", "rate `fast` is not like 10Mb/s, 250KB/s or 1MB/s@20ms"),
            ("xenbr0", "`xenbr0` is not of the form key=value"),
        ] {
            assert_eq!(Interface::parse(text).unwrap_err().to_string(), message, "{text}");
        }
        for bad in
            ["00:16:3e:01:02", "00:16:3e:01:02:03:04", "00:16:3e:01:02:0g", "0:16:3e:01:02:03", "+1:16:3e:01:02:03"]
        {
            assert_eq!(Mac::parse(bad), None, "{bad}");
        }
        let twice = ["mac=00:16:3e:01:02:03".to_string(), "mac=00:16:3e:01:02:03".to_string()];
        let refused = parse_all(&twice).unwrap_err().to_string();
        assert_eq!(refused, "vif 'mac=00:16:3e:01:02:03': another interface has this mac");
    }
}
