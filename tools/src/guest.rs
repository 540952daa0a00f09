//! The guest that `cargo xtask run` is asked for by `--kernel` or `--guest`: its files in dom0's ramdisk, and what dom0
//! does with it.

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};

use crate::build;
use crate::debian;
use crate::linux::{self, Ramdisk};
use crate::process::step;
use crate::rootfs;
use crate::run_args::Args;
use crate::stock;
use crate::symbols;
use crate::workspace::Workspace;

/// Memory in MiB of a guest by `--kernel`, and of a stock system.
const MEMORY: u32 = 128;
const STOCK_MEMORY: u32 = 256;

/// The stock system with the kernel of the release that this machine's apt is set to.
const PRESENT: &str = "debian";

/// How long a stock system may take to its prompt; a busy machine is slow.
const BOOT_SECONDS: u32 = 600;

/// A guest to be.
#[derive(Clone, Debug)]
pub struct Guest {
    name: &'static str,
    kernel: PathBuf,
    ramdisk: Option<PathBuf>,
    cmdline: String,
    /// In MiB.
    pub memory: u32,
    vcpus: u32,
    /// Images of its disks, the first of which is `xvda`.
    pub disks: Vec<PathBuf>,
    has_network: bool,
    /// What its shell prints when it is ready, if it is known to have one.
    prompt: Option<String>,
}

impl Guest {
    /// What the arguments ask for, if they ask for a guest.
    ///
    /// # Errors
    /// Fails for a system that is not known or cannot be had.
    pub fn of(workspace: &Workspace, args: &Args) -> Result<Option<Self>> {
        let (mut disks, has_network) = (args.disk.clone(), args.net.is_some());
        if args.guest.is_some() || args.rootfs {
            let system = args.guest.as_deref().unwrap_or(PRESENT);
            let (name, kernel) = match system {
                PRESENT => (PRESENT, debian::present(workspace)?),
                system if stock::is_known(system) => stock::kernel(workspace, system)?,
                system => bail!("no stock system `{system}`: there are `{PRESENT}`, {}", stock::names()),
            };
            step(&format!("Linux {}", kernel.version));
            let (mut cmdline, mut prompt) = (linux::CMDLINE.to_owned(), linux::prompt(name));
            if args.rootfs {
                disks.insert(0, rootfs::image(workspace)?);
                cmdline = format!("{cmdline} {}", rootfs::CMDLINE);
                prompt = rootfs::prompt();
            }
            let file = workspace.out.join("debian/guest.cpio");
            let ramdisk = Ramdisk::new(workspace, name).kernel(&kernel).disks().network();
            build::write(&file, &ramdisk.build()?)?;
            return Ok(Some(Self {
                name,
                kernel: kernel.image,
                ramdisk: Some(file),
                cmdline: format!("{cmdline} {}", args.append).trim_end().to_owned(),
                memory: args.memory.unwrap_or(STOCK_MEMORY),
                vcpus: args.vcpus.unwrap_or(2),
                disks,
                has_network,
                prompt: Some(prompt),
            }));
        }
        Ok(args.kernel.as_ref().map(|kernel| Self {
            name: "guest",
            kernel: kernel.clone(),
            ramdisk: args.initrd.clone(),
            cmdline: args.append.clone(),
            memory: args.memory.unwrap_or(MEMORY),
            vcpus: args.vcpus.unwrap_or(1),
            disks,
            has_network,
            prompt: None,
        }))
    }

    /// Kernel, ramdisk and configuration, as files for dom0's ramdisk.
    ///
    /// # Errors
    /// Fails when a file cannot be read, or the command line holds what would end it.
    pub fn files(&self) -> Result<Vec<(String, Vec<u8>)>> {
        let read = |path: &PathBuf| {
            let bytes = std::fs::read(path).map(symbols::appended);
            bytes.with_context(|| format!("cannot read the guest's file {}", path.display()))
        };
        ensure!(!self.cmdline.contains('"'), "--append cannot hold double quotes");
        let Self { name, memory, vcpus, .. } = self;
        let mut files = vec![(format!("guests/{name}"), read(&self.kernel)?)];
        let mut config = format!("name = \"{name}\"\nkernel = \"guests/{name}\"\nmemory = {memory}\nvcpus = {vcpus}\n");
        if let Some(ramdisk) = &self.ramdisk {
            files.push((format!("guests/{name}.initrd"), read(ramdisk)?));
            config.push_str(&format!("ramdisk = \"guests/{name}.initrd\"\n"));
        }
        if !self.cmdline.is_empty() {
            config.push_str(&format!("cmdline = \"{}\"\n", self.cmdline));
        }
        if !self.disks.is_empty() {
            let disks = ('a'..='z').take(self.disks.len()).map(|letter| format!("\"phy:vd{letter},xvd{letter},w\""));
            config.push_str(&format!("disk = [{}]\n", disks.collect::<Vec<_>>().join(", ")));
        }
        if self.has_network {
            config.push_str("vif = [\"\"]\n");
        }
        files.push((format!("{name}.cfg"), config.into_bytes()));
        Ok(files)
    }

    /// What dom0 types at its prompt for a person: the guest is created, and its console shown.
    #[must_use]
    pub fn attended(&self) -> String {
        format!("xl create -c {}.cfg", self.name)
    }

    /// dom0's script: the guest's start, which a script of the user's may do itself, and then that script; without one
    /// the guest is shown until it ends, or shows itself where it has a shell.
    #[must_use]
    pub fn script(&self, users: Option<&str>) -> String {
        let name = self.name;
        let ready = match &self.prompt {
            Some(prompt) => format!("xl create {name}.cfg; expect {name} '{prompt}' {BOOT_SECONDS}; "),
            None => String::new(),
        };
        match users {
            Some(script) if script.contains(&format!("{name}.cfg")) => script.to_owned(),
            Some(script) => format!("{ready}{script}"),
            None if self.prompt.is_some() => {
                format!("{ready}xl list; send {name} 'uname -a; nproc; free -m; poweroff'; xl wait {name}; poweroff")
            }
            None => format!("xl create {name}.cfg; xl wait {name}; poweroff"),
        }
    }
}

/// What dom0 needs in MiB to hold a guest's files and to unpack its kernel. 128 are enough for a kernel as Debian ships
/// it; plain kernels and large ramdisks lie there whole, ramdisks packed with gzip twice, and Zstandard's window is 128
/// MiB where kernels are packed.
#[must_use]
pub fn dom0_memory(files: &[(String, Vec<u8>)]) -> u32 {
    const ENOUGH: u32 = 128;
    const SMALL: u32 = 16;
    const WINDOW: u32 = 160;
    const ZSTANDARD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
    let size = files.iter().map(|(_, file)| file.len() + unpacked(file)).sum::<usize>() >> 20;
    let more = u32::try_from(size).unwrap_or(u32::MAX / 2).saturating_sub(SMALL);
    let heads = files.iter().filter_map(|(_, file)| file.get(..file.len().min(64 << 10)));
    let is_zstandard = heads.into_iter().any(|head| head.windows(4).any(|word| word == ZSTANDARD));
    ENOUGH + more.next_multiple_of(16) + if is_zstandard { WINDOW } else { 0 }
}

/// What a file packed with gzip unpacks to, as its last four bytes say (RFC 1952, 2.3.1); none for others.
fn unpacked(file: &[u8]) -> usize {
    let size = file.last_chunk().filter(|_| file.starts_with(&[0x1f, 0x8b, 8]));
    size.map_or(0, |bytes| u32::from_le_bytes(*bytes) as usize)
}

#[cfg(test)]
mod tests {
    use super::{Guest, dom0_memory};

    fn guest(prompt: Option<&str>) -> Guest {
        Guest {
            name: "x",
            kernel: "k".into(),
            ramdisk: None,
            cmdline: String::new(),
            memory: 8,
            vcpus: 1,
            disks: Vec::new(),
            has_network: false,
            prompt: prompt.map(str::to_owned),
        }
    }

    #[test]
    fn a_script_finds_the_guest_at_its_prompt_unless_it_creates_it() {
        let stock = guest(Some("x:/# "));
        assert_eq!(stock.script(Some("xl list")), "xl create x.cfg; expect x 'x:/# ' 600; xl list");
        assert_eq!(stock.script(Some("xl create -p x.cfg; xl list")), "xl create -p x.cfg; xl list");
        assert!(stock.script(None).ends_with("xl wait x; poweroff"));
        assert_eq!(guest(None).script(Some("xl list")), "xl list");
        assert_eq!(guest(None).script(None), "xl create x.cfg; xl wait x; poweroff");
    }

    #[test]
    fn dom0_has_room_for_what_the_guest_brings() {
        let file = |bytes: Vec<u8>| ("f".to_owned(), bytes);
        assert_eq!(dom0_memory(&[file(vec![0; 8 << 20]), file(vec![0; 7 << 20])]), 128);
        assert_eq!(dom0_memory(&[file(vec![0; 66 << 20])]), 128 + 64);
        let mut packed = vec![0; 1 << 20];
        packed[21000..21004].copy_from_slice(&[0x28, 0xb5, 0x2f, 0xfd]);
        assert_eq!(dom0_memory(&[file(packed)]), 128 + 160);
        let mut ramdisk = vec![0; 32 << 20];
        ramdisk[..3].copy_from_slice(&[0x1f, 0x8b, 8]);
        assert_eq!(dom0_memory(&[file(ramdisk.clone())]), 128 + 16, "it says that it is empty");
        ramdisk.extend(u32::to_le_bytes(100 << 20));
        assert_eq!(dom0_memory(&[file(ramdisk)]), 128 + 128);
    }
}
