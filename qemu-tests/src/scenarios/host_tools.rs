//! Debian's tools for a host in a Linux dom0: what they say of processors, pools and affinities is the same on real Xen
//! and on Oxen, as far as it does not depend on the scheduler's mood.

use std::time::Duration;

use anyhow::{Result, ensure};
use oxen_tools::session::Exit;
use oxen_tools::{linux_dom0, xen};

use crate::lab::{Lab, Verdict};

/// How long a machine may take. It is met only by what hangs.
const LIMIT: Duration = Duration::from_secs(500);

/// What is asked. Of a list of vcpus only their numbers and where they may run are the same everywhere.
const SCRIPT: &str = "say() { echo \"host: > $*\"; \"$@\" 2>&1 | sed 's/^/host: /'; }\n\
    vcpus() { xl vcpu-list \"$1\" | awk 'NR > 1 { print \"host: \" $1, $3, $(NF - 2), $(NF - 1), $NF }'; }\n\
    create -p hello.cfg vcpus=2\n\
    say xl vcpu-pin hello 0 1; say xl vcpu-pin hello 1 0-1 0; say xl vcpu-pin hello 1 9; vcpus hello\n\
    say xl vcpu-pin -f hello 0 0; say xl vcpu-pin hello all all all; vcpus hello\n\
    say xl vcpu-pin Domain-0 all 0; vcpus Domain-0; say xl vcpu-pin Domain-0 all all; vcpus Domain-0\n\
    say xl cpupool-list; say xl cpupool-list -c\n\
    say xl cpupool-cpu-remove Pool-0 1; say xl cpupool-create 'name=\"second\"' 'sched=\"credit\"' 'cpus=[\"1\"]'\n\
    say xl cpupool-list; say xl cpupool-list -c; say xl cpupool-migrate hello second; say xl cpupool-list\n\
    say xl cpupool-cpu-remove second 1; say xl cpupool-destroy second; say xl cpupool-migrate Domain-0 second\n\
    say xl cpupool-migrate hello Pool-0; say xl cpupool-destroy second; say xl cpupool-cpu-add Pool-0 1\n\
    say xl cpupool-list -c; say xl sched-credit -d hello -w 512 -c 50; say xl sched-credit -d hello\n\
    xl info -n | grep -E '^(nr_cpus|max_cpu_id|nr_nodes|cores_per_socket|threads_per_core|free_cpus)' \
    | sed 's/^/host: /'\n\
    xentop -b -i 1 | awk '/Domain-0|hello/ { print \"host: xentop\", $1, $2 }'\n\
    xenpm get-cpu-topology | grep -c CPU | sed 's/^/host: topology /'; say xen-livepatch list\n\
    xenpm get-cpuidle-states 0 | grep -E 'Max|C-states' | sed 's/^/host: /'\n\
    xentrace -D -S 64 -T 2 -e 0x0fffffff /tmp/trace >/dev/null 2>&1; xenalyze --summary /tmp/trace 2>/dev/null \
    | grep -E '^.-- Domain 0|sched_op|Runstates' | sort -u | sed 's/[[].*//; s/^/host: trace /'\n\
    xl unpause hello; finish hello 120";

fn tell(lab: &Lab<'_>, on_xen: bool) -> Result<Result<Vec<String>, Verdict>> {
    let find = || if on_xen { xen::find(lab.workspace, "xen".as_ref()).map(Some) } else { Ok(None) };
    let folder = lab.folder.join(if on_xen { "xen" } else { "oxen" });
    let machine = find().and_then(|xen| linux_dom0::machine(lab.workspace, xen.as_deref(), folder, SCRIPT, &[]));
    let mut machine = match machine {
        Ok(machine) => machine,
        Err(error) => return Ok(Err(Verdict::Skipped(format!("no Xen or Linux of Debian's: {error:#}")))),
    };
    machine.smp = 2;
    if on_xen {
        machine.append.push_str(" sched=credit");
    }
    let report = lab.boot_within(&machine, LIMIT)?.ended(Exit::PoweredOff)?;
    let report = report.says_in_order(&["dom0: ready", "dom0: done"])?.says("(hello) hello from a guest")?;
    let lines = report.transcript().lines().filter_map(|line| line.split_once("host: "));
    Ok(Ok(lines.map(|(_, said)| said.trim_end().to_owned()).collect()))
}

/// `xl vcpu-pin`, `xl cpupool-*`, `xl sched-credit`, `xl info -n`, `xentop`, `xenpm`, `xen-livepatch` and `xentrace`.
pub(super) fn debians_tools_say_of_the_host_what_they_say_on_real_xen(lab: &Lab<'_>) -> Result<Verdict> {
    let (xens, ours) = match (tell(lab, true)?, tell(lab, false)?) {
        (Ok(xens), Ok(ours)) => (xens, ours),
        (Err(skipped), _) | (_, Err(skipped)) => return Ok(skipped),
    };
    ensure!(xens.len() > 40, "only {} lines to compare:\n{}", xens.len(), xens.join("\n"));
    let differing: Vec<String> = xens
        .iter()
        .zip(&ours)
        .filter(|(xens, ours)| xens != ours)
        .map(|(xens, ours)| format!("    Xen  {xens}\n    Oxen {ours}"))
        .collect();
    ensure!(
        differing.is_empty() && xens.len() == ours.len(),
        "{}\n\nXen:\n{}\n\nOxen:\n{}",
        differing.join("\n"),
        xens.join("\n"),
        ours.join("\n")
    );
    Ok(Verdict::Passed)
}
