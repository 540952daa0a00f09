//! `cargo xtask gdb`: a machine that waits for a debugger, and the debugger's script.

use std::fmt::Write as _;

use anyhow::Result;

use crate::qemu::Machine;
use crate::run::dom0_args;
use crate::session::{self, Exit};
use crate::setup::{Need, require};
use crate::workspace::Workspace;
use crate::{build, process};

/// What `cargo xtask gdb` takes.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Commands for dom0, parted by semicolons
    #[arg(long, value_name = "COMMANDS")]
    script: Option<String>,
}

/// Builds, writes the script, and boots a machine that stands still until the debugger lets it go.
///
/// # Errors
/// Fails when something cannot be built or started.
pub fn run(workspace: &Workspace, args: &Args) -> Result<()> {
    require(&[Need::Qemu, Need::Debugger])?;
    build::all(workspace)?;
    let script = workspace.out.join("gdbinit");
    build::write(&script, commands(workspace)?.as_bytes())?;
    let mut machine = Machine::oxen(workspace, &dom0_args(args.script.as_deref())?);
    machine.debugger = true;
    process::step("boot, and wait for the debugger on port 1234 (Ctrl-T x leaves QEMU)");
    eprintln!("In another terminal:\n\n    gdb -x {}\n", script.display());
    match session::interact(&machine)? {
        Exit::Qemu(status) => anyhow::bail!("QEMU ended with {status:?}"),
        _ => Ok(()),
    }
}

/// The debugger's script: symbols of the hypervisor, and a command for those of each guest.
fn commands(workspace: &Workspace) -> Result<String> {
    let debug = workspace.out.join("debug");
    let mut text = String::from("set architecture i386:x86-64\nset confirm off\nset pagination off\n");
    // Writing to a string cannot fail.
    let _ = writeln!(text, "symbol-file \"{}\"", debug.join("hv").display());
    let guests = workspace.guests()?.into_iter().map(|name| (format!("guest-{name}"), format!("guests/{name}")));
    for (command, file) in guests.chain([("dom0".to_owned(), "dom0".to_owned())]) {
        let file = debug.join(file);
        let _ = writeln!(
            text,
            "define {command}\n  add-symbol-file \"{}\"\nend\ndocument {command}\n\
             Add the symbols of this guest's kernel. Use hardware breakpoints (hbreak).\nend",
            file.display()
        );
    }
    text.push_str(
        "define frame-of-trap\n  x/20gx $rsp\nend\n\
         document frame-of-trap\nThe top of the stack: an exception's frame where its handler begins.\nend\n\
         target remote localhost:1234\n",
    );
    Ok(text)
}
