//! Domains saved and restored by Debian's own `xl` in a Linux dom0, on real Xen and on Oxen.

use std::time::Duration;

use anyhow::{Result, ensure};
use oxen_tools::linux::{self, Ramdisk};
use oxen_tools::session::Exit;
use oxen_tools::{debian, linux_dom0, xen};

use crate::lab::{Lab, Report, Verdict};

/// How long a machine may take. It is met only by what hangs.
const LIMIT: Duration = Duration::from_secs(500);

/// What the guest does: it keeps a sum of what it remembers, and counts while time passes.
const WORK: &str = "dd if=/dev/urandom of=/tmp/a bs=64k count=128 2>/dev/null; sum=$(sha256sum </tmp/a)\n\
    echo saving: it remembers\n\
    i=0; while [ $i -lt 60 ]; do i=$((i + 1)); echo \"saving: tick $i at $(cut -d' ' -f1 /proc/uptime)\"; usleep 300000\n\
    cp /tmp/a /tmp/b; mv /tmp/b /tmp/a; done\n\
    [ \"$(sha256sum </tmp/a)\" = \"$sum\" ] && echo saving: it remembers all";

/// What dom0 does.
const SCRIPT: &str = "create saved.cfg; until_said saved 'tick 3 ' 200\n\
    xl save saved /tmp/saved && ls -l /tmp/saved && xl list && xl restore /tmp/saved; xl list\n\
    finish saved 200; xl list";

fn boot(lab: &Lab<'_>, on_xen: bool) -> Result<Result<Report, Verdict>> {
    let config = format!(
        "name = \"saved\"\nkernel = \"guests/kernel\"\nramdisk = \"guests/initrd\"\ncmdline = \"{}\"\n\
         memory = 128\nvcpus = 2\n",
        linux::CMDLINE
    );
    let packages = || {
        let xen = if on_xen { Some(xen::find(lab.workspace, "xen".as_ref())?) } else { None };
        let files = vec![
            ("guests/kernel".to_owned(), std::fs::read(debian::vmlinuz(lab.workspace)?)?),
            ("guests/initrd".to_owned(), Ramdisk::new(lab.workspace, "saved").script(WORK).build()?),
            ("saved.cfg".to_owned(), config.into_bytes()),
        ];
        let folder = lab.folder.join(if on_xen { "xen" } else { "oxen" });
        linux_dom0::machine(lab.workspace, xen.as_deref(), folder, SCRIPT, &files)
    };
    let mut machine = match packages() {
        Ok(machine) => machine,
        Err(error) => return Ok(Err(Verdict::Skipped(format!("no Xen or Linux of Debian's: {error:#}")))),
    };
    machine.append = machine.append.replace("dom0_mem=512M,max:512M", "dom0_mem=768M,max:768M");
    machine.memory = 1536;
    Ok(Ok(lab.boot_within(&machine, LIMIT)?.ended(Exit::PoweredOff)?))
}

fn judge(report: &Report) -> Result<()> {
    ensure!(report.transcript().contains("saving: it remembers all"), "{}", report.transcript());
    Ok(())
}

/// Debian's `xl save` and `xl restore` on Oxen.
pub(super) fn debians_xl_saves_and_restores_a_debian(lab: &Lab<'_>) -> Result<Verdict> {
    match boot(lab, false)? {
        Ok(report) => judge(&report).map(|()| Verdict::Passed),
        Err(skipped) => Ok(skipped),
    }
}

/// The same on real Xen.
pub(super) fn debians_xl_saves_and_restores_a_debian_on_xen(lab: &Lab<'_>) -> Result<Verdict> {
    match boot(lab, true)? {
        Ok(report) => judge(&report).map(|()| Verdict::Passed),
        Err(skipped) => Ok(skipped),
    }
}
