//! `cargo xtask fuzz TARGET`: inputs looked for by coverage, with libFuzzer on nightly Rust.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process::{nightly, run, shown, step, succeeds};
use crate::workspace::Workspace;

/// Looks for inputs that break `target` for so many minutes, beginning with its corpus. What is found is kept in
/// `target/oxen/fuzz/TARGET`; what is new to the corpus is put into it with `keep`.
///
/// # Errors
/// Fails for a target that is not there, where the fuzzer cannot be had, and when an input breaks
/// something: the message names the file.
pub(super) fn look(workspace: &Workspace, target: &str, minutes: u64, keep: bool) -> Result<()> {
    let corpora = workspace.root.join("fuzz/corpus");
    let corpus = corpora.join(target);
    if !corpus.is_dir() {
        bail!("no target `{target}`; there are: {}", targets(&corpora)?.join(", "));
    }
    set_up()?;
    let found = workspace.out.join("fuzz").join(target);
    let (work, broken) = (found.join("corpus"), found.join("broken"));
    for folder in [&work, &broken] {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    step(&format!("fuzz {target} for {minutes} min"));
    let mut fuzzer = cargo_fuzz(workspace);
    fuzzer.args([&work, &corpus]).arg("--");
    fuzzer.args([format!("-max_total_time={}", minutes * 60), format!("-artifact_prefix={}/", broken.display())]);
    fuzzer
        .args(["-rss_limit_mb=2048", "-timeout=20", "-print_final_stats=1", "-detect_leaks=0"])
        // What the hypervisor keeps for good is leaked on purpose; at the end it is looked for unless this is said too.
        .env("ASAN_OPTIONS", "detect_leaks=0")
        .env("OXEN_FUZZ_TARGET", target);
    run(&mut fuzzer, &format!("the input stands in {}", broken.display()))?;
    if keep {
        step("keep what is new, as little as covers it all");
        let mut merge = cargo_fuzz(workspace);
        merge
            .args([&corpus, &work])
            .args(["--", "-merge=1", "-use_counters=0", "-detect_leaks=0"])
            .env("OXEN_FUZZ_TARGET", target);
        run(&mut merge, "see what the fuzzer says")?;
    }
    Ok(())
}

/// The names of all targets.
///
/// # Errors
/// Fails when the corpora cannot be read.
pub(super) fn targets(corpora: &Path) -> Result<Vec<String>> {
    let entries = std::fs::read_dir(corpora).with_context(|| format!("cannot read {}", corpora.display()))?;
    let mut names: Vec<String> =
        entries.filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned())).collect();
    names.sort();
    Ok(names)
}

fn cargo_fuzz(workspace: &Workspace) -> Command {
    let mut command = nightly(&["cargo", "fuzz", "run", "--fuzz-dir"]);
    command.arg(workspace.root.join("fuzz/libfuzzer")).arg("--target-dir").arg(workspace.out.join("libfuzzer"));
    command.arg("target");
    command
}

/// Sees to it that there are nightly Rust and cargo-fuzz.
fn set_up() -> Result<()> {
    let hint = "fuzzing by coverage needs nightly Rust and cargo-fuzz";
    if !succeeds(&mut nightly(&["rustc", "--version"])) {
        let mut install = Command::new("rustup");
        install.args(["toolchain", "install", "nightly", "--profile", "minimal"]);
        step(&shown(&install));
        run(&mut install, hint)?;
    }
    if !succeeds(&mut nightly(&["cargo", "fuzz", "--version"])) {
        let mut install = nightly(&["cargo", "install", "cargo-fuzz"]);
        step(&shown(&install));
        run(&mut install, hint)?;
    }
    Ok(())
}
