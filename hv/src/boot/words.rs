//! Switches, as the command line has them.

/// What a part of an option says of the switch `name`: itself, `no-` before it, or a value behind it.
pub(super) fn switch(name: &str, part: &str) -> Option<bool> {
    if part.strip_prefix("no-") == Some(name) {
        return Some(false);
    }
    match part.strip_prefix(name)?.strip_prefix('=') {
        None => (part == name).then_some(true),
        Some("yes" | "on" | "true" | "enable" | "1") => Some(true),
        Some("no" | "off" | "false" | "disable" | "0") => Some(false),
        Some(_) => None,
    }
}

/// Whether the value of a switch turns it on, as the word alone does.
pub(super) fn is_on(value: &str) -> bool {
    !matches!(value, "no" | "off" | "false" | "0")
}
