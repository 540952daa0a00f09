//! The hypervisor's command line, in Xen's names.
//!
//! | word | meaning |
//! |---|---|
//! | `dom0_mem=SIZE` | dom0's memory; `max:SIZE` its ceiling, `min:` accepted. Sizes end in K (also without), M, G |
//! | `dom0_max_vcpus=N` | dom0's vcpus |
//! | `maxcpus=N` | physical CPUs that are used at most |
//! | `com1=BAUD,…` | the first serial port's speed |
//! | `console=com1` | where the hypervisor speaks; `none`: nowhere |
//! | `gnttab=max-ver:N` | the greatest version of grant tables, 1 or 2; `no-transitive`: no offer is passed on |
//! | `gnttab_max_frames=N` | frames of a grant table at most, dom0's among them: 1 to 64; 64 without it |
//! | `gnttab_max_maptrack_frames=N` | the same of the mappings of others' grants, each frame's worth 256: 0 to 1024 |
//! | `noreboot` | stop after a crash, for reading |
//! | `guest_console` | whether guests may write lines to the hypervisor's console, early in their boot say |
//! | `pv-linear-pt` | whether guests may have linear page tables; they may unless it says no |
//! | `spec-ctrl=LIST` | defences against speculative execution: [`super::speculation`] |
//! | `xpti=LIST` | whose address spaces hold nothing of the hypervisor but its ways in: as below, or `default` |
//! | `pv-l1tf=LIST` | whose entries that are not present are judged: `dom0`, `domu`, or a switch for both |
//! | `tbuf_size=N` | pages of each CPU's trace buffer; tracing begins at boot |
//! | `tevt_mask=N` | which events are traced (`trace.h`) |
//! | `watchdog` | a CPU that does not leave the hypervisor ends the machine; off without it. `force` is on |
//! | `watchdog_timeout=N` | after so many seconds, 5 without it; turns the watchdog on, 0 off |
//! | `loglvl=`, `guest_loglvl=` | `none`, `error`, `warning`, `info`, `debug`, `all`; `a/b`: always, not too often |

use super::speculation;
use super::words::{is_on, switch};
use crate::config::{MAX_GRANT_FRAMES, MAX_MAPTRACK_FRAMES};
use crate::{grant, speculation::Choices};
use oxen_abi::trace::TRC_ALL;

/// Seconds of the watchdog at most: a day.
const MAX_WATCHDOG_TIMEOUT: usize = 86_400;

/// What the command line asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options<'a> {
    /// Dom0's memory in bytes; `None`: all that is free, less what guests need.
    pub dom0_memory: Option<u64>,
    /// What dom0 may grow to, in bytes.
    pub dom0_max_memory: Option<u64>,
    /// Dom0's vcpus.
    pub dom0_vcpus: Option<u32>,
    /// Physical CPUs that are used at most; `None`: all that this build can.
    pub max_cpus: Option<usize>,
    /// The serial line's speed in baud; `None` leaves it as the firmware set it.
    pub baud: Option<u32>,
    /// Whether the serial line is the console.
    pub console: bool,
    /// Whether to stop, rather than start again, after a crash.
    pub no_reboot: bool,
    /// How much of the hypervisor's own words are shown, for `console::Threshold`.
    pub log_level: Option<&'a str>,
    /// How much of what guests make it say.
    pub guest_log_level: Option<&'a str>,
    /// Whether guests may write to the hypervisor's console.
    pub guest_console: bool,
    /// What grant tables may be.
    pub grants: grant::Policy,
    /// Whether guests may have linear page tables.
    pub linear_tables: bool,
    /// What is done about speculative execution.
    pub speculation: Choices,
    /// Whether the watchdog runs.
    pub watchdog: bool,
    /// After how many seconds it ends the machine.
    pub watchdog_timeout: u32,
    /// Pages of each CPU's trace buffer; 0: none is made, and nothing is traced from the start.
    pub trace_pages: usize,
    /// Which events are traced from the start (`TRC_*`).
    pub trace_mask: u32,
}

impl Default for Options<'_> {
    fn default() -> Self {
        Self {
            dom0_memory: None,
            dom0_max_memory: None,
            dom0_vcpus: None,
            max_cpus: None,
            baud: None,
            console: true,
            no_reboot: false,
            log_level: None,
            guest_log_level: None,
            guest_console: false,
            grants: grant::Policy::default(),
            linear_tables: true,
            speculation: Choices::default(),
            watchdog: false,
            watchdog_timeout: 5,
            trace_pages: 0,
            trace_mask: TRC_ALL,
        }
    }
}

/// Reads a command line. Hands every word that it does not know, or whose value it does not understand, to `complain`.
pub fn parse<'a>(line: &'a str, mut complain: impl FnMut(&'a str)) -> Options<'a> {
    let mut options = Options::default();
    for word in line.split_ascii_whitespace() {
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        if set(&mut options, name, value).is_none() {
            complain(word);
        }
    }
    options
}

fn set<'a>(options: &mut Options<'a>, name: &str, value: &'a str) -> Option<()> {
    match name {
        "dom0_mem" => {
            for part in value.split(',') {
                match part.split_once(':') {
                    None => options.dom0_memory = Some(size(part)?),
                    Some(("max", part)) => options.dom0_max_memory = Some(size(part)?),
                    Some(("min", part)) => size(part).map(drop)?,
                    Some(_) => return None,
                }
            }
        }
        "dom0_max_vcpus" => options.dom0_vcpus = Some(value.parse().ok().filter(|&n| n > 0)?),
        "maxcpus" => options.max_cpus = Some(value.parse().ok().filter(|&n| n > 0)?),
        "com1" => {
            let speed = value.split(',').next()?;
            options.baud = if speed == "auto" { None } else { Some(speed.parse().ok().filter(|&b| b > 0)?) };
        }
        "console" => options.console = value.split(',').any(|name| name == "com1"),
        "noreboot" => options.no_reboot = is_on(value),
        "guest_console" => options.guest_console = is_on(value),
        "gnttab" => {
            for part in value.split(',') {
                match part.split_once(':') {
                    Some(("max-ver" | "max_ver", version)) => {
                        let known = 1..=grant::MAX_VERSION;
                        options.grants.max_version = version.parse().ok().filter(|n| known.contains(n))?;
                    }
                    _ => options.grants.is_transitive = switch("transitive", part)?,
                }
            }
        }
        "gnttab_max_frames" => options.grants.max_frames = within(value, 1..=MAX_GRANT_FRAMES)?,
        "gnttab_max_maptrack_frames" => {
            options.grants.max_maptrack_frames = within(value, 0..=MAX_MAPTRACK_FRAMES)?;
        }
        "pv-linear-pt" => options.linear_tables = is_on(value),
        "no-pv-linear-pt" if value.is_empty() => options.linear_tables = false,
        "spec-ctrl" => speculation::set_controls(&mut options.speculation, value)?,
        "xpti" => speculation::set_both(&mut options.speculation.apart, value)?,
        "no-xpti" if value.is_empty() => options.speculation.apart = [Some(false); 2],
        "pv-l1tf" => speculation::set_both(&mut options.speculation.l1tf, value)?,
        "watchdog" => options.watchdog = is_on(value),
        "no-watchdog" if value.is_empty() => options.watchdog = false,
        "watchdog_timeout" => {
            options.watchdog_timeout = within(value, 0..=MAX_WATCHDOG_TIMEOUT)?;
            options.watchdog = options.watchdog_timeout != 0;
        }
        "tbuf_size" => options.trace_pages = value.parse().ok()?,
        "tevt_mask" => options.trace_mask = within(value, 0..=TRC_ALL as usize)?,
        "loglvl" => options.log_level = Some(value),
        "guest_loglvl" => options.guest_log_level = Some(value),
        _ => return None,
    }
    Some(())
}

/// A number of the range, decimal or behind `0x` hexadecimal, as Xen reads these.
fn within(text: &str, range: core::ops::RangeInclusive<usize>) -> Option<u32> {
    let number = match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16),
        None => text.parse(),
    };
    number.ok().filter(|&number| range.contains(&(number as usize)))
}

/// A size in bytes; without a suffix the number counts KiB, as in Xen.
fn size(text: &str) -> Option<u64> {
    let (digits, shift) = match text.as_bytes().last()? {
        b'b' | b'B' => (text.get(..text.len() - 1)?, 0),
        b'k' | b'K' => (text.get(..text.len() - 1)?, 10),
        b'm' | b'M' => (text.get(..text.len() - 1)?, 20),
        b'g' | b'G' => (text.get(..text.len() - 1)?, 30),
        _ => (text, 10),
    };
    let number: u64 = digits.parse().ok()?;
    number.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xens_words_are_understood() {
        let options = parse(
            "dom0_mem=512M,max:1G dom0_max_vcpus=2 com1=115200,8n1 console=com1,vga \
             loglvl=all guest_loglvl=none/all noreboot guest_console=on",
            |word| panic!("{word}"),
        );
        assert_eq!(options.dom0_memory, Some(512 << 20));
        assert_eq!(options.dom0_max_memory, Some(1 << 30));
        assert_eq!(options.dom0_vcpus, Some(2));
        assert_eq!(options.baud, Some(115_200));
        assert_eq!((options.log_level, options.guest_log_level), (Some("all"), Some("none/all")));
        assert!(options.console && options.no_reboot && options.guest_console);
        assert_eq!(parse("dom0_mem=65536", |_| {}).dom0_memory, Some(64 << 20));
        assert!(options.linear_tables);
        assert!(!parse("pv-linear-pt=no", |word| panic!("{word}")).linear_tables);
        assert!(!parse("no-pv-linear-pt", |word| panic!("{word}")).linear_tables);
    }

    #[test]
    fn the_watchdog_is_off_until_a_word_or_a_time_turns_it_on() {
        let watchdog = |line| {
            let options = parse(line, |word| panic!("{word}"));
            (options.watchdog, options.watchdog_timeout)
        };
        assert_eq!(watchdog(""), (false, 5));
        for on in ["watchdog", "watchdog=1", "watchdog=force", "no-watchdog watchdog=yes"] {
            assert_eq!(watchdog(on), (true, 5), "{on}");
        }
        for off in ["watchdog=0", "watchdog=off", "watchdog no-watchdog"] {
            assert_eq!(watchdog(off), (false, 5), "{off}");
        }
        assert_eq!(watchdog("watchdog_timeout=2"), (true, 2));
        assert_eq!(watchdog("watchdog watchdog_timeout=0"), (false, 0));
        let mut bad = 0;
        parse("watchdog_timeout=soon watchdog_timeout=-1 watchdog_timeout=99999999", |_| bad += 1);
        assert_eq!(bad, 3);
    }

    #[test]
    fn grant_tables_are_limited_as_xen_s_words_say() {
        fn grants(line: &str) -> (u32, bool, u32) {
            let mut bad = 0;
            let grants = parse(line, |_| bad += 1).grants;
            (grants.max_version, grants.is_transitive, bad)
        }
        assert_eq!(grants(""), (2, true, 0));
        assert_eq!(grants("gnttab=max-ver:1"), (1, true, 0));
        assert_eq!(grants("gnttab=max_ver:1,no-transitive"), (1, false, 0));
        assert_eq!(grants("gnttab=transitive=off gnttab=max-ver:2"), (2, false, 0));
        assert_eq!(grants("gnttab=no-transitive gnttab=transitive"), (2, true, 0));
        for bad in ["max-ver:3", "max-ver:0", "max-ver:", "transitively", "transitive=maybe", "", "min-ver:1"] {
            assert_eq!(grants(&std::format!("gnttab={bad}")), (2, true, 1), "{bad}");
        }
    }

    #[test]
    fn the_frames_of_grant_tables_are_limited_within_what_this_build_can() {
        fn frames(line: &str) -> (u32, u32, u32) {
            let mut bad = 0;
            let grants = parse(line, |_| bad += 1).grants;
            (grants.max_frames, grants.max_maptrack_frames, bad)
        }
        assert_eq!(frames(""), (64, 1024, 0));
        assert_eq!(frames("gnttab_max_frames=4 gnttab_max_maptrack_frames=0"), (4, 0, 0));
        assert_eq!(frames("gnttab_max_maptrack_frames=0x200 gnttab_max_frames=64"), (64, 512, 0));
        for bad in ["frames=0", "frames=65", "frames=", "frames=-1", "frames=0xg", "maptrack_frames=1025"] {
            assert_eq!(frames(&std::format!("gnttab_max_{bad}")), (64, 1024, 1), "{bad}");
        }
    }

    #[test]
    fn what_is_not_understood_is_said() {
        let mut said = std::vec::Vec::new();
        parse("dom0_mem=lots iommu=0 dom0_mem=99999999999999G dom0_max_vcpus=0", |word| said.push(word));
        assert_eq!(said, ["dom0_mem=lots", "iommu=0", "dom0_mem=99999999999999G", "dom0_max_vcpus=0"]);
    }
}
