//! Commands about guests' consoles: shown, typed at, waited for.

use alloc::{rc::Rc, string::String, vec::Vec};

use anyhow::{Context, anyhow, ensure};
use oxen_domu_lib::{control, println, task, time};

use super::dirty::paused;
use super::{Call, Outcome, guest, usage};
use crate::errno::Named;
use crate::guest_text;
use crate::toolstack::guest::Guest;
use crate::toolstack::stage::End;
use crate::toolstack::system::System;

/// What leaves a console: Ctrl-].
const DETACH: u8 = 0x1d;
/// How long a console may be silent before a script goes on, in nanoseconds.
const SILENCE: u64 = 10 * time::SECOND;
/// How long `expect` waits by default, in seconds.
const PATIENCE: u64 = 120;

/// `expect`: shows what the guest prints, from where the last `expect` ended, until it has printed a text.
pub(super) async fn expect(mut call: Call) -> Outcome {
    let seconds = match call.args.len() {
        3 => call.args.pop().and_then(|text| text.parse().ok()).ok_or_else(|| usage("expect"))?,
        _ => PATIENCE,
    };
    let (system, [name, text]) = call.exactly("expect")?;
    let guest = guest(&system, &name)?;
    let mut lines = Lines { name, partial: Vec::new() };
    let live = guest.console.listen();
    let deadline = time::now().saturating_add(seconds.saturating_mul(time::SECOND));
    let found = loop {
        let fresh = guest.console.unread();
        let end = find(&fresh, text.as_bytes());
        // The beginning of the text may be there already.
        let passed = end.unwrap_or_else(|| fresh.len().saturating_sub(text.len()));
        lines.show(fresh.get(..passed).unwrap_or_default());
        guest.console.mark_read(passed);
        if end.is_some() {
            break Ok(());
        }
        let rest = fresh.len() - passed;
        let left = deadline.saturating_sub(time::now());
        match task::select(live.receive(), task::select(guest.wait(), time::sleep(left))).await {
            task::Either::First(Some(_)) => {}
            // What it printed last is looked at before its end counts.
            _ if guest.console.unread().len() != rest => {}
            task::Either::Second(task::Either::Second(())) => {
                show_where_it_stands(&guest);
                break Err(anyhow!("guest `{}` has not printed `{text}` within {seconds} s", guest.name()));
            }
            task::Either::First(None) | task::Either::Second(task::Either::First(_)) => {
                break Err(anyhow!("guest `{}` has ended without printing `{text}`", guest.name()));
            }
        }
    };
    lines.finish();
    found
}

/// Has the hypervisor print what each vcpu does, waits for and has not been told yet.
fn show_where_it_stands(guest: &Guest) {
    let shown = paused(guest.domain.get(), || control::debug_keys(b"qa").map_err(Named).context("no key is taken"));
    if let Err(error) = shown {
        println!("where guest `{}` stands is not known: {error:#}", guest.name());
    }
}

/// `send`: types a line at a guest's console.
pub(super) async fn send(mut call: Call) -> Outcome {
    let bare = call.flag("-n");
    let (system, [name, text]) = call.exactly("send")?;
    let guest = guest(&system, &name)?;
    guest.console.feed(text.as_bytes());
    if !bare {
        guest.console.feed(b"\r");
    }
    Ok(())
}

/// Behind the first place of `text` in `bytes`.
fn find(bytes: &[u8], text: &[u8]) -> Option<usize> {
    let at = bytes.windows(text.len().max(1)).position(|window| window == text)?;
    Some(at + text.len())
}

/// `wait`: shows the guest's console with its name before each line until it has ended.
pub(super) async fn wait(call: Call) -> Outcome {
    let (system, [name]) = call.exactly("wait")?;
    let guest = system.guests.find(&name).or_else(|| system.guests.find_gone(&name));
    let Some(guest) = guest else { return guest_or_error(&system, &name) };
    let mut lines = Lines { name, partial: Vec::new() };
    let live = guest.console.listen();
    lines.show(&guest.console.history());
    let end = loop {
        match task::select(live.receive(), guest.wait()).await {
            task::Either::First(Some(bytes)) => lines.show(&bytes),
            task::Either::First(None) => break guest.wait().await,
            task::Either::Second(end) => {
                while let Some(bytes) = live.try_receive() {
                    lines.show(&bytes);
                }
                break end;
            }
        }
    };
    lines.finish();
    ensure!(end.is_clean(), "guest `{}` has ended badly: {}", guest.name(), end.name());
    Ok(())
}

fn guest_or_error(system: &Rc<System>, name: &str) -> Outcome {
    guest(system, name).map(|_| ())
}

/// A guest's output line by line, with its name.
struct Lines {
    name: String,
    partial: Vec<u8>,
}

/// Bytes of a line that is shown in one piece.
const MAX_LINE: usize = 4096;

impl Lines {
    fn show(&mut self, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|&byte| byte == b'\n').flat_map(|line| line.chunks(MAX_LINE)) {
            self.partial.extend_from_slice(piece);
            if piece.ends_with(b"\n") || self.partial.len() >= MAX_LINE {
                let line = without_colours(&core::mem::take(&mut self.partial));
                println!("({}) {}", self.name, guest_text::line(&line));
            }
        }
    }

    fn finish(&mut self) {
        if !self.partial.is_empty() {
            self.show(b"\n");
        }
    }
}

/// A line without the sequences that give a terminal's text its looks or move on it (ESC `[` up to a letter), of which
/// ordinary guests' lines are full.
fn without_colours(line: &[u8]) -> Vec<u8> {
    let (mut plain, mut rest) = (Vec::with_capacity(line.len()), line);
    while let Some((&byte, behind)) = rest.split_first() {
        let sequence = rest.strip_prefix(b"\x1b[").and_then(|parameters| {
            let end = parameters.iter().position(|byte| !matches!(byte, 0x20..=0x3f))?;
            parameters.get(end + 1..).filter(|_| matches!(parameters.get(end), Some(0x40..=0x7e)))
        });
        if sequence.is_none() {
            plain.push(byte);
        }
        rest = sequence.unwrap_or(behind);
    }
    plain
}

/// `console`.
pub(super) async fn console(call: Call) -> Outcome {
    let interactive = call.interactive;
    let (system, [name]) = call.exactly("console")?;
    if let Some(gone) = system.guests.find(&name).is_none().then(|| system.guests.find_gone(&name)).flatten() {
        system.terminal.show_guest(&gone.console.history());
        println!("[guest `{name}` has ended: {}]", gone.end().map_or("?", End::name));
        return Ok(());
    }
    let guest = guest(&system, &name)?;
    show(&system, &guest, interactive).await
}

/// Shows a guest's console from its beginning, and types at it, until somebody leaves or the guest ends.
pub(super) async fn show(system: &Rc<System>, guest: &Rc<Guest>, interactive: bool) -> Outcome {
    let name = guest.name();
    if interactive {
        println!("[console of `{name}`; Ctrl-] leaves]");
    }
    let live = guest.console.listen();
    system.terminal.show_guest(&guest.console.history());
    loop {
        let typed = async {
            if interactive {
                return Some(system.terminal.byte().await);
            }
            time::sleep(SILENCE).await;
            None
        };
        match task::select(live.receive(), task::select(guest.wait(), typed)).await {
            task::Either::First(Some(bytes)) => system.terminal.show_guest(&bytes),
            task::Either::First(None) | task::Either::Second(task::Either::First(_)) => {
                let how = guest.end().map_or("?", End::name);
                println!("[guest `{name}` has ended: {how}]");
                return Ok(());
            }
            task::Either::Second(task::Either::Second(Some(DETACH))) => {
                println!();
                return Ok(());
            }
            task::Either::Second(task::Either::Second(Some(byte))) => guest.console.feed(&[byte]),
            task::Either::Second(task::Either::Second(None)) => {
                println!("[guest `{name}` is silent; the script goes on]");
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_found_behind_its_end() {
        assert_eq!(find(b"login: root\r\n# ", b"# "), Some(15));
        assert_eq!((find(b"login", b"# "), find(b"", b"x"), find(b"x", b"")), (None, None, None));
    }

    #[test]
    fn a_line_without_an_end_is_shown_in_pieces() {
        let mut lines = Lines { name: String::from("g"), partial: Vec::new() };
        lines.show(&[b'x'; 3 * MAX_LINE - 1]);
        assert_eq!(lines.partial.len(), MAX_LINE - 1);
        lines.show(b"y\n");
        assert_eq!(lines.partial, *b"");
    }

    #[test]
    fn what_gives_text_its_looks_is_left_out_and_all_else_stays() {
        assert_eq!(without_colours(b"\x1b[6na\x1b[1;32mb\x1b[0m"), b"ab");
        assert_eq!(without_colours(b"plain"), b"plain");
        assert_eq!(without_colours(b"\x1b]0;title\x07\x1b[1;\x1b"), b"\x1b]0;title\x07\x1b[1;\x1b");
    }
}
