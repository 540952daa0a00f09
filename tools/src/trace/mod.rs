//! `cargo xtask trace`: a run whose hypervisor notes what it does, and what was noted as a stream for Xen's tools, as
//! text, for Perfetto, as one page for a browser.

mod hops;
mod html;
mod names;
mod perfetto;
mod story;
mod stream;
mod text;

use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::book::picture;
use crate::build;
use crate::process::step;
use crate::run;
use crate::workspace::Workspace;
use story::Story;
use stream::Trace;

/// The disk that takes the trace, unless it is said; only what is written takes room.
const DISK_MIB: u64 = 1024;

/// What `cargo xtask trace` takes.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct Args {
    /// Read this stream instead of a run: what `--out` or `xentrace` wrote
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
    /// Which events: gen, sched, dom0op, mem, pv, hw, parted by commas, or a mask
    #[arg(long, value_name = "EVENTS", default_value = "all")]
    events: String,
    /// Where the stream goes, for xenalyze and the like
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// A line for each event; without any of these files that is what is printed
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,
    /// A timeline for <https://ui.perfetto.dev> or a browser's about:tracing
    #[arg(long, value_name = "FILE.json")]
    perfetto: Option<PathBuf>,
    /// A timeline to look at in a browser: one file that needs nothing else
    #[arg(long, value_name = "FILE.html")]
    html: Option<PathBuf>,
    /// One request of a guest's disk as a picture, in five hops with their times; a name that ends in .pic gets the
    /// picture's description, as the book's are
    #[arg(long, value_name = "FILE.svg")]
    request: Option<PathBuf>,
    /// MiB of the disk that takes the trace
    #[arg(long, value_name = "MIB", default_value_t = DISK_MIB)]
    trace_mib: u64,
    #[command(flatten)]
    run: run::Args,
}

/// Runs, and tells what was noted.
///
/// # Errors
/// Fails when the run does, where there is no trace, or a file cannot be written.
pub fn run(workspace: &Workspace, args: &Args) -> Result<()> {
    let words = match &args.from {
        Some(file) => words(file)?,
        None => record(workspace, args)?,
    };
    let trace = Trace::read(&words)?;
    ensure!(!trace.events.is_empty(), "nothing was noted");
    let story = Story::of(&trace);
    let written = |file: &Option<PathBuf>, what: &dyn Fn() -> Vec<u8>| match file {
        Some(file) => {
            step(&format!("write {}", file.display()));
            build::write(file, &what())
        }
        None => Ok(()),
    };
    written(&args.out, &|| words.iter().take(trace.words).flat_map(|word| word.to_le_bytes()).collect())?;
    written(&args.perfetto, &|| perfetto::write(&trace, &story).into_bytes())?;
    written(&args.html, &|| html::write(&trace, &story).into_bytes())?;
    written(&args.text, &|| text::write(&trace).into_bytes())?;
    if let Some(file) = &args.request {
        let description = hops::picture(&trace, &story)?;
        let is_description = file.extension().is_some_and(|extension| extension == "pic");
        let text = if is_description { description } else { picture::parse(&description)?.svg() };
        written(&args.request, &|| text.clone().into_bytes())?;
    }
    if [&args.out, &args.perfetto, &args.html, &args.text, &args.request].iter().all(|file| file.is_none()) {
        print!("{}", text::write(&trace));
    }
    Ok(())
}

/// Runs a machine with one disk more, on which dom0 puts the trace down.
fn record(workspace: &Workspace, args: &Args) -> Result<Vec<u32>> {
    let disk = workspace.out.join("trace.img");
    build::write(&disk, &[])?;
    std::fs::OpenOptions::new()
        .write(true)
        .open(&disk)
        .and_then(|file| file.set_len(args.trace_mib << 20))
        .with_context(|| format!("cannot make {}", disk.display()))?;
    run::run_traced(workspace, &args.run, &disk, &args.events)?;
    words(&disk)
}

/// The stream on a disk that dom0 has put a trace down on, without what stands behind its end.
///
/// # Errors
/// Fails where the disk cannot be read, or holds no trace.
pub fn stream_of(disk: &Path) -> Result<Vec<u8>> {
    let words = words(disk)?;
    let end = Trace::read(&words)?.words;
    Ok(words.iter().take(end).flat_map(|word| word.to_le_bytes()).collect())
}

/// The page for a browser of what dom0 has put down on a disk.
///
/// # Errors
/// As [`stream_of`].
pub fn page_of(disk: &Path) -> Result<String> {
    let words = words(disk)?;
    let trace = Trace::read(&words)?;
    Ok(html::write(&trace, &Story::of(&trace)))
}

/// Bytes that are looked at together: a trace has never so many zeros.
const PIECE: usize = 1 << 20;

/// The words of a file; of a disk, those before the part that nobody has written.
fn words(file: &Path) -> Result<Vec<u32>> {
    let fail = || format!("cannot read {}", file.display());
    let mut opened = std::fs::File::open(file).with_context(fail)?;
    let (mut words, mut piece) = (Vec::new(), Vec::new());
    loop {
        piece.clear();
        opened.by_ref().take(PIECE as u64).read_to_end(&mut piece).with_context(fail)?;
        if piece.iter().all(|&byte| byte == 0) {
            return Ok(words);
        }
        words.extend(piece.as_chunks().0.iter().map(|word| u32::from_le_bytes(*word)));
    }
}
