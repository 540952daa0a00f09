//! One disk of a guest: xl's notation and the numbers by which frontends know virtual disks.

use alloc::{
    format,
    string::{String, ToString},
    vec::Vec,
};

use anyhow::{Context, Result, bail, ensure};

/// A disk as the configuration names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// What stands behind it: a disk of this machine (`vda`, `/dev/vda`) or a file of the archive.
    pub target: String,
    /// The guest's name for it, such as `xvda`.
    pub vdev: String,
    /// The number that goes with that name.
    pub number: u32,
    /// Whether the guest may write.
    pub writable: bool,
}

impl Disk {
    /// Reads xl's notation: `target,format,vdev,access` in this order, or by name in any order with
    /// `target=` last, or the old `phy:target,vdev,access`.
    ///
    /// # Errors
    /// A field is unknown, has no such value, is missing or one too many.
    pub fn parse(text: &str) -> Result<Self> {
        let old = ["phy:", "file:"].iter().find_map(|prefix| text.strip_prefix(prefix));
        let order: &[&str] =
            if old.is_some() { &["target", "vdev", "access"] } else { &["target", "format", "vdev", "access"] };
        let mut places = order.iter();
        let (mut target, mut vdev, mut writable) = (None, None, true);
        let mut rest = Some(old.unwrap_or(text));
        while let Some(now) = rest {
            let trimmed = now.trim_start();
            if let Some(all) = trimmed.strip_prefix("target=") {
                target = Some(all.trim());
                break;
            }
            let (field, after) = now.split_once(',').map_or((now, None), |(f, a)| (f, Some(a)));
            rest = after;
            let field = field.trim();
            let (key, value) = match field.split_once('=') {
                Some((key, value)) => (key, value),
                None if is_flag(field) => ("access", field),
                None => (*places.next().with_context(|| format!("`{field}` is one field too many"))?, field),
            };
            match key {
                "target" => target = Some(value),
                "vdev" => vdev = Some(value),
                "access" => writable = parse_access(value)?,
                "format" if matches!(value, "" | "raw") => {}
                "format" => bail!("format `{value}` is not supported: raw only"),
                "backendtype" if value == "phy" => {}
                _ => bail!("`{field}` is not supported; known: target, format, vdev, access"),
            }
        }
        let target = target.filter(|t| !t.is_empty()).context("names no target, such as target=/dev/vda")?;
        let vdev = vdev.filter(|v| !v.is_empty()).context("names no virtual disk, such as vdev=xvda")?;
        let number =
            device_number(vdev).with_context(|| format!("`{vdev}` is no virtual disk, such as xvda or xvda1"))?;
        Ok(Self { target: target.to_string(), vdev: vdev.to_string(), number, writable })
    }
}

fn is_flag(field: &str) -> bool {
    matches!(field, "r" | "w" | "ro" | "rw" | "readonly" | "readwrite")
}

fn parse_access(value: &str) -> Result<bool> {
    match value {
        "r" | "ro" | "readonly" => Ok(false),
        "w" | "rw" | "readwrite" => Ok(true),
        _ => bail!("access `{value}` is neither ro nor rw"),
    }
}

/// The number of a virtual disk by its name: `xvda` is 202 << 8, partitions count on from there; disks
/// and partitions beyond the classic range use the extended form.
pub fn device_number(vdev: &str) -> Option<u32> {
    if vdev.starts_with(|c: char| c.is_ascii_digit()) {
        return vdev.parse().ok();
    }
    let prefixes = [("xvd", 202, 4, 16), ("sd", 8, 4, 16), ("hd", 3, 6, 2)];
    let &(prefix, major, shift, disks) = prefixes.iter().find(|(prefix, ..)| vdev.starts_with(prefix))?;
    let rest = vdev.strip_prefix(prefix)?;
    let letters = rest.bytes().take_while(u8::is_ascii_lowercase).count();
    let (letters, digits) = rest.split_at(letters);
    if letters.is_empty() || letters.len() > 2 || digits.starts_with('0') {
        return None;
    }
    let disk = letters.bytes().fold(0, |n, b| n * 26 + u32::from(b - b'a') + 1) - 1;
    let partition: u32 = if digits.is_empty() { 0 } else { digits.parse().ok()? };
    if disk < disks && partition < (1 << shift) {
        return Some((major << 8) | (disk << shift) | partition);
    }
    let extended = prefix == "xvd" && partition < 256;
    extended.then_some((1 << 28) | (disk << 8) | partition)
}

/// All fields of a list, read as disks.
///
/// # Errors
/// One cannot be read, or is there twice; it is named.
pub fn parse_all(texts: &[String]) -> Result<Vec<Disk>> {
    let mut disks: Vec<Disk> = Vec::new();
    for text in texts {
        let disk = Disk::parse(text).with_context(|| format!("disk '{text}'"))?;
        let is_new = disks.iter().all(|other| other.number != disk.number);
        ensure!(is_new, "disk '{text}': `{}` is there already", disk.vdev);
        disks.push(disk);
    }
    Ok(disks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_notation_means_the_same() {
        let want = Disk { target: "/dev/vda".into(), vdev: "xvda".into(), number: 51712, writable: true };
        for text in [
            "phy:/dev/vda,xvda,w",
            "/dev/vda,raw,xvda,rw",
            "/dev/vda,,xvda",
            "format=raw, vdev=xvda, access=rw, target=/dev/vda",
            "vdev=xvda,rw,target=/dev/vda",
            "/dev/vda,raw,xvda,backendtype=phy",
        ] {
            assert_eq!(Disk::parse(text).unwrap(), want, "{text}");
        }
        assert!(!Disk::parse("phy:vda,xvda,r").unwrap().writable);
        assert_eq!(Disk::parse("vdev=xvda,target=a,b=c").unwrap().target, "a,b=c");
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for bad in ["", "vdev=xvda", "phy:vda", "vda,qcow2,xvda", "vda,raw,xvda,x", "vda,raw,zz", "vda,raw,xvda,rw,1,2"]
        {
            assert!(Disk::parse(bad).is_err(), "{bad}");
        }
        let twice = ["vda,raw,xvda".into(), "vdb,raw,xvda".into()];
        assert_eq!(parse_all(&twice).unwrap_err().to_string(), "disk 'vdb,raw,xvda': `xvda` is there already");
    }

    #[test]
    fn names_have_numbers() {
        let known =
            [("xvda", 51712), ("xvda1", 51713), ("xvdp15", 51967), ("xvdq", (1 << 28) | (16 << 8)), ("sda", 2048)];
        for (name, number) in known {
            assert_eq!(device_number(name), Some(number), "{name}");
        }
        assert_eq!(device_number("hdb1"), Some((3 << 8) | 65));
        assert_eq!(device_number("51712"), Some(51712));
        for bad in ["xvd", "xvdA", "xvda01", "xvdaaa", "sdq", "foo", "xvda999"] {
            assert_eq!(device_number(bad), None, "{bad}");
        }
    }
}
