//! Guests that take of dom0 what they can get.

use anyhow::{Result, ensure};
use oxen_tools::qemu::Machine;

use crate::lab::{Lab, Prompt, Verdict};

/// Guests that do it at the same time. By quotas of each kind alone, sixteen use up the 128 MiB that dom0 has.
const GUESTS: usize = 26;

/// A machine with room for all of them.
fn machine(lab: &Lab<'_>) -> Result<Machine> {
    let mut machine = lab.machine("")?;
    machine.memory = 1024;
    let probe = std::fs::read(lab.workspace.out.join("probe"))?;
    let config = b"name = \"greedy\"\nkernel = \"guests/probe\"\nmemory = 16\ncmdline = \"end=never\"\n";
    lab.add(&mut machine, &[("greedy.cfg", config), ("guests/probe", &probe)])?;
    Ok(machine)
}

/// Nodes, transactions and watches up to every quota by many guests at once: dom0 creates the next guest all the same,
/// and the store answers it.
pub(super) fn guests_that_fill_the_store_harm_nobody_else(lab: &Lab<'_>) -> Result<Verdict> {
    let mut prompt = Prompt::open(&machine(lab)?)?;
    for number in 0..GUESTS {
        let said = prompt.command(&format!("xl create greedy.cfg name=greedy{number}"))?;
        ensure!(!said.contains("error:"), "guest {number} is not created:\n{said}");
    }
    for number in 0..GUESTS {
        let said = prompt.command(&format!("expect greedy{number} ' watches' 170"))?;
        ensure!(said.contains("probe: holds"), "what guest {number} says:\n{said}");
    }
    let said = prompt.command("xl create hello.cfg; xl wait hello")?;
    ensure!(said.contains("the store calls this domain hello"), "what the next guest says:\n{said}");
    let said = prompt.command("xl purse")?;
    ensure!(said.contains("greedy0") && said.contains("/1024 "), "what the purses hold:\n{said}");
    let said = prompt.command("xenstore-write /tool/later yes; xenstore-read /tool/later")?;
    ensure!(said.contains("yes"), "what the store answers:\n{said}");
    // What a guest has taken comes back with its end.
    for number in 0..GUESTS {
        prompt.command(&format!("xl destroy greedy{number}"))?;
    }
    let said = prompt.command("xl create greedy.cfg; expect greedy ' watches'; xl destroy greedy; xl list")?;
    ensure!(said.contains("probe: holds"), "what a guest says when the others are gone:\n{said}");
    prompt.power_off()?.lacks("panicked")?;
    Ok(Verdict::Passed)
}

/// Where dom0 has too little for one more guest's share, `xl create` says so, and what runs goes on.
pub(super) fn a_guest_for_whom_dom0_has_no_memory_is_refused(lab: &Lab<'_>) -> Result<Verdict> {
    let mut machine = machine(lab)?;
    machine.append = machine.append.replace("dom0_mem=128M", "dom0_mem=32M");
    let mut prompt = Prompt::open(&machine)?;
    let mut created = 0;
    let refusal = loop {
        let said = prompt.command(&format!("xl create greedy.cfg name=greedy{created}"))?;
        if said.contains("error:") {
            break said;
        }
        created += 1;
        ensure!(created < 16, "a dom0 of 32 MiB has room for sixteen guests:\n{said}");
    };
    ensure!(refusal.contains("dom0 has too little memory for one more guest"), "the refusal:\n{refusal}");
    ensure!(created > 0, "not even one guest is created:\n{refusal}");
    for number in 0..created {
        let said = prompt.command(&format!("expect greedy{number} ' watches' 170"))?;
        ensure!(said.contains("probe: holds"), "what guest {number} says:\n{said}");
    }
    let said = prompt.command("xl destroy greedy0; xl create hello.cfg; xl wait hello")?;
    ensure!(said.contains("hello from a guest"), "what a guest says in the place of another:\n{said}");
    prompt.power_off()?.lacks("panicked")?;
    Ok(Verdict::Passed)
}
