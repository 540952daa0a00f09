//! `cargo xtask fuzz`: inputs for one part, looked for by coverage; or what a guest draws from seeds, asked of real Xen
//! and of Oxen, and what they answer compared.

mod coverage;
mod known;
mod lines;
mod machines;
mod shrink;
mod walk;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use self::lines::{Difference, Place as Step, Transcript};
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
    /// Seconds without a word of the guest's after which its machine is stopped
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
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

    /// The steps by seed and call.
    fn plan(self) -> impl Iterator<Item = Step> {
        (self.first..self.first + self.count).flat_map(move |seed| (0..self.calls).map(move |call| (seed, call)))
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
    let (mut steps, mut count) = (0, 0);
    for part in walk::boots(seeds) {
        let (done, differences) = compare(&sides, part, args.all)?;
        steps += done;
        count += differences.len();
        for difference in &differences {
            println!("{difference}");
            if !args.no_shrink {
                let least = shrink::least(&sides, difference, seeds)?;
                println!("  least sequence (`fuzz={} only={}` for the probe):", difference.label, least.calls);
                print!("{}", least.text);
            }
        }
    }
    println!("fuzz: {steps} calls and instructions, {count} differences");
    ensure!(count == 0, "the answers differ");
    Ok(())
}

/// Goes through all registers and leaves on both sides, and prints where they differ.
///
/// # Errors
/// Fails when a side cannot be booted or does not come to its end, and when there are differences that nobody knows of.
fn sweep(sides: &Sides<'_>, all: bool) -> Result<()> {
    let (xen, oxen) = sides.run("fuzz=0 sweep=1")?;
    let differences = xen.differences(&oxen, None, all);
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
/// Fails when a side cannot be booted, or its guest does not begin.
pub fn compare(sides: &Sides<'_>, seeds: Seeds, all: bool) -> Result<(usize, Vec<Difference>)> {
    let transcripts = || format!("transcripts in {}", sides.folder.display());
    walk::walk(seeds, all, &mut Booted(sides)).with_context(transcripts)
}

/// Machines that are booted.
struct Booted<'a>(&'a Sides<'a>);

impl walk::Ask for Booted<'_> {
    fn ask(&mut self, seeds: Seeds) -> Result<(Transcript, Transcript)> {
        step(&format!("seeds {} to {}", seeds.first, seeds.first + seeds.count - 1));
        self.0.run(&format!("fuzz={} count={} calls={}{}", seeds.first, seeds.count, seeds.calls, seeds.draw()))
    }

    fn stopped(&mut self, seeds: Seeds, place: Step, xen: &Transcript, oxen: &Transcript) -> Result<()> {
        let (seed, call) = place;
        for side in ["xen", "oxen"] {
            let said = self.0.folder.join(side).join("run.log");
            std::fs::copy(&said, said.with_file_name(format!("to-{seed}.log")))?;
        }
        let options = format!("fuzz={seed} calls={} names=1{}", seeds.calls, seeds.draw());
        let name = self.0.run_on(false, &options)?.line(place);
        let (xen, oxen) = (xen.line(place), oxen.line(place));
        step(&format!("seed {seed} call {call} `{name}`: Xen {xen}; Oxen {oxen}"));
        Ok(())
    }
}
