//! Two boots of one kernel, compared by what it said: lines without what no two boots share.

use std::collections::BTreeMap;

/// What a unit of time, or of how fast something goes, is called behind a number. Sizes are compared.
const UNITS: [&str; 13] =
    ["MHz", "kHz", "GHz", "ns", "us", "usec", "usecs", "ms", "msecs", "s", "sec", "secs", "BogoMIPS"];

/// A line in which two sizes follow from where the hypervisor laid the kernel's first tables: what is free, and what is
/// taken. How much memory there is, and what of it is the kernel's, is compared.
const FREE_MEMORY: &str = "Memory: ";

/// Words whose number, behind `=` or `: `, is a measure of this very boot.
const MEASURES: [&str; 4] = ["lpj", "BogoMIPS", "max_cycles", "max_idle_ns"];

/// Lines that stand for moments and not for what a kernel found, by a part of them: how busy the machine was, the time
/// of the day, what the check itself does.
const PASSING: [&str; 14] = [
    "crng init done",
    "callbacks suppressed",
    "messages suppressed",
    "interrupt took",
    "Long readout interval",
    "hogged CPU",
    "Waiting for devices to initialise",
    "usecs",
    "Fast TSC calibration",
    // Said where the fast calibration has succeeded and comes out a little otherwise than the hypervisor's.
    "MHz TSC",
    "setting system clock to",
    "RTC time",
    "Magic number",
    "drop_caches",
];

/// What differs between two boots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Differences {
    /// Lines that only the first said.
    pub only_first: Vec<String>,
    /// Lines that only the second said.
    pub only_second: Vec<String>,
    /// Lines that both said with other numbers.
    pub numbers: Vec<(String, String)>,
}

impl Differences {
    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.only_first.len() + self.only_second.len() + self.numbers.len()
    }

    /// One line each, with the names of both boots.
    #[must_use]
    pub fn lines(&self, first: &str, second: &str) -> Vec<String> {
        let both = |(a, b): &(String, String)| format!("{first}: {a}\n{second}: {b}");
        let only =
            |who: &str, lines: &[String]| lines.iter().map(|line| format!("{who} only: {line}")).collect::<Vec<_>>();
        let mut lines: Vec<String> = self.numbers.iter().map(both).collect();
        lines.extend(only(first, &self.only_first));
        lines.extend(only(second, &self.only_second));
        lines
    }
}

/// Compares what two boots said. The order of lines is the boots' own: devices are found side by side.
#[must_use]
pub fn compare(first: &str, second: &str) -> Differences {
    let (mut rest, mut only_second) = (Counted::of(first), Vec::new());
    for line in said(second) {
        if !rest.take(&line) {
            only_second.push(line);
        }
    }
    let mut only_first = rest.left(first);
    let mut numbers = Vec::new();
    only_second.retain(|line| {
        let Some(at) = only_first.iter().position(|other| shape(other) == shape(line)) else { return true };
        numbers.push((only_first.remove(at), line.clone()));
        false
    });
    Differences { only_first, only_second, numbers }
}

/// Lines, each with how often it is to be found.
struct Counted(BTreeMap<String, usize>);

impl Counted {
    fn of(text: &str) -> Self {
        let mut lines = BTreeMap::new();
        said(text).for_each(|line| *lines.entry(line).or_insert(0) += 1);
        Self(lines)
    }

    fn take(&mut self, line: &str) -> bool {
        let Some(count @ 1..) = self.0.get_mut(line) else { return false };
        *count -= 1;
        true
    }

    /// Those that nobody took, in the order of the text.
    fn left(mut self, text: &str) -> Vec<String> {
        said(text).filter(|line| self.take(line)).collect()
    }
}

/// The lines of a text, made comparable, without the passing ones.
fn said(text: &str) -> impl Iterator<Item = String> {
    let lines = text.lines().map(normal).filter(|line| !line.is_empty());
    lines.filter(|line| PASSING.iter().all(|passing| !line.contains(passing)))
}

/// A line without its time; `#` stands for addresses, times, what is measured, and what memory is left.
#[must_use]
pub fn normal(line: &str) -> String {
    let line = without_time(line);
    let mut normal = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(first) = rest.chars().next() {
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
        let (word, behind) = rest.split_at(end.max(first.len_utf8()));
        rest = match measured(rest).filter(|_| !word.starts_with("0x")) {
            Some((_, unit, behind))
                if !unit.is_empty() || follows_measure(&normal) || is_left_memory(line, &normal, behind) =>
            {
                normal.push('#');
                normal.push_str(unit);
                behind
            }
            _ => {
                normal.push_str(if is_address(word) { "#" } else { word });
                behind
            }
        };
    }
    normal.trim().to_owned()
}

/// The line behind `[    1.234567]` and who said it: `[    T1]`.
fn without_time(line: &str) -> &str {
    let mut rest = line.trim();
    while let Some((inside, behind)) = rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        let inside = inside.trim().trim_start_matches(['T', 'C']);
        if inside.is_empty() || !inside.chars().all(|c| c.is_ascii_digit() || c == '.') {
            break;
        }
        rest = behind.trim_start();
    }
    rest
}

/// Whether the next number is what [`FREE_MEMORY`] says is free, or taken.
fn is_left_memory(line: &str, normal: &str, behind: &str) -> bool {
    line.starts_with(FREE_MEMORY) && (normal == FREE_MEMORY || behind.starts_with("K reserved"))
}

/// Whether a word is an address or a checksum: `0x` and more than four digits, or eight hexadecimal digits and more.
/// Shorter ones are features, models, ports and identifiers.
fn is_address(word: &str) -> bool {
    let is_hex = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    match word.strip_prefix("0x") {
        Some(digits) => digits.len() > 4 && is_hex(digits),
        None => word.len() >= 8 && is_hex(word) && word.bytes().any(|byte| byte.is_ascii_digit()),
    }
}

/// A number that the text begins with, the unit behind it with the space between, and the rest behind both.
fn measured(text: &str) -> Option<(&str, &str, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number = text.get(..end)?.trim_end_matches('.');
    if number.is_empty() || !number.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let behind = text.get(number.len()..)?;
    let unit = behind.strip_prefix(' ').unwrap_or(behind);
    let length = unit.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(unit.len());
    let is_unit = UNITS.contains(&unit.get(..length)?);
    let taken = if is_unit { behind.len() - unit.len() + length } else { 0 };
    Some((number, behind.get(..taken)?, behind.get(taken..)?))
}

/// Whether the next number is one of [`MEASURES`], or in `audit(…)`.
fn follows_measure(normal: &str) -> bool {
    let name = normal.trim_end_matches([' ', '=', ':', '(']);
    name.len() < normal.len() && (MEASURES.iter().any(|measure| name.ends_with(measure)) || normal.ends_with("audit("))
        || normal.ends_with("audit(#:")
}

/// What a line has beside its numbers.
fn shape(line: &str) -> String {
    let mut shape = String::new();
    for c in line.chars() {
        match c {
            '0'..='9' | '#' if shape.ends_with('#') => {}
            '0'..='9' | '#' => shape.push('#'),
            c => shape.push(c),
        }
    }
    shape
}

#[cfg(test)]
mod tests {
    use super::{Differences, compare, normal};

    #[test]
    fn times_addresses_sizes_and_measures_are_nothing_of_the_kernels() {
        for (line, want) in [
            ("[    0.000000] tsc: Detected 2596.122 MHz processor", "tsc: Detected # MHz processor"),
            ("[    0.1] [    T1] Xen: using vcpuop timer interface", "Xen: using vcpuop timer interface"),
            ("[    1.0] Console: [mem 0x0000000000100000-0x000000000fffffff] usable", "Console: [mem #-#] usable"),
            (
                "Memory: 217116K/261752K available (14342K kernel code, 44636K reserved)",
                "Memory: #K/261752K available (14342K kernel code, #K reserved)",
            ),
            (
                "x86/fpu: Enabled xstate features 0x7, context size is 832 bytes, using 'compacted' format.",
                "x86/fpu: Enabled xstate features 0x7, context size is 832 bytes, using 'compacted' format.",
            ),
            ("family: 0x6, model: 0x6, stepping: 0x3", "family: 0x6, model: 0x6, stepping: 0x3"),
            ("xen:events: Using 2-level ABI", "xen:events: Using 2-level ABI"),
            ("pci 0000:00:02.0: [1af4:1000] type 00", "pci 0000:00:02.0: [1af4:1000] type 00"),
            ("audit: type=2000 audit(1764438123.123:1): state", "audit: type=2000 audit(#:#): state"),
            ("Calibrating delay loop.. 5192.24 BogoMIPS (lpj=10384488)", "Calibrating delay loop.. # BogoMIPS (lpj=#)"),
            ("cpu 0 spinlock event irq 17", "cpu 0 spinlock event irq 17"),
            (
                "p2m virtual area at (____ptrval____), size is 40000000",
                "p2m virtual area at (____ptrval____), size is #",
            ),
            ("tsc: max_cycles: 0x256d538fc62, max_idle_ns: 440795283610 ns", "tsc: max_cycles: #, max_idle_ns: # ns"),
            ("Run /init as init process", "Run /init as init process"),
            ("", ""),
        ] {
            assert_eq!(normal(line), want, "{line}");
        }
    }

    #[test]
    fn what_differs_is_a_line_more_or_another_number() {
        let first = "[ 0.1] both 1\n[ 0.2] irq 5\n[ 0.3] gone\n[ 0.4] twice\n[ 0.5] twice\nrandom: crng init done\n";
        let second = "[ 1.2] irq 17\n[ 1.1] both 1\n[ 1.3] twice\n[ 1.4] come\n";
        let want = Differences {
            only_first: vec!["gone".into(), "twice".into()],
            only_second: vec!["come".into()],
            numbers: vec![("irq 5".into(), "irq 17".into())],
        };
        let found = compare(first, second);
        assert_eq!(found, want);
        assert_eq!(found.count(), 4);
        assert_eq!(found.lines("a", "b").first().map(String::as_str), Some("a: irq 5\nb: irq 17"));
        assert_eq!(compare(second, second).count(), 0);
    }

    #[test]
    fn any_text_can_be_compared() {
        for text in ["[", "[]", "[é] 5 é", "0x", "12.", ".5.5.K", "#5K#", "audit("] {
            assert_eq!(compare(text, text).count(), 0, "{text}");
        }
    }
}
