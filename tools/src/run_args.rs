//! What `cargo xtask run` is asked for.

use std::path::PathBuf;

use crate::emulator::Kind;

/// What `cargo xtask run` takes.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Commands for dom0, parted by semicolons; the exit status tells whether all succeeded
    #[arg(long, value_name = "COMMANDS", conflicts_with = "as_dom0")]
    pub(crate) script: Option<String>,
    /// A disk image for dom0 to serve; repeat for more. Written to only by guests whose configuration says `w`
    #[arg(long, value_name = "IMAGE")]
    pub(crate) disk: Vec<PathBuf>,
    /// Give the machine a network card, and the guest of --kernel or --guest an interface on its network. Behind `=`
    /// stands what QEMU's `-netdev` takes: options of the user network (`--net=hostfwd=tcp::8080-10.0.2.15:80`) or
    /// another network with its options (`--net=tap,ifname=tap0,script=no`)
    #[arg(long, value_name = "NETWORK", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    pub(crate) net: Option<String>,
    /// Be the first or the second of two machines on one network, between which guests move: dom0 has the address
    /// 10.9.0.1 or 10.9.0.2, and a key that both have. Its files go to target/oxen/pair
    #[arg(long, value_name = "1|2", value_parser = clap::value_parser!(u8).range(1..=2),
        conflicts_with_all = ["net", "as_dom0", "folder"])]
    pub(crate) pair: Option<u8>,
    /// Memory in MiB: with --kernel or --guest the guest's, otherwise the machine's
    #[arg(long, value_name = "MIB")]
    pub(crate) memory: Option<u32>,
    /// Memory of the machine in MiB
    #[arg(long, value_name = "MIB")]
    pub(crate) machine_memory: Option<u32>,
    /// CPUs of the machine
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) smp: u32,
    /// Boot this paravirtual kernel in dom0's place
    #[arg(long, value_name = "KERNEL", conflicts_with = "kernel")]
    pub(crate) as_dom0: Option<PathBuf>,
    /// Create a guest with this kernel
    #[arg(long, value_name = "KERNEL")]
    pub(crate) kernel: Option<PathBuf>,
    /// Create a guest from this configuration of xl's; repeat for more. Its kernel and ramdisk come along where they
    /// are files beside it. A script creates them itself
    #[arg(long, value_name = "FILE.cfg", conflicts_with_all = ["kernel", "as_dom0", "guest", "rootfs"])]
    pub(crate) config: Vec<PathBuf>,
    /// Put a file into dom0's ramdisk, under its own name or another; repeat for more
    #[arg(long, value_name = "[NAME=]PATH", conflicts_with = "as_dom0")]
    pub(crate) file: Vec<String>,
    /// Create a guest of a stock system: `debian` is the kernel of this machine's Debian with busybox, in 256 MiB, on 2
    /// vcpus; debian-11, debian-12, debian-12-cloud, debian-backports, debian-13 and ubuntu-24 are those of other
    /// releases, by apt's lists of their own (`debian-12=6.1.172-1`: a version fetched earlier). A script finds it at
    /// its shell's prompt, unless the script creates `debian.cfg` itself
    #[arg(long, value_name = "SYSTEM", conflicts_with_all = ["kernel", "as_dom0"])]
    pub(crate) guest: Option<String>,
    /// With a whole Debian system of debootstrap's on its first disk, instead of busybox; means --guest debian
    #[arg(long, conflicts_with_all = ["kernel", "as_dom0"])]
    pub(crate) rootfs: bool,
    /// The ramdisk of --kernel's or --as-dom0's kernel
    #[arg(long, value_name = "FILE")]
    pub(crate) initrd: Option<PathBuf>,
    /// The command line of --kernel's or --as-dom0's kernel
    #[arg(long, value_name = "ARGS", default_value = "", allow_hyphen_values = true)]
    pub(crate) append: String,
    /// Virtual CPUs of the guest [default: 1, of a stock system 2]
    #[arg(long, value_name = "N")]
    pub(crate) vcpus: Option<u32>,
    /// Further arguments for the hypervisor
    #[arg(long, value_name = "ARGS", default_value = "", allow_hyphen_values = true)]
    pub(crate) hv_append: String,
    /// Boot a hypervisor with its debug assertions, the order of locks among them, and overflow checks: it panics where
    /// one is broken
    #[arg(long, conflicts_with = "xen")]
    pub(crate) checked: bool,
    /// Boot on real Xen instead of Oxen's hypervisor: `xen` for Debian's package, or the path of a binary
    #[arg(long, value_name = "XEN")]
    pub(crate) xen: Option<PathBuf>,
    /// What runs it
    #[arg(long, value_enum, default_value_t = Kind::Qemu)]
    pub(crate) machine: Kind,
    /// QEMU's accelerator
    #[arg(long, default_value = "tcg")]
    pub(crate) accel: String,
    /// QEMU's CPU model [default: one that this QEMU emulates rightly]
    #[arg(long)]
    pub(crate) cpu: Option<String>,
    /// Seconds after which a run without a terminal is stopped
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    pub(crate) timeout: u64,
    /// Where the machine's files and its transcript go: two runs at once want two folders [default: target/oxen/run]
    #[arg(long, value_name = "FOLDER")]
    pub(crate) folder: Option<PathBuf>,
    /// Boot what stands in target/oxen without building it again
    #[arg(long)]
    pub(crate) no_build: bool,
}
