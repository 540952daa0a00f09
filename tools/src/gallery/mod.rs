//! `cargo xtask gallery`: the kernels of distributions, each booted as a guest and in dom0's place, and their logs
//! compared with those on real Xen.

mod boot;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, bail, ensure};

pub use boot::Boots;

use crate::dmesg::{self, Differences};
use crate::process::step;
use crate::setup::{Need, require};
use crate::stock;
use crate::workspace::Workspace;
use crate::{build, xen};

/// What `cargo xtask gallery` takes.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The kernels [default: all]
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Boot each in dom0's place as well
    #[arg(long)]
    as_dom0: bool,
    /// Compare each boot's log with that of the same boot on real Xen: `xen` for Debian's package, or the path of a
    /// binary. What differs is printed
    #[arg(long, value_name = "XEN")]
    dmesg_against: Option<PathBuf>,
    /// Seconds that a boot may take
    #[arg(long, value_name = "SECONDS", default_value_t = 400)]
    timeout: u64,
    /// Boot what stands in target/oxen without building it again
    #[arg(long)]
    no_build: bool,
}

/// Runs the verb.
///
/// # Errors
/// Fails for a name that is not known, where something cannot be built, or a kernel did not do what it should.
pub fn run(workspace: &Workspace, args: &Args) -> Result<()> {
    require(&[Need::Qemu])?;
    let chosen: Vec<&str> = match args.names.as_slice() {
        [] => stock::ALL.iter().map(|stock| stock.name).collect(),
        names => names.iter().map(String::as_str).collect(),
    };
    for name in &chosen {
        ensure!(stock::is_known(name), "no stock kernel `{name}`: there are {}", stock::names());
    }
    if !args.no_build {
        build::all(workspace)?;
    }
    let xen = args.dmesg_against.as_deref().map(|wanted| xen::find(workspace, wanted)).transpose()?;
    let mut rows = Vec::new();
    for name in chosen {
        rows.push(row(workspace, args, xen.as_deref(), name));
    }
    print!("{}", table(&rows));
    let failed: Vec<&str> = rows.iter().filter(|row| row.has_failed()).map(|row| row.name.as_str()).collect();
    if failed.is_empty() { Ok(()) } else { bail!("not as it should be: {}", failed.join(", ")) }
}

/// What was seen of one kernel.
#[derive(Debug)]
struct Row {
    name: String,
    /// Its version, or why it could not be had.
    version: Result<String, String>,
    is_for_dom0: bool,
    guest: Option<Seen>,
    dom0: Option<Seen>,
}

/// Why a kernel is not tried in dom0's place.
const NOT_FOR_DOM0: &str = "built without CONFIG_XEN_DOM0";

/// What was seen of one boot: why it failed, else what its log has otherwise than on real Xen.
type Seen = Result<Option<Differences>, String>;

impl Row {
    fn has_failed(&self) -> bool {
        [&self.guest, &self.dom0].into_iter().flatten().any(Result::is_err)
    }
}

fn row(workspace: &Workspace, args: &Args, xen: Option<&Path>, wanted: &str) -> Row {
    let (name, kernel) = match stock::kernel(workspace, wanted) {
        Ok(found) => found,
        Err(error) => {
            return Row {
                name: wanted.to_owned(),
                version: Err(format!("{error:#}")),
                is_for_dom0: true,
                guest: None,
                dom0: None,
            };
        }
    };
    step(&format!("{name}: Linux {}", kernel.version));
    let folder = workspace.out.join("gallery").join(name);
    let boots = Boots { workspace, name, kernel: &kernel, folder, limit: Duration::from_secs(args.timeout) };
    let see = |what: &str, ours: Result<String>, theirs: &dyn Fn(&Path) -> Result<String>| -> Seen {
        let ours = ours.map_err(|error| said(name, what, &format!("FAILED: {error:#}")))?;
        said(name, what, "works");
        let Some(xen) = xen else { return Ok(None) };
        let theirs = reference(
            || theirs(xen),
            |error| {
                said(name, what, &format!("not on Xen, once more: {error:#}"));
            },
        );
        let theirs = theirs.map_err(|error| said(name, what, &format!("FAILED on Xen: {error:#}")))?;
        let differences = dmesg::compare(&theirs, &ours);
        for line in differences.lines("Xen ", "Oxen") {
            println!("{line}");
        }
        Ok(Some(differences))
    };
    let guest = Some(see("as a guest", boots.as_guest(), &|xen| boots.as_guest_on(xen)));
    let dom0 = (args.as_dom0 && kernel.is_for_dom0)
        .then(|| see("in dom0's place", boots.as_dom0(), &|xen| boots.as_dom0_on(xen)));
    if !kernel.is_for_dom0 {
        said(name, "in dom0's place", NOT_FOR_DOM0);
    }
    Row { name: name.to_owned(), version: Ok(kernel.version.clone()), is_for_dom0: kernel.is_for_dom0, guest, dom0 }
}

/// How often a boot on real Xen is tried. On a host that is busy its guests complain of stalls: that is no reference.
const REFERENCES: u32 = 3;

/// A boot to compare with: the first that went well, else why the last did not.
fn reference(boot: impl Fn() -> Result<String>, failed: impl Fn(&anyhow::Error)) -> Result<String> {
    for _ in 1..REFERENCES {
        match boot() {
            Ok(log) => return Ok(log),
            Err(error) => failed(&error),
        }
    }
    boot()
}

fn said(name: &str, what: &str, how: &str) -> String {
    println!("{name} {what}: {how}");
    how.to_owned()
}

/// The rows as a table in Markdown.
fn table(rows: &[Row]) -> String {
    let mut table =
        "| kernel | version | as a guest, with disk and network | in dom0's place |\n|---|---|---|---|\n".to_owned();
    for row in rows {
        let cell = |seen: &Option<Seen>| match seen {
            None => "not tried".to_owned(),
            Some(Err(why)) => why.replace('|', "/"),
            Some(Ok(None)) => "yes".to_owned(),
            Some(Ok(Some(differences))) => format!("yes; {} lines of its log differ", differences.count()),
        };
        let version = match &row.version {
            Ok(version) => version.clone(),
            Err(why) => format!("skipped: {why}"),
        };
        table.push_str(&format!(
            "| {} | {} | {} | {} |\n",
            row.name,
            version.replace('|', "/"),
            cell(&row.guest),
            if row.is_for_dom0 { cell(&row.dom0) } else { NOT_FOR_DOM0.to_owned() }
        ));
    }
    table
}

#[cfg(test)]
mod tests {
    use super::{Row, reference, table};
    use crate::dmesg;

    #[test]
    fn a_reference_is_tried_again_where_it_did_not_go_well() {
        use std::cell::Cell;
        let (tried, told) = (Cell::new(0), Cell::new(0));
        let boot = |good: u32| {
            tried.set(0);
            told.set(0);
            let once = || {
                tried.set(tried.get() + 1);
                if tried.get() == good { Ok("log".to_owned()) } else { Err(anyhow::anyhow!("it stalled")) }
            };
            let seen = reference(once, |_| told.set(told.get() + 1)).is_ok();
            (seen, tried.get(), told.get())
        };
        assert_eq!([1, 2, 3, 4].map(boot), [(true, 1, 0), (true, 2, 1), (true, 3, 2), (false, 3, 2)]);
    }

    #[test]
    fn the_table_tells_what_was_seen_of_each() {
        let differences = dmesg::compare("one\ntwo", "one\nthree");
        let rows = [
            Row {
                name: "a".into(),
                version: Ok("6.1".into()),
                is_for_dom0: true,
                guest: Some(Ok(Some(differences))),
                dom0: Some(Err("it | died".into())),
            },
            Row { name: "b".into(), version: Err("no route".into()), is_for_dom0: true, guest: None, dom0: None },
            Row { name: "c".into(), version: Ok("6".into()), is_for_dom0: false, guest: Some(Ok(None)), dom0: None },
        ];
        let text = table(&rows);
        assert!(text.contains("| a | 6.1 | yes; 2 lines of its log differ | it / died |\n"), "{text}");
        assert!(text.contains("| b | skipped: no route | not tried | not tried |\n"), "{text}");
        assert!(text.ends_with("| c | 6 | yes | built without CONFIG_XEN_DOM0 |\n"), "{text}");
        assert!(rows[0].has_failed() && !rows[1].has_failed());
    }
}
