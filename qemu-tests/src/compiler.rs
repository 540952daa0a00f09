//! Programs for Linux guests out of C sources, compiled by this machine's `cc`, and a compiler for the guest itself.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use oxen_tools::linux::Ramdisk;
use oxen_tools::packages;
use oxen_tools::process::{find, output, shown};

use crate::lab::Lab;

/// How programs are compiled: no library is needed in the guest.
const FLAGS: [&str; 6] = ["-D_GNU_SOURCE", "-O1", "-msse2", "-static", "-pthread", "-s"];

/// What Debian calls the libraries of 32-bit programs; the second has the compiler's version in its name.
const LIBRARIES_32: &str = "libc6-dev-i386";

/// A program for 64-bit (`bits` is 64) or 32-bit mode out of all the C files in a folder.
///
/// # Errors
/// Fails without a C compiler, or with the compiler's words.
pub fn program(lab: &Lab<'_>, sources: &Path, bits: u32) -> Result<Vec<u8>> {
    let compiler = find("cc").context("there is no C compiler `cc`")?;
    let target = lab.folder.join(format!("program{bits}"));
    let compile = |libraries: &[String]| {
        let mut command = Command::new(&compiler);
        command.arg(format!("-m{bits}")).args(FLAGS).args(libraries).arg("-o").arg(&target).args(c_files(sources)?);
        let run = command.output().with_context(|| format!("cannot start `{}`", shown(&command)))?;
        succeeded(&command, run)
    };
    // What is not installed may be had as packages.
    compile(&[]).or_else(|error| if bits == 32 { compile(&libraries_32(lab, &compiler)?) } else { Err(error) })?;
    std::fs::read(&target).with_context(|| format!("cannot read {}", target.display()))
}

fn succeeded(command: &Command, run: Output) -> Result<()> {
    ensure!(run.status.success(), "`{}` failed:\n{}", shown(command), String::from_utf8_lossy(&run.stderr));
    Ok(())
}

/// The C files of a folder, in the order of their names.
fn c_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let files = std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut files: Vec<_> = files.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "c"));
    files.sort();
    Ok(files)
}

/// How `cc` finds what it needs for 32-bit programs in unpacked packages.
fn libraries_32(lab: &Lab<'_>, compiler: &Path) -> Result<Vec<String>> {
    let version = output(Command::new(compiler).arg("-dumpversion"), "`cc` is expected to be GCC")?;
    let version = version.split('.').next().unwrap_or_default().trim().to_owned();
    let roots = packages::unpack_all(lab.workspace, &[LIBRARIES_32.to_owned(), format!("lib32gcc-{version}-dev")])?;
    let [libc, gcc] = roots.try_into().ok().context("two packages")?;
    let folders = [libc.join("usr/lib32/"), gcc.join(format!("usr/lib/gcc/x86_64-linux-gnu/{version}/32/"))];
    let mut args = Vec::new();
    for folder in folders {
        args.extend([format!("-B{}/", folder.display()), format!("-L{}", folder.display())]);
    }
    // What differs between the two modes, then what the 64-bit headers have in a folder of their own.
    let headers = "usr/include/x86_64-linux-gnu";
    for folder in [libc.join(headers), Path::new("/").join(headers)] {
        args.extend(["-isystem".to_owned(), folder.display().to_string()]);
    }
    Ok(args)
}

/// Adds Debian's `tcc` to a ramdisk with all it reads when it compiles `arguments`, which may name files in `sources`.
/// Those files lie in `/src` afterwards.
///
/// # Errors
/// Fails where the package cannot be had, or the compiler cannot compile them on this machine.
pub fn with_tcc<'a>(
    lab: &Lab<'_>,
    mut ramdisk: Ramdisk<'a>,
    sources: &Path,
    arguments: &[&str],
) -> Result<Ramdisk<'a>> {
    let root = packages::unpack(lab.workspace, "tcc")?;
    let program = root.join("usr/bin/tcc");
    let mut trial = Command::new(&program);
    trial.current_dir(sources).arg(format!("-B{}", root.join("usr/lib/x86_64-linux-gnu/tcc").display()));
    trial.arg("-vv").args(arguments).arg("-o").arg(lab.folder.join("compiled"));
    let read = output(&mut trial, "does this machine have the headers of its C library?")?;
    let linked = output(Command::new("ldd").arg(&program), "the C library brings it")?;
    let read = read.lines().filter_map(|line| Some(line.trim_start().strip_prefix("->")?.trim_start()));
    let linked = linked.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    let program = program.to_str().context("a folder's name")?;
    // Headers are read for each source.
    let files: BTreeSet<&str> = read.chain(linked).chain([program]).collect();
    for file in files {
        let bytes = std::fs::read(sources.join(file)).with_context(|| format!("cannot read {file}"))?;
        let path = Path::new(file);
        let place = path.strip_prefix(&root).or_else(|_| path.strip_prefix("/")).unwrap_or(path);
        let place = if path.is_absolute() { place.to_owned() } else { Path::new("src").join(path) };
        ramdisk = ramdisk.program(place.to_str().context("a file's name")?, &bytes);
    }
    Ok(ramdisk)
}
