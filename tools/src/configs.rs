//! `cargo xtask run --config G.cfg --file F`: configurations and files of the user's own, put into dom0's ramdisk.
//!
//! dom0 reads the configurations, and says what is wrong with them. Here is only looked for the files that they name,
//! so that a configuration for real Xen's `xl` runs as it is where its kernel lies.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::symbols;

/// A configuration, as a file of dom0's ramdisk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Its name there: the file's own, without its folders.
    pub name: String,
    /// The guest's name, where it says one.
    pub guest: Option<String>,
    /// Memory in MiB that it asks for, as far as that can be told without dom0's parser.
    pub memory: u32,
}

/// A file of dom0's ramdisk: its name there, its bytes.
pub type File = (String, Vec<u8>);

/// Memory in MiB of a guest whose configuration says nothing.
const MEMORY: u32 = 128;

/// Reads configurations, the files that they name and those of `--file`; returns what goes into the ramdisk, each name
/// once: what `--file` says comes before what a configuration names.
///
/// # Errors
/// Fails when a file cannot be read, or two would have the same name.
pub fn gather(configs: &[PathBuf], files: &[String]) -> Result<(Vec<Config>, Vec<File>)> {
    let mut found = Vec::new();
    for file in files {
        let (name, path) = named(file)?;
        add(&mut found, name, read(&path)?)?;
    }
    let mut all = Vec::new();
    for path in configs {
        let name = file_name(path)?;
        let bytes = read(path)?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let folder = path.parent().unwrap_or(Path::new(""));
        for file in ["kernel", "ramdisk"].iter().filter_map(|key| setting(&text, key)) {
            let plain = plain(&file).to_owned();
            let on_disk = folder.join(&file);
            if !found.iter().any(|(known, _)| *known == plain) && on_disk.is_file() {
                add(&mut found, plain, read(&on_disk)?)?;
            }
        }
        let memory = [setting(&text, "maxmem"), setting(&text, "memory")];
        let memory = memory.into_iter().flatten().find_map(|mib| mib.parse().ok()).unwrap_or(MEMORY);
        all.push(Config { name: name.clone(), guest: setting(&text, "name"), memory });
        add(&mut found, name, bytes)?;
    }
    Ok((all, found))
}

/// dom0's script where the user has none: every guest is created, then each is shown until it ends.
#[must_use]
pub fn script(configs: &[Config]) -> String {
    let create = configs.iter().map(|config| format!("xl create {}; ", config.name));
    let wait = configs.iter().filter_map(|config| config.guest.as_ref()).map(|name| format!("xl wait {name}; "));
    create.chain(wait).collect::<String>() + "poweroff"
}

/// What dom0 types for a person: every guest is created, the last one with its console.
#[must_use]
pub fn attended(configs: &[Config]) -> String {
    let last = configs.len().saturating_sub(1);
    let create = |(index, config): (usize, &Config)| {
        format!("xl create {}{}", if index == last { "-c " } else { "" }, config.name)
    };
    configs.iter().enumerate().map(create).collect::<Vec<_>>().join("; ")
}

/// `NAME=PATH`, or a path whose last part is the name.
fn named(file: &str) -> Result<(String, PathBuf)> {
    match file.split_once('=') {
        Some((name, path)) if !name.is_empty() && !path.is_empty() => Ok((plain(name).to_owned(), path.into())),
        Some(_) => anyhow::bail!("--file wants PATH or NAME=PATH, not `{file}`"),
        None => Ok((file_name(Path::new(file))?, file.into())),
    }
}

fn file_name(path: &Path) -> Result<String> {
    let name = path.file_name().and_then(|name| name.to_str());
    Ok(name.with_context(|| format!("{} is no file's name", path.display()))?.to_owned())
}

/// A name as the ramdisk has it: without what leads to its root.
fn plain(name: &str) -> &str {
    let mut plain = name;
    while let Some(rest) = plain.strip_prefix("./").or_else(|| plain.strip_prefix('/')) {
        plain = rest;
    }
    plain
}

fn add(files: &mut Vec<File>, name: String, bytes: Vec<u8>) -> Result<()> {
    ensure!(!files.iter().any(|(known, _)| *known == name), "two files would be `{name}` in dom0's ramdisk");
    files.push((name, bytes));
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    // A kernel of ours gets the names by which its backtraces tell functions.
    std::fs::read(path).map(symbols::appended).with_context(|| format!("cannot read {}", path.display()))
}

/// The value that a configuration sets a key to last, where it is one text or number; other ways to
/// write it are dom0's to understand.
fn setting(config: &str, key: &str) -> Option<String> {
    config.lines().rev().find_map(|line| {
        let mut found = None;
        let mut rest = line;
        while let Some((left, right)) = rest.split_once('=') {
            let right = right.trim_start();
            let quote = right.chars().next().filter(|first| matches!(first, '"' | '\''));
            let (value, behind) = match quote {
                Some(quote) => right.get(1..)?.split_once(quote)?,
                None => (right.split(['#', ';']).next()?.trim_end(), right),
            };
            if left.trim() == key {
                found = Some(value.to_owned());
            }
            let comment = behind.find('#').unwrap_or(behind.len());
            rest = behind.get(..comment)?.split_once(';').map_or("", |(_, next)| next);
        }
        found
    })
}

#[cfg(test)]
mod tests {
    use super::{Config, attended, gather, plain, script, setting};

    #[test]
    fn what_a_line_sets_is_found() {
        let config = "name = 'a' # the first\n#memory = 1\nmemory = 64 # MiB\nkernel=\"/boot/k\"\nvif = ['']\n";
        let found = ["name", "memory", "kernel", "ramdisk"].map(|key| setting(config, key));
        assert_eq!(found, [Some("a".into()), Some("64".into()), Some("/boot/k".into()), None]);
        let config = "name = 'a;b'; memory=0x10 ;kernel='k' # ; ramdisk='r'\ndisk=['phy:x,kernel=y']; memory = 32;";
        let found = ["name", "memory", "kernel", "ramdisk"].map(|key| setting(config, key));
        assert_eq!(found, [Some("a;b".into()), Some("32".into()), Some("k".into()), None]);
        assert_eq!((plain("/boot/k"), plain("././k"), plain("../k")), ("boot/k", "k", "../k"));
    }

    #[test]
    fn a_configurations_kernel_comes_along_and_files_go_before_it() {
        let folder = std::env::temp_dir().join(format!("oxen-configs-{}", std::process::id()));
        std::fs::create_dir_all(folder.join("out")).unwrap();
        let file = |name: &str, bytes: &str| {
            std::fs::write(folder.join(name), bytes).unwrap();
            folder.join(name)
        };
        let config = file("a.cfg", "name = 'first'\nkernel = 'out/k'\nramdisk = './r'\nmaxmem = 96\nmemory = 32\n");
        file("out/k", "kernel");
        file("r", "ramdisk");
        let (configs, files) = gather(std::slice::from_ref(&config), &[]).unwrap();
        let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["out/k", "r", "a.cfg"]);
        assert_eq!(configs, [Config { name: "a.cfg".into(), guest: Some("first".into()), memory: 96 }]);
        let other = file("other", "other kernel");
        let given = [format!("out/k={}", other.display()), folder.join("r").display().to_string()];
        let (_, files) = gather(std::slice::from_ref(&config), &given).unwrap();
        assert_eq!(files.first(), Some(&("out/k".to_owned(), b"other kernel".to_vec())));
        assert_eq!(files.len(), 3);
        assert!(gather(&[config.clone(), config], &[]).unwrap_err().to_string().contains("two files"));
        for bad in ["=x", "x=", "/nowhere/at/all"] {
            assert!(gather(&[], &[bad.to_owned()]).is_err(), "{bad}");
        }
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn guests_are_created_before_any_is_waited_for() {
        let config =
            |name: &str, guest: Option<&str>| Config { name: name.into(), guest: guest.map(str::to_owned), memory: 1 };
        let both = [config("a.cfg", Some("a")), config("b.cfg", Some("b"))];
        assert_eq!(script(&both), "xl create a.cfg; xl create b.cfg; xl wait a; xl wait b; poweroff");
        assert_eq!(attended(&both), "xl create a.cfg; xl create -c b.cfg");
        assert_eq!(script(&[config("c.cfg", None)]), "xl create c.cfg; poweroff");
    }
}
