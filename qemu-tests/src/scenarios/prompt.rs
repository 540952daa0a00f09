//! What a person types at dom0's prompt who knows `xl`, and what the line does meanwhile.

use anyhow::{Result, ensure};

use crate::lab::{Lab, Prompt, Verdict};

/// Demands that what a command said holds texts.
fn says(said: &str, texts: &[&str]) -> Result<()> {
    texts.iter().try_for_each(|text| {
        ensure!(said.contains(text), "nobody said `{text}`:\n{said}");
        Ok(())
    })
}

/// A configuration as xl's users have them, with keys for what is not here.
const CONFIG: &str = "# a guest\nname = \"own\"\nkernel = \"guests/hello\"\nmemory = 16\n\
    vfb = [ 'vnc=1' ]\non_watchdog = \"destroy\"\ncpus = \"0\"\n";

pub(super) fn a_configuration_is_read_shown_and_changed_as_by_xl(lab: &Lab<'_>) -> Result<Verdict> {
    let mut machine = lab.machine("")?;
    lab.add(&mut machine, &[("own.cfg", CONFIG.as_bytes())])?;
    let mut prompt = Prompt::open(&machine)?;
    says(&prompt.command("cat own.cfg")?, &["name = \"own\"", "vfb = [ 'vnc=1' ]"])?;
    says(&prompt.command("cat guests/hello")?, &["`guests/hello` is no text"])?;
    let dry = prompt.command("xl create --dryrun own.cfg memory=24 maxmem=32")?;
    let warning = "warning: own.cfg: line 5: `vfb` means nothing here and does not count";
    says(&dry, &["Parsing config from own.cfg", warning, "memory = 24", "maxmem = 32", "cpus = [ \"0\" ]"])?;
    let listed = prompt.command("xl list -v")?;
    says(&listed, &["UUID", "Reason-Code"])?;
    ensure!(!listed.contains("own"), "a dry run made a guest:\n{listed}");
    let wrong = [
        ("xl create own.cfg memory=1m", "on the command line: `memory` wants a number of MiB from 1 to"),
        ("xl create own.cfg memry=1", "on the command line: unknown key `memry`; did you mean `memory`?"),
        ("xl create -x own.cfg", "unknown option `-x`: usage: create "),
        ("xl dump-core own /tmp/core", "EOPNOTSUPP"),
        ("xl list nobody", "no guest `nobody`"),
    ];
    for (line, text) in wrong {
        says(&prompt.command(line)?, &["error: ", text])?;
    }
    let made = prompt.command("xl create -q name=typed kernel=guests/hello memory=16; xl wait typed")?;
    says(&made, &["hello from a guest"])?;
    ensure!(!made.contains("Parsing"), "-q was not quiet:\n{made}");
    prompt.type_until("xl create -\r", "> ")?;
    prompt.type_until("name = 'lines'; memory = 16\r", "> ")?;
    prompt.type_until("kernel = \"guests/hello\"\r", "> ")?;
    let created = prompt.keys("\x04")?;
    says(&created, &["Parsing config from -"])?;
    says(&prompt.command("xl wait lines")?, &["hello from a guest"])?;
    prompt.power_off()?;
    Ok(Verdict::Passed)
}

pub(super) fn a_guest_is_pinned_renamed_and_triggered_as_by_xl(lab: &Lab<'_>) -> Result<Verdict> {
    let mut machine = lab.machine("")?;
    machine.smp = 2;
    let mut prompt = Prompt::open(&machine)?;
    prompt.command("xl create -p hello.cfg vcpus=2 cpus=['1','0-1'] cpus_soft=0 cmdline=stay=1")?;
    let affinity = |prompt: &mut Prompt, name: &str| -> Result<Vec<String>> {
        let listed = prompt.command(&format!("xl vcpu-list {name}"))?;
        says(&listed, &["Affinity (Hard / Soft)"])?;
        let lines = listed.lines().filter(|line| line.starts_with(&format!("{name} ")));
        Ok(lines.map(|line| line.split_whitespace().skip(6).collect::<Vec<_>>().join(" ")).collect())
    };
    let configured = affinity(&mut prompt, "hello")?;
    prompt.command("xl vcpu-pin hello all 0 0; xl vcpu-pin hello 1 - all")?;
    let pinned = affinity(&mut prompt, "hello")?;
    let expected = (["1 / 0", "all / 0"], ["0 / 0", "0 / all"]);
    ensure!(configured == expected.0 && pinned == expected.1, "affinities: {configured:?}, then {pinned:?}");
    says(&prompt.command("xl vcpu-pin hello 0 7")?, &["error: ", "EINVAL"])?;
    says(&prompt.command("xl rename hello Domain-0")?, &["error: "])?;
    prompt.command("xl unpause hello; xl rename hello other")?;
    says(&prompt.command("xl domid hello")?, &["error: no guest `hello`"])?;
    says(&prompt.command("xl list other; xenstore-read /local/domain/1/name")?, &["other  ", "\nother"])?;
    says(&prompt.command("xl trigger other dance")?, &["usage: trigger"])?;
    says(&prompt.command("xl trigger other reset")?, &["error: `reset` for vcpu 0 of `other`: "])?;
    // Our guests have nothing to do on an NMI: they say so, and where they were.
    let ended = prompt.command("xl trigger other nmi; sleep 1; xl console other")?;
    says(&ended, &["exception 2 ", "called from:", "has ended: crash"])?;
    prompt.power_off()?;
    Ok(Verdict::Passed)
}

/// What is typed stays whole below what is printed; keys that edit, search, complete and end do so.
pub(super) fn the_line_stays_whole_and_knows_its_keys(lab: &Lab<'_>) -> Result<Verdict> {
    let mut prompt = Prompt::open(&lab.machine("")?)?;
    prompt.command("xl create hello.cfg")?;
    // Sooner or later the guest's end is printed: above what is typed.
    prompt.type_until("xl domid Dom", "\x1b[Kdom0# xl domid Dom")?;
    says(&prompt.keys("\t\r")?, &["ain-0 ", "\n0"])?;
    prompt.type_until("\x12cre", "(search) cre: xl create hello.cfg")?;
    // Ctrl-G gives the search up; Ctrl-L clears the screen, the line is shown again.
    prompt.type_until("\x07", "\x1b[Kdom0# ")?;
    prompt.type_until("xl lost\x17list\x0c", "\x1b[H\x1b[2Jdom0# xl list")?;
    says(&prompt.keys("\r")?, &["Domain-0"])?;
    prompt.type_until("xl create hel\t", "lo.cfg ")?;
    prompt.type_until("mem\t", "ory=")?;
    says(&prompt.keys("\x03")?, &["^C"])?;
    says(&prompt.keys("\x04")?, &["`poweroff` ends the machine"])?;
    prompt.power_off()?;
    Ok(Verdict::Passed)
}
