//! What a count of instructions hides: events that a plug-in of QEMU's counts, and the cycles that they stand for.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::build;
use crate::process::run;
use crate::qemu::Machine;
use crate::workspace::Workspace;

/// The plug-in's source and what it makes, in the machine's folder.
const SOURCE: &str = "tools/plugin/events.c";
const PLUGIN: &str = "events.so";
const OUT: &str = "events.txt";

/// Cycles of an instruction that is nothing special.
pub(super) const CYCLES_PER_INSTRUCTION: f64 = 0.5;

/// What is counted, with the cycles that each takes besides those of any instruction, and what it is.
pub(super) const WEIGHTS: [(&str, f64, &str); 23] = [
    ("taken", 130.0, "exceptions and interrupts taken"),
    ("iret", 150.0, "IRET"),
    ("syscall", 40.0, "SYSCALL, SYSENTER"),
    ("sysret", 40.0, "SYSRET"),
    ("load_cr3", 250.0, "loads of CR3, with the misses that follow"),
    ("load_cr", 150.0, "loads of other control registers"),
    ("invlpg", 120.0, "INVLPG"),
    ("locked", 18.0, "locked instructions"),
    ("wrmsr", 100.0, "WRMSR, XSETBV"),
    ("rdmsr", 60.0, "RDMSR"),
    ("rdtsc", 20.0, "RDTSC"),
    ("swapgs", 25.0, "SWAPGS"),
    ("clts", 60.0, "CLTS"),
    ("stac_clac", 10.0, "STAC, CLAC"),
    ("cpuid", 120.0, "CPUID"),
    ("fence", 33.0, "fences"),
    ("segment", 20.0, "loads of segments"),
    ("table", 60.0, "loads of descriptor tables"),
    ("flags", 10.0, "POPF, CLI, STI"),
    ("fpu", 60.0, "FXSAVE, XSAVE and the like"),
    ("divide", 20.0, "divisions"),
    // Their time is the device's, the same whoever asks it.
    ("port", 0.0, "port accesses"),
    ("halt", 0.0, "HLT"),
];

/// A row as it was measured.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Row {
    /// Instructions of one operation.
    pub(super) instructions: f64,
    /// Events of one operation by name, where they were counted.
    pub(super) events: BTreeMap<&'static str, f64>,
}

/// Rows by the primitive's name.
pub(super) type Rows = BTreeMap<String, Row>;

impl Row {
    /// Cycles by the weights.
    pub(super) fn cycles(&self) -> f64 {
        let weigh = |(name, weight, _): &(&str, f64, &str)| self.events.get(name).map_or(0.0, |count| count * weight);
        self.instructions * CYCLES_PER_INSTRUCTION + WEIGHTS.iter().map(weigh).sum::<f64>()
    }

    /// Its events, most costly first: `1 taken, 2 locked`.
    pub(super) fn text(&self) -> String {
        let mut named: Vec<_> = WEIGHTS.iter().filter_map(|w| Some((self.events.get(w.0)?, w))).collect();
        named.retain(|(count, _)| **count >= 0.05);
        named.sort_by(|(a, (_, x, _)), (b, (_, y, _))| (*b * y).total_cmp(&(*a * x)));
        let shown = |count: f64| format!("{:.1}", count).trim_end_matches(".0").to_owned();
        named.iter().map(|(count, (name, ..))| format!("{} {name}", shown(**count))).collect::<Vec<_>>().join(", ")
    }
}

/// Compiles the plug-in into the machine's folder and has QEMU load it.
///
/// # Errors
/// Fails without a C compiler.
pub(super) fn attach(workspace: &Workspace, machine: &mut Machine) -> Result<()> {
    std::fs::create_dir_all(&machine.folder).with_context(|| format!("cannot make {}", machine.folder.display()))?;
    let mut compiler = Command::new("cc");
    compiler.args(["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-fvisibility=hidden", "-o"]);
    compiler.arg(machine.folder.join(PLUGIN)).arg(workspace.root.join(SOURCE));
    run(&mut compiler, "a C compiler makes the plug-in for QEMU: install what Debian calls gcc")?;
    build::write(&machine.folder.join(OUT), b"")?;
    machine.devices.extend(["-plugin".to_owned(), format!("./{PLUGIN},out={OUT}")]);
    Ok(())
}

/// Reads the guest's lines, `bench: NAME MEDIAN per=… first=… every=… take=…`, and what the plug-in wrote in the
/// machine's folder.
///
/// # Errors
/// Fails when the two do not speak of the same intervals.
pub(super) fn read(transcript: &str, folder: &Path) -> Result<Rows> {
    let file = folder.join(OUT);
    let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let intervals = Intervals::read(&text)?;
    transcript.lines().filter_map(Line::read).map(|line| Ok((line.name.to_owned(), intervals.row(&line)?))).collect()
}

/// One line of the guest's.
struct Line<'a> {
    name: &'a str,
    median: f64,
    per: f64,
    /// The first interval, of how many each sample has one, and how many of these are meant.
    first: usize,
    every: usize,
    take: usize,
}

impl<'a> Line<'a> {
    fn read(line: &'a str) -> Option<Self> {
        let mut words = line.split_once("bench: ")?.1.split_whitespace();
        let (name, median) = (words.next()?, words.next()?.parse().ok()?);
        let mut next = |key: &str| words.next()?.strip_prefix(key)?.strip_prefix('=')?.parse::<usize>().ok();
        let (per, first, every, take) = (next("per")?, next("first")?, next("every")?, next("take")?);
        Some(Self { name, median, per: per as f64, first, every, take })
    }
}

/// What the plug-in wrote: counts by column, an interval a line.
struct Intervals {
    instructions: usize,
    columns: Vec<(usize, &'static str)>,
    lines: Vec<Vec<f64>>,
}

/// Samples of a row.
const SAMPLES: usize = 101;

impl Intervals {
    fn read(text: &str) -> Result<Self> {
        let mut lines = text.lines();
        let head: Vec<&str> = lines.next().unwrap_or_default().split(' ').collect();
        let place = |name: &str| {
            head.iter().position(|column| *column == name).with_context(|| format!("{OUT}: no column {name}"))
        };
        let columns = WEIGHTS.iter().map(|(name, ..)| Ok((place(name)?, *name))).collect::<Result<_>>()?;
        let lines = lines.map(|line| line.split(' ').filter_map(|count| count.parse().ok()).collect()).collect();
        Ok(Self { instructions: place("instructions")?, columns, lines })
    }

    /// The median of a column over a row's samples, for each operation.
    fn median(&self, line: &Line<'_>, column: usize) -> Option<f64> {
        let sum = |sample: usize| {
            let first = line.first + sample * line.every;
            self.lines.get(first..first + line.take)?.iter().map(|counts| counts.get(column)).sum::<Option<f64>>()
        };
        let mut all: Vec<f64> = (0..SAMPLES).map(sum).collect::<Option<_>>()?;
        all.sort_by(f64::total_cmp);
        Some(all.get(SAMPLES / 2)? / line.per)
    }

    fn row(&self, line: &Line<'_>) -> Result<Row> {
        let median =
            |column| self.median(line, column).with_context(|| format!("{OUT}: {} has no intervals", line.name));
        let instructions = median(self.instructions)?;
        ensure!(
            instructions >= line.median * 0.98,
            "{}: its intervals hold {instructions} instructions, and it took {}",
            line.name,
            line.median
        );
        let events = self.columns.iter().map(|&(column, name)| Ok((name, median(column)?))).collect::<Result<_>>()?;
        Ok(Row { instructions: line.median, events })
    }
}

#[cfg(test)]
mod tests {
    use super::{Intervals, Line, Row, SAMPLES, WEIGHTS};

    fn text(counts: impl Iterator<Item = (u64, u64)>) -> String {
        let names: Vec<&str> = WEIGHTS.iter().map(|weight| weight.0).collect();
        let zeros = " 0".repeat(WEIGHTS.len() - 1);
        counts.fold(format!("instructions {}\n", names.join(" ")), |text, (instructions, taken)| {
            format!("{text}{instructions} {taken}{zeros}\n")
        })
    }

    #[test]
    fn a_rows_intervals_are_those_that_the_guest_names() {
        let counts = (0..2 * SAMPLES as u64).map(|i| if i % 2 == 0 { (5, 9) } else { (640, 64) });
        let intervals = Intervals::read(&text(counts)).unwrap();
        let line = Line::read("(d0) bench: event 10 per=64 first=1 every=2 take=1").unwrap();
        let row = intervals.row(&line).unwrap();
        assert_eq!((row.instructions, row.events["taken"], row.cycles()), (10.0, 1.0, 135.0));
        assert_eq!(row.text(), "1 taken");
    }

    #[test]
    fn intervals_of_something_else_are_refused() {
        let intervals = Intervals::read(&text((0..SAMPLES as u64).map(|_| (50, 0)))).unwrap();
        let line = |first| Line { name: "x", median: 100.0, per: 1.0, first, every: 1, take: 1 };
        assert!(intervals.row(&line(0)).unwrap_err().to_string().contains("hold 50 instructions, and it took 100"));
        assert!(intervals.row(&line(1)).unwrap_err().to_string().contains("no intervals"));
        assert!(Intervals::read("instructions\n").is_err());
        assert!(Line::read("bench: rdmsr skipped").is_none());
    }

    #[test]
    fn what_costs_most_is_named_first() {
        let row = Row { instructions: 0.0, events: [("locked", 2.0), ("iret", 1.0), ("clts", 0.0)].into() };
        assert_eq!(row.text(), "1 iret, 2 locked");
    }
}
