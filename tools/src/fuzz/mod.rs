//! `cargo xtask fuzz`: inputs for one part, looked for by coverage; or what a guest draws from seeds, asked of real Xen and
//! of Oxen, and what they answer compared.

mod coverage;
mod known;
mod lines;
mod machines;
mod shrink;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, bail, ensure};

use self::lines::{Difference, Transcript};
pub use self::machines::{Place, Sides};
use crate::process::step;
use crate::qemu::CPU;
use crate::setup::{Need, require};
use crate::workspace::Workspace;
use crate::{build, xen};

/// What `cargo xtask fuzz` takes.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The part that inputs are looked for, by coverage: a folder of fuzz/corpus
    #[arg(value_name = "TARGET", required_unless_present = "against", conflicts_with = "against")]
    target: Option<String>,
    /// How long inputs are looked for
    #[arg(long, default_value_t = 5)]
    minutes: u64,
    /// Put inputs that cover something new into the corpus
    #[arg(long)]
    keep: bool,
    /// Compare with who judges: `xen` for Debian's package, or the path of a binary
    #[arg(long, value_name = "XEN")]
    against: Option<PathBuf>,
    /// The first seed
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many seeds follow one another
    #[arg(long, default_value_t = 100)]
    count: u64,
    /// Calls in a sequence
    #[arg(long, default_value_t = 12)]
    calls: u64,
    /// As which domain the guest runs
    #[arg(long, value_enum, default_value = "dom0")]
    r#as: Place,
    /// Draw only what a control domain may ask
    #[arg(long)]
    control: bool,
    /// QEMU's CPU model: each vendor's have registers of their own
    #[arg(long, default_value = CPU)]
    cpu: String,
    /// Tell the differences as they are, without looking for the least sequences
    #[arg(long)]
    no_shrink: bool,
    /// Go through all model-specific registers and leaves of CPUID instead of what seeds draw
    #[arg(long)]
    sweep: bool,
    /// Tell known differences as well
    #[arg(long)]
    all: bool,
    /// Seconds after which a boot is stopped
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    timeout: u64,
}

/// Which sequences.
#[derive(Clone, Copy, Debug)]
pub struct Seeds {
    /// The first.
    pub first: u64,
    /// How many.
    pub count: u64,
    /// How long each is.
    pub calls: u64,
    /// Whether only what a control domain may ask is drawn.
    pub control: bool,
}

impl Seeds {
    /// What the guest is told besides which they are.
    fn draw(&self) -> &'static str {
        if self.control { " draw=control" } else { "" }
    }

    /// The sequence of one seed.
    const fn of(self, seed: u64) -> Self {
        Self { first: seed, ..self }
    }
}

/// Looks for inputs, or compares.
///
/// # Errors
/// Fails when something cannot be built or booted, when an input breaks something, and when there are differences that
/// nobody knows of.
pub fn run(workspace: &Workspace, args: &Args) -> Result<()> {
    match (&args.target, &args.against) {
        (Some(target), _) => coverage::look(workspace, target, args.minutes, args.keep),
        (None, Some(xen)) => compare_with(workspace, xen, args),
        (None, None) => bail!("name a target, or `--against xen`"),
    }
}

/// Builds, compares, and prints each difference with its least sequence.
fn compare_with(workspace: &Workspace, xen: &Path, args: &Args) -> Result<()> {
    require(&[Need::Qemu])?;
    let xen = xen::find(workspace, xen)?;
    build::probe(workspace)?;
    if args.r#as == Place::Guest {
        build::all(workspace)?;
    } else {
        build::hypervisor(workspace)?;
    }
    let sides = Sides {
        workspace,
        xen,
        folder: workspace.out.join("fuzz"),
        place: args.r#as,
        cpu: args.cpu.clone(),
        limit: Duration::from_secs(args.timeout),
    };
    if args.sweep {
        return sweep(&sides, args.all);
    }
    let seeds = Seeds { first: args.seed, count: args.count, calls: args.calls, control: args.control };
    let (steps, differences) = compare(&sides, seeds, args.all)?;
    for difference in &differences {
        println!("{difference}");
        if !args.no_shrink {
            let least = shrink::least(&sides, difference, seeds)?;
            println!("  least sequence (`fuzz={} only={}` for the probe):", difference.label, least.calls);
            print!("{}", least.text);
        }
    }
    println!("fuzz: {steps} calls and instructions, {} differences", differences.len());
    ensure!(differences.is_empty(), "the answers differ");
    Ok(())
}

/// Goes through all registers and leaves on both sides, and prints where they differ.
///
/// # Errors
/// Fails when a side cannot be booted or does not come to its end, and when there are differences that nobody knows of.
fn sweep(sides: &Sides<'_>, all: bool) -> Result<()> {
    let (xen, oxen) = sides.run("fuzz=0 sweep=1")?;
    let (xen, oxen) = (Transcript::read(&xen), Transcript::read(&oxen));
    let differences = xen.differences(&oxen, all);
    for Difference { xen, oxen, .. } in &differences {
        println!("Xen  {xen}\nOxen {oxen}");
    }
    println!("fuzz: {} registers and leaves, {} differences", oxen.len(), differences.len());
    ensure!(xen.is_done && oxen.is_done, "a guest did not come to its end; transcripts in {}", sides.folder.display());
    ensure!(differences.is_empty(), "the answers differ");
    Ok(())
}

/// Runs the seeds on both sides; returns how many steps were compared, and the first difference of each sequence.
///
/// # Errors
/// Fails when a side cannot be booted, or says nothing.
pub fn compare(sides: &Sides<'_>, seeds: Seeds, all: bool) -> Result<(usize, Vec<Difference>)> {
    let mut differences = Vec::new();
    let mut steps = 0;
    let mut next = seeds.first;
    let end = seeds.first + seeds.count;
    // What ends one of the guests ends the boot; the rest is asked in another.
    while next < end {
        let options = format!("fuzz={next} count={} calls={}{}", end - next, seeds.calls, seeds.draw());
        step(&format!("seeds {next} to {}", end - 1));
        let (xen, oxen) = sides.run(&options)?;
        let (xen, oxen) = (Transcript::read(&xen), Transcript::read(&oxen));
        steps += xen.len().min(oxen.len());
        differences.extend(xen.differences(&oxen, all));
        if xen.is_done && oxen.is_done {
            break;
        }
        let Some(reached) = xen.last_label().min(oxen.last_label()) else {
            bail!("a guest said nothing; transcripts in {}", sides.folder.display())
        };
        for side in ["xen", "oxen"] {
            let said = sides.folder.join(side).join("run.log");
            std::fs::copy(&said, said.with_file_name(format!("to-{reached}.log")))?;
        }
        next = reached + 1;
    }
    Ok((steps, differences))
}
