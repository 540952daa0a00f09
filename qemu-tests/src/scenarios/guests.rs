//! What the sample guests show, and guests that a user makes.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use oxen_tools::new_guest::Library;
use oxen_tools::{crates, new_guest, process};

use crate::lab::{Lab, Prompt, Report, Verdict};

pub(super) fn mmu_shows_two_address_spaces_and_every_refusal(lab: &Lab<'_>) -> Result<Verdict> {
    shows_two_address_spaces(&lab.script("xl create mmu.cfg; xl wait mmu; poweroff")?)?;
    Ok(Verdict::Passed)
}

/// Demands what the guest `mmu` shows.
pub(super) fn shows_two_address_spaces(report: &Report) -> Result<()> {
    for text in ["holds 0xaaaa", "holds 0xbbbb", "mmu: done"] {
        if !report.transcript().contains(text) {
            return report.fail(&format!("mmu did not say `{text}`"));
        }
    }
    if report.lines_with("mmu: refused with").len() < 10 {
        return report.fail("fewer than ten refusals");
    }
    Ok(())
}

/// `xl mem-set` moves a guest's memory down and up again, and what it holds stays as it was.
pub(super) fn a_guest_follows_its_memory_target(lab: &Lab<'_>) -> Result<Verdict> {
    follows_its_memory_target(lab, "")
}

/// The same where the guest's configuration says this besides.
pub(super) fn follows_its_memory_target(lab: &Lab<'_>, more: &str) -> Result<Verdict> {
    let mut prompt = Prompt::open(&lab.machine("")?)?;
    prompt.command(&format!("xl create hog.cfg memory=64 maxmem=64 {more}; sleep 3"))?;
    let full = memory(&mut prompt)?;
    prompt.command("xl mem-set hog 32; sleep 6")?;
    let small = memory(&mut prompt)?;
    prompt.command("xl mem-set hog 64; sleep 6")?;
    let again = memory(&mut prompt)?;
    let said = prompt.command("xl balloon explain hog; xl destroy hog; xl console hog")?;
    prompt.power_off()?;
    ensure!(
        (60..=66).contains(&full) && (28..=35).contains(&small) && (60..=66).contains(&again),
        "the guest had {full}, then {small}, then {again} MiB:\n{said}"
    );
    ensure!(said.contains("hog:") && !said.contains("spoilt: 1"), "what the guest says:\n{said}");
    Ok(Verdict::Passed)
}

/// What `xl list` says the guest has, in MiB.
fn memory(prompt: &mut Prompt) -> Result<u64> {
    let list = prompt.command("xl list hog")?;
    let line = list.lines().find(|line| line.starts_with("hog ")).with_context(|| format!("no hog:\n{list}"))?;
    memory_of(line)
}

/// The memory that a line of `xl list` shows, in MiB.
pub(super) fn memory_of(line: &str) -> Result<u64> {
    line.split_whitespace().nth(2).and_then(|mib| mib.parse().ok()).with_context(|| format!("no memory: {line}"))
}

pub(super) fn a_guest_cannot_shrink_below_what_it_needs(lab: &Lab<'_>) -> Result<Verdict> {
    let mut prompt = Prompt::open(&lab.machine("")?)?;
    prompt.command("xl create hog.cfg; sleep 1")?;
    let refused = prompt.command("xl mem-set hog 1")?;
    let above = prompt.command("xl mem-set hog 9999")?;
    prompt.power_off()?;
    ensure!(refused.contains("error:") && above.contains("error:"), "what was said:\n{refused}\n{above}");
    Ok(Verdict::Passed)
}

/// A folder that no settings of this checkout reach; gone when dropped.
struct Elsewhere(PathBuf);

impl Elsewhere {
    fn new(name: &str) -> Result<Self> {
        let folder = std::env::temp_dir().join(format!("oxen-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        Ok(Self(folder))
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        // What is left in a folder for what is temporary goes with it.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What a cargo that the tests start is not to have of the one that started them.
const OWN: [&str; 4] = ["CARGO_TARGET_DIR", "CARGO_BUILD_TARGET", "RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS"];

fn without_our_settings(cargo: &mut Command) {
    for name in OWN {
        cargo.env_remove(name);
    }
}

/// Boots a guest crate by its own `cargo run`, as its author does.
fn boots_by_cargo_run(lab: &Lab<'_>, folder: &Path, name: &str) -> Result<()> {
    let mut cargo = process::cargo();
    cargo.current_dir(folder).args(["run", "--release", "--quiet", "--", "--no-build", "--folder"]).arg(&lab.folder);
    without_our_settings(&mut cargo);
    let said = process::output(&mut cargo, "the guest's own `cargo run` fails")?;
    for text in [format!("({name}) {name} runs on xen-3.0-x86_64"), format!("{name} is done")] {
        ensure!(said.contains(&text), "nobody said `{text}`:\n{said}");
    }
    Ok(())
}

/// The tool itself, started in a folder where no setting of the checkout counts.
fn xtask(lab: &Lab<'_>, folder: &Path) -> Command {
    let mut cargo = process::cargo();
    cargo.current_dir(folder).args(["run", "--quiet", "--bin", "xtask", "--manifest-path"]);
    cargo.arg(lab.workspace.root.join("Cargo.toml")).arg("--");
    without_our_settings(&mut cargo);
    cargo
}

/// Laid out by the tool itself, started where no setting of the checkout counts.
pub(super) fn a_new_guest_builds_and_boots_outside_the_checkout(lab: &Lab<'_>) -> Result<Verdict> {
    let folder = Elsewhere::new("new-guest")?;
    process::run(
        xtask(lab, &folder.0).args(["new-guest", "inner/fresh"]),
        "new-guest does not work outside the checkout",
    )?;
    boots_by_cargo_run(lab, &folder.0.join("inner/fresh"), "fresh")?;
    Ok(Verdict::Passed)
}

/// Two configurations of a user's, each with a kernel of its own beside it, and a file more.
pub(super) fn configurations_kernels_and_files_of_a_users_own_run(lab: &Lab<'_>) -> Result<Verdict> {
    let folder = Elsewhere::new("own")?;
    let guests = lab.workspace.out.join("guests");
    let copy = |name: &str, to: &str| {
        let to = folder.0.join(to);
        std::fs::copy(guests.join(name), &to).with_context(|| format!("cannot write {}", to.display()))
    };
    copy("hello", "first")?;
    copy("mmu", "second")?;
    let configs = [
        ("one.cfg", "name = 'one'; kernel = './first'\nmemory = 16\nvfb = ['vnc=1']\n"),
        ("two.cfg", "name = 'two'\nkernel = 'second'\nmemory = 24\n"),
        ("note.txt", "a text of the user's\n"),
    ];
    for (name, text) in configs {
        std::fs::write(folder.0.join(name), text)?;
    }
    let run = ["run", "--no-build", "--config", "one.cfg", "--config", "two.cfg"];
    let both = process::output(xtask(lab, &folder.0).args(run).arg("--folder").arg(&lab.folder), "the guests fail")?;
    let script = "cat notes/it; xl create two.cfg kernel=first; xl wait two; poweroff";
    let mut scripted = xtask(lab, &folder.0);
    scripted.args(run).args(["--file", "notes/it=note.txt", "--script", script]).arg("--folder").arg(&lab.folder);
    let one = process::output(&mut scripted, "the script fails")?;
    let demands = [
        (&both, "warning: one.cfg: line 3: `vfb` means nothing here"),
        (&both, "(one) hello from a guest"),
        (&both, "mmu: done"),
        (&one, "a text of the user's"),
        (&one, "(two) hello from a guest"),
    ];
    for (said, text) in demands {
        ensure!(said.contains(text), "nobody said `{text}`:\n{said}");
    }
    Ok(Verdict::Passed)
}

/// A crate that has the runtime as a registry would give it: from its packages, unpacked, and nothing of the checkout.
pub(super) fn a_guest_of_the_packaged_crates_builds_and_boots(lab: &Lab<'_>) -> Result<Verdict> {
    let folder = Elsewhere::new("packaged")?;
    let packages = crates::unpacked(lab.workspace, &folder.0.join("packages"))?;
    let guest = new_guest::lay_out(lab.workspace, &folder.0, "packed", Library::Packages(&packages))?;
    // What the packages of the tests' own lock file are is here already; the newest would have to be fetched.
    std::fs::copy(lab.workspace.root.join("Cargo.lock"), guest.join("Cargo.lock"))?;
    boots_by_cargo_run(lab, &guest, "packed")?;
    Ok(Verdict::Passed)
}

/// The frontend grants a page and leaves a port, the backend serves, and both let go in the order that gives it back.
pub(super) fn two_guests_make_a_device_of_their_own(lab: &Lab<'_>) -> Result<Verdict> {
    let script = "xl create -p pair.cfg name=front cmdline='peer=2 role=front'; \
        xl create pair.cfg name=back cmdline='peer=1 role=back'; xl unpause front; \
        xl wait front; xl wait back; poweroff";
    makes_a_device(&lab.script(script)?)?;
    Ok(Verdict::Passed)
}

/// Demands what the two guests of `pair` say.
pub(super) fn makes_a_device(report: &Report) -> Result<()> {
    let said =
        ["(front) pair: has 100 answers", "(back) pair: answered 100 questions", "(front) pair: has its page back"];
    let ends = ["(front) pair: done, as the Frontend", "(back) pair: done, as the Backend"];
    for text in said.iter().chain(&ends) {
        if !report.transcript().contains(text) {
            return report.fail(&format!("nobody said `{text}`"));
        }
    }
    Ok(())
}

/// The benchmark runs unprivileged to its end.
pub(super) fn bench_measures_as_a_guest(lab: &Lab<'_>) -> Result<Verdict> {
    lab.script("xl create bench.cfg; xl wait bench; poweroff")?.says("bench: null_hypercall ")?.says("bench: done")?;
    Ok(Verdict::Passed)
}
