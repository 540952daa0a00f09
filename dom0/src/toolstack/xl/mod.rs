//! The commands of the prompt: one table, one function each.

mod brctl;
mod consoles;
mod devices;
mod dirty;
mod life;
mod machine;
mod memory;
mod saving;
mod show;
mod top;
mod vcpus;
mod xenstore;

use alloc::{boxed::Box, format, rc::Rc, string::String, vec::Vec};
use core::future::Future;
use core::pin::Pin;

use anyhow::{Error, Result, anyhow, bail};
use oxen_abi::domid::DomId;

use super::guest::Guest;
use super::stage::End;
use super::system::System;
use crate::{options, suggest};

/// What a command ends with; the text of an error says what to do.
pub type Outcome = Result<()>;
type Running = Pin<Box<dyn Future<Output = Outcome>>>;

/// What a command is given besides the machine.
pub struct Call {
    /// The machine.
    pub system: Rc<System>,
    /// The words behind the command.
    pub args: Vec<String>,
    /// Whether somebody sits at the terminal.
    pub interactive: bool,
}

/// One command.
pub struct Verb {
    /// Its name.
    pub name: &'static str,
    /// What goes behind it.
    pub usage: &'static str,
    /// What it does, in a line.
    pub help: &'static str,
    run: fn(Call) -> Running,
}

macro_rules! verbs {
    ($($name:literal $usage:literal $help:literal $run:path;)*) => {
        /// All commands.
        pub const VERBS: &[Verb] =
            &[$(Verb { name: $name, usage: $usage, help: $help, run: |call| Box::pin($run(call)) }),*];
    };
}

verbs! {
    "list" "[-l] [-v] [NAME]" "show the domains (-l, -v more of each)" show::list;
    "create" "[-p] [-c] [-n] [-q] [-f CONFIG] [CONFIG] [KEY=VALUE...]"
        "create a guest from a configuration: a file, - for one to be typed, or settings alone \
         (-p paused, -c with console, -n only reads it)" life::create;
    "console" "NAME" "show a guest's console and type at it; Ctrl-] leaves" consoles::console;
    "pause" "NAME" "stop a guest's vcpus" life::pause;
    "unpause" "NAME" "let a paused guest run" life::unpause;
    "shutdown" "[-w] NAME | -a" "ask guests to power off (-w waits, -a all)" life::shutdown;
    "reboot" "NAME" "ask a guest to start again; without NAME the machine does" life::reboot;
    "destroy" "NAME" "end a guest at once" life::destroy;
    "save" "[-c] [-p] NAME DISK"
        "save a guest on a disk of the machine, over what is there, and end it (-c it goes on, -p it stays paused)"
        saving::save;
    "clone" "[-p] NAME [COUNT]"
        "make guests that are as this one is now, named NAME-1 and so on (-p they stay paused)" saving::clone;
    "restore" "[-p] [-e] DISK" "restore a guest from a disk (-p it stays paused)" saving::restore;
    "migrate" "NAME HOST"
        "move a guest to the machine at an address, while it runs; Ctrl-C leaves it here" saving::migrate;
    "receive" "[-p]" "wait for a guest from another machine, and take it (-p it stays paused)" saving::receive;
    "resume" "NAME" "let a guest go on of which a move left open whether it runs elsewhere" saving::resume;
    "wait" "NAME" "wait until a guest has ended, showing its console" consoles::wait;
    "expect" "NAME TEXT [SECONDS]"
        "show a guest's console until it has printed TEXT (within 120 s), for scripts" consoles::expect;
    "send" "[-n] NAME TEXT" "type a line at a guest's console (-n without Enter), for scripts" consoles::send;
    "mem-set" "[-w] NAME MiB" "set a guest's memory target (-w waits until it is reached)" memory::set;
    "mem-max" "NAME MiB" "set the most memory that a guest may have" memory::max;
    "balloon" "[explain NAME | policy [POLICY [SECONDS]]]"
        "show how guests follow their memory targets, what one is judged by, or who decides on them and how often: \
         fixed, shares, working-set, idle-tax=PERCENT" memory::balloon;
    "mem-stats" "[SECONDS]" "show what guests use of their memory, measured over some seconds (5)" memory::stats;
    "purse" "" "show what guests have taken of dom0, and the most they ever had" memory::purse;
    "log-dirty" "NAME ROUNDS"
        "log what a guest writes to, a second a round, and compare with what has changed, for checks"
        dirty::log_dirty;
    "vcpu-list" "[NAME]" "show vcpus" show::vcpu_list;
    "vcpu-set" "NAME COUNT" "set how many vcpus a guest has online, up to its maxvcpus" vcpus::set;
    "vcpu-pin" "[-f] NAME VCPU|all HARD [SOFT]"
        "set where a vcpu may run, and where it should: 0-3,^2, all, - for no change (-f lifts a guest's own pin)"
        vcpus::pin;
    "sched-credit" "[-d NAME [-w WEIGHT] [-c CAP]]" "show or set domains' shares of the processor" vcpus::sched_credit;
    "top" "[-d SECONDS]" "show what domains use, measured over a second" top::top;
    "rename" "NAME NEW-NAME" "give a guest another name" life::rename;
    "trigger" "NAME nmi|reset|init|power|sleep [VCPU]"
        "have a vcpu take an interrupt, as machines have them" life::trigger;
    "sysrq" "NAME LETTER"
        "press a magic key in a Linux guest (s syncs, c crashes, h names all), or crash dom0 (c)" life::sysrq;
    "block-list" "NAME" "show a guest's disks" devices::block_list;
    "block-attach" "NAME DISK" "give a guest another disk, as `disk` of a configuration says it" devices::block_attach;
    "block-detach" "NAME VDEV" "take a disk away from a guest" devices::block_detach;
    "block-resize" "NAME VDEV [MiB]"
        "resize a disk in memory, or look at the size of a disk of the machine again" devices::block_resize;
    "block-restart" "NAME VDEV" "begin a disk's backend anew; the guest loses nothing" devices::block_restart;
    "network-list" "NAME" "show a guest's network interfaces" devices::network_list;
    "network-attach" "NAME [KEY=VALUE...]"
        "give a guest another interface, as `vif` of a configuration says it" devices::network_attach;
    "network-detach" "NAME IDX|MAC" "take an interface away from a guest" devices::network_detach;
    "network-restart" "NAME IDX|MAC"
        "cut an interface's backend off and begin it anew; the guest loses nothing" devices::network_restart;
    "brctl" "show|showmacs [BRIDGE]" "show the bridge's ports, or where addresses were seen" brctl::brctl;
    "ifconfig" "" "show dom0's own address in the network" brctl::ifconfig;
    "domid" "NAME" "print a domain's number" show::domid;
    "domname" "DOMID" "print a domain's name" show::domname;
    "uptime" "" "show how long domains have run" show::uptime;
    "info" "" "show the machine and the hypervisor" machine::info;
    "dmesg" "[-c]" "show the hypervisor's messages (-c clears them)" machine::dmesg;
    "debug-keys" "KEYS" "press keys on the hypervisor's console" machine::debug_keys;
    "xenstore-ls" "[-f] [-p] [PATH]" "list xenstore (-f whole paths, -p permissions)" xenstore::ls;
    "xenstore-read" "[-R] PATH..." "print values, escaped (-R as they are)" xenstore::read;
    "xenstore-write" "PATH VALUE..." "set values" xenstore::write;
    "xenstore-rm" "PATH..." "remove nodes" xenstore::rm;
    "xenstore-chmod" "PATH n|r|w|bDOMID..." "set who may read and write a node, its owner first" xenstore::chmod;
    "xenstore-list" "PATH" "list the names below a node" xenstore::list;
    "xenstore-watch" "[-n COUNT] PATH..." "print paths as they change; any key ends it" xenstore::watch;
    "cat" "FILE..." "show texts of the ramdisk" machine::cat;
    "ls" "" "list the ramdisk's files and the disks" machine::files;
    "soak" "COUNT CONFIG [TEXT]"
        "create, run and destroy a guest COUNT times and compare free memory \
         (with TEXT it prints that and ends by itself)" life::soak;
    "sleep" "SECONDS" "wait" machine::sleep;
    "poweroff" "" "power the machine off" machine::poweroff;
    "help" "[COMMAND]" "show all commands" machine::help;
}

/// The command of this name.
pub fn find(name: &str) -> Option<&'static Verb> {
    VERBS.iter().find(|verb| verb.name == name)
}

/// Runs a command line; `xl` before a command may be left out.
///
/// # Errors
/// There is no such command, or what it says.
pub async fn run(system: &Rc<System>, line: &str, interactive: bool) -> Outcome {
    let mut words = options::words(line).into_iter();
    let first = words.next().unwrap_or_default();
    let name = if first == "xl" {
        // What xl itself takes in front of a command changes how it writes, or locks files: nothing here.
        words.find(|word| !XL_FLAGS.contains(&word.as_str())).unwrap_or_else(|| "help".into())
    } else {
        first
    };
    if name.is_empty() {
        return Ok(());
    }
    if NOT_HERE.contains(&name.as_str()) {
        bail!("`{name}` is a command of xl's that is not done here (EOPNOTSUPP); `help` lists what is");
    }
    let verb = find(&name).ok_or_else(|| match suggest::nearest(&name, VERBS.iter().map(|verb| verb.name)) {
        Some(near) => anyhow!("unknown command `{name}`; did you mean `{near}`?"),
        None => anyhow!("unknown command `{name}`; `help` lists all"),
    })?;
    let args: Vec<String> = words.flat_map(|word| shortened(verb.name, word)).collect();
    if let Some(option) = unknown_option(verb.usage, &args) {
        return Err(usage(verb.name).context(format!("unknown option `{option}`")));
    }
    (verb.run)(Call { system: system.clone(), args, interactive }).await
}

/// Options of xl itself, in front of its commands.
const XL_FLAGS: [&str; 5] = ["-v", "-f", "-N", "-t", "-T"];

/// xl's long options: the command, the option, what it is here.
const LONG: [(&str, &str, &str); 9] = [
    ("create", "--defconfig", "-f"),
    ("create", "--dryrun", "-n"),
    ("create", "--quiet", "-q"),
    ("list", "--long", "-l"),
    ("list", "--verbose", "-v"),
    ("sched-credit", "--cap", "-c"),
    ("sched-credit", "--domain", "-d"),
    ("sched-credit", "--weight", "-w"),
    ("vcpu-pin", "--force", "-f"),
];

/// A word of a command's: a long option as the short one, with its value behind it.
fn shortened(verb: &str, word: String) -> Vec<String> {
    let (option, value) = word.split_once('=').map_or((word.as_str(), None), |(option, value)| (option, Some(value)));
    match LONG.iter().find(|(of, long, _)| *of == verb && *long == option) {
        Some((_, _, short)) => core::iter::once(*short).chain(value).map(Into::into).collect(),
        None => Vec::from([word]),
    }
}

/// Commands of xl's that there is nothing for here: who types one is told so.
const NOT_HERE: [&str; 31] = [
    "migrate-receive",
    "dump-core",
    "config-update",
    "vm-list",
    "sched-credit2",
    "sched-rtds",
    "cpupool-create",
    "cpupool-list",
    "cpupool-destroy",
    "cpupool-migrate",
    "cpupool-numa-split",
    "channel-list",
    "cd-insert",
    "cd-eject",
    "pci-attach",
    "pci-detach",
    "pci-list",
    "pci-assignable-add",
    "pci-assignable-list",
    "pci-assignable-remove",
    "usbctrl-attach",
    "usbdev-attach",
    "vtpm-attach",
    "vtpm-list",
    "remus",
    "devd",
    "loadpolicy",
    "getenforce",
    "set-parameters",
    "psr-hwinfo",
    "vncviewer",
];

/// The options of a command: words of its usage that begin with a dash.
fn options_of(usage: &str) -> impl Iterator<Item = &str> {
    usage.split([' ', '[', ']']).filter(|word| word.len() > 1 && word.starts_with('-'))
}

/// The first word that looks like an option and is none of the command's. A single dash is a word like others, and so
/// is whatever stands behind the first plain word of a command that takes free text.
fn unknown_option<'a>(usage: &str, args: &'a [String]) -> Option<&'a str> {
    let takes_text = ["TEXT", "VALUE..."].iter().any(|text| usage.split([' ', '[', ']']).any(|word| word == *text));
    let is_option = |word: &str| word.len() > 1 && word.starts_with('-');
    let looked_at = args.iter().map(String::as_str).take_while(|word| is_option(word) || !takes_text);
    looked_at.filter(|word| is_option(word)).find(|word| !options_of(usage).any(|known| known == *word))
}

impl Call {
    /// Takes `flag` out of the words; returns whether it was there.
    pub fn flag(&mut self, flag: &str) -> bool {
        let before = self.args.len();
        self.args.retain(|word| word != flag);
        self.args.len() != before
    }

    /// Takes the word behind `flag` and the flag out of the words.
    ///
    /// # Errors
    /// There is no word behind the flag.
    pub fn option(&mut self, flag: &str) -> Result<Option<String>> {
        let Some(at) = self.args.iter().position(|word| word == flag) else { return Ok(None) };
        if at + 1 >= self.args.len() {
            bail!("`{flag}` wants a value behind it");
        }
        self.args.remove(at);
        Ok(Some(self.args.remove(at)))
    }

    /// The words, if they are as many as the command wants.
    ///
    /// # Errors
    /// They are not: how the command is used.
    pub fn exactly<const N: usize>(self, verb: &str) -> Result<(Rc<System>, [String; N])> {
        let args = self.args.try_into().map_err(|_| usage(verb))?;
        Ok((self.system, args))
    }

    /// The only word, as a guest that is there.
    ///
    /// # Errors
    /// There is not one word, or no such guest.
    pub fn guest(self, verb: &str) -> Result<(Rc<System>, Rc<Guest>)> {
        let (system, [name]) = self.exactly(verb)?;
        let guest = guest(&system, &name)?;
        Ok((system, guest))
    }
}

/// How a command is used, as an error.
pub fn usage(verb: &str) -> Error {
    find(verb).map_or_else(|| anyhow!("{verb}"), |verb| anyhow!("usage: {} {}", verb.name, verb.usage))
}

/// The guest of this name or number.
///
/// # Errors
/// There is none; the nearest name is said.
pub fn guest(system: &Rc<System>, name: &str) -> Result<Rc<Guest>> {
    system.guests.find(name).ok_or_else(|| {
        if name == "0" || name == "Domain-0" {
            return anyhow!("that is dom0 itself; this command is for guests");
        }
        if let Some(gone) = system.guests.find_gone(name) {
            let how = gone.end().map_or("ended", End::name);
            return anyhow!("guest `{name}` has ended ({how}); `xl console {name}` shows what it printed");
        }
        let alive = system.guests.alive();
        let names: Vec<_> = alive.iter().map(|guest| guest.name()).collect();
        match suggest::nearest(name, names.iter().map(|name| &**name)) {
            Some(near) => anyhow!("no guest `{name}`; did you mean `{near}`?"),
            None if names.is_empty() => {
                anyhow!("no guest `{name}`; none is there: create one with `xl create FILE.cfg`")
            }
            None => anyhow!("no guest `{name}`; there are: {}", names.join(", ")),
        }
    })
}

/// The domain of this name or number, dom0 included.
///
/// # Errors
/// There is none; the nearest name is said.
pub fn domain(system: &Rc<System>, name: &str) -> Result<DomId> {
    if name == "Domain-0" || name == "0" { Ok(DomId::DOM0) } else { guest(system, name).map(|g| g.domain.get()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stranger(usage: &str, line: &str) -> Option<String> {
        unknown_option(usage, &options::words(line)).map(Into::into)
    }

    #[test]
    fn options_are_those_of_the_usage() {
        let create = find("create").unwrap().usage;
        assert_eq!(stranger(create, "-c -p - memory=-1"), None);
        assert_eq!(stranger(create, "a.cfg -x"), Some("-x".into()));
        assert_eq!(stranger(find("list").unwrap().usage, "--numa"), Some("--numa".into()));
        let send = find("send").unwrap().usage;
        assert_eq!((stranger(send, "-n hog '-l'"), stranger(send, "-q hog x")), (None, Some("-q".into())));
        assert_eq!(stranger(find("xenstore-write").unwrap().usage, "/a -1"), None);
    }

    #[test]
    fn long_options_are_short_ones() {
        let short = |verb: &str, line: &str| -> Vec<String> {
            options::words(line).into_iter().flat_map(|word| shortened(verb, word)).collect()
        };
        assert_eq!(short("create", "--defconfig=a.cfg --dryrun memory=8"), ["-f", "a.cfg", "-n", "memory=8"]);
        assert_eq!(short("sched-credit", "--domain hog --weight 512"), ["-d", "hog", "-w", "512"]);
        assert_eq!(short("pause", "--long"), ["--long"]);
        for (verb, _, option) in LONG {
            assert!(options_of(find(verb).unwrap().usage).any(|known| known == option), "{verb} {option}");
        }
    }

    #[test]
    fn no_command_is_both_there_and_not() {
        assert!(NOT_HERE.iter().all(|name| find(name).is_none()));
    }
}
