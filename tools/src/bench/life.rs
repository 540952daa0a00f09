//! `cargo xtask bench life`: how long a small guest takes to be saved and restored, and stands still while it moves.
//!
//! The guest `steady` of 16 MiB is saved on a disk in dom0's memory, so that no device of the host has a say. Virtual
//! time is what instructions take, at a nanosecond each.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::{Medians, moves, number};
use crate::build;
use crate::process::step;
use crate::qemu::Machine;
use crate::session;
use crate::workspace::Workspace;

/// Bytes of the disk.
const DISK: usize = 18 << 20;
/// How often the guest is saved and restored.
const ROUNDS: usize = 5;

/// A line of the table: a name, what it is, the beginning of dom0's line that says it, what stands before the figure in
/// there, and the most that it may be in virtual milliseconds.
struct Row {
    name: &'static str,
    what: &'static str,
    line: &'static str,
    before: &'static str,
    most: f64,
}

const ROWS: [Row; 4] = [
    Row { name: "save", what: "save, from the request to the end", line: "saved: ", before: " in ", most: 30.0 },
    Row { name: "save_stop", what: "of which until it has stopped", line: "saved: ", before: " s: ", most: 30.0 },
    Row { name: "save_write", what: "of which to write it down", line: "saved: ", before: "stopped, ", most: 30.0 },
    Row { name: "restore", what: "restore, until it can run", line: "restored: ", before: " in ", most: 20.0 },
];

/// The same for a guest that moves to another machine, in real milliseconds.
const MOVE: Row = Row {
    name: "move",
    what: "move to another machine: stands still, in real time",
    line: "moved: ",
    before: "stood still for ",
    most: 60.0,
};

/// Measures, and prints the table.
///
/// # Errors
/// Fails when something cannot be built, the guest is not saved or does not move, or one of that takes longer than it
/// may.
pub(super) fn run(workspace: &Workspace, limit: Duration) -> Result<()> {
    build::all(workspace)?;
    step("measure Oxen");
    let folder = workspace.out.join("bench-life");
    let mut medians = measure(workspace, &folder, limit)?;
    medians.extend(read(&moves::measure(workspace, &folder, limit)?));
    print!("{}", table(&medians));
    judge(&medians)?;
    hold(&MOVE, &medians)
}

/// Measures with what is built, in a folder.
///
/// # Errors
/// Fails when the guest is not saved and restored.
pub(super) fn measure(workspace: &Workspace, folder: &Path, limit: Duration) -> Result<Medians> {
    let mut script = String::from(
        "xl create -p holder.cfg; xl destroy holder; xl create steady.cfg cmdline='period=1000' name=small; \
         xl expect small 'step 2 is whole'\n",
    );
    script += &"xl save small saved.img; xl restore saved.img; xl expect small 'is whole'\n".repeat(ROUNDS);
    script += "poweroff\n";
    let holder = "name = \"holder\"\nkernel = \"guests/hello\"\nmemory = 16\ndisk = [\"phy:saved.img,xvda,w\"]\n";
    let files = [
        ("saved.img".to_owned(), vec![0; DISK]),
        ("holder.cfg".to_owned(), holder.as_bytes().to_vec()),
        ("life.xl".to_owned(), script.into_bytes()),
    ];
    let mut machine = Machine::oxen(workspace, "script=@life.xl debug-exit");
    machine.append = machine.append.replace("dom0_mem=128M", "dom0_mem=256M");
    folder.clone_into(&mut machine.folder);
    Ok(read(&session::run_counted(workspace, machine, &files, limit)?))
}

/// The median of each row, in milliseconds, out of what dom0 has said.
fn read(transcript: &str) -> Medians {
    let median = |row: &Row| {
        let lines = transcript.lines().filter_map(|line| line.strip_prefix(row.line));
        let figure = |line: &str| line.split_once(row.before)?.1.split(' ').next()?.parse::<f64>().ok();
        let mut all: Vec<f64> = lines.filter_map(figure).map(|seconds| seconds * 1000.0).collect();
        all.sort_by(f64::total_cmp);
        Some((row.name.to_owned(), *all.get(all.len() / 2)?))
    };
    ROWS.iter().chain([&MOVE]).filter_map(median).collect()
}

/// Holds what was measured against what it may be.
///
/// # Errors
/// Fails when a row is above that, or was not measured.
pub(super) fn judge(medians: &Medians) -> Result<()> {
    ROWS.iter().try_for_each(|row| hold(row, medians))
}

fn hold(Row { name, most, .. }: &Row, medians: &Medians) -> Result<()> {
    let Some(median) = medians.get(*name) else { anyhow::bail!("{name}: not measured") };
    ensure!(median <= most, "{name}: {} ms, and {} are the most", number(*median), number(*most));
    Ok(())
}

/// The table, in the form that `docs/performance.md` holds.
fn table(medians: &Medians) -> String {
    let mut text = "| virtual milliseconds, median | Oxen | to reach |\n|---|---:|---:|\n".to_owned();
    for Row { name, what, most, .. } in ROWS.iter().chain([&MOVE]) {
        let value = medians.get(*name).map_or_else(|| "–".to_owned(), |value| number(*value));
        text.push_str(&format!("| {what} | {value} | ≤ {} |\n", number(*most)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{judge, read, table};

    #[test]
    fn dom0s_lines_are_read() {
        let lines = "saved: 16 MiB on `saved.img` in 0.012 s: 0.002 s until it stopped, 0.010 s to write it down\n\
            restored: `small` as domain 2 in 0.019 s\nrestored: `small` as domain 3 in 0.021 s\n\
            restored: `small` as domain 4 in 0.020 s\n\
            moved: `small` runs at 10.9.0.2, after 2.528 s in 2 rounds (4376 pages); it stood still for 0.010 s\n";
        let medians = read(lines);
        assert_eq!(
            ["save", "save_stop", "save_write", "restore"].map(|name| medians[name].round()),
            [12.0, 2.0, 10.0, 20.0]
        );
        assert!(judge(&medians).is_ok() && judge(&read("saved: nothing\n")).is_err());
        assert!(table(&medians).contains("| restore, until it can run | 20 | ≤ 20 |\n"));
        assert!(table(&medians).ends_with("in real time | 10 | ≤ 60 |\n"));
    }
}
