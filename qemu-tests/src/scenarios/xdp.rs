//! A program in the kernel of a stock guest looks at each frame that arrives: dom0's backend leaves the room before it
//! for which Linux's frontend asks, while the interface is in use.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use oxen_tools::linux::Ramdisk;

use super::complaints::content;
use super::linux::{linux, with_guests};
use crate::compiler;
use crate::lab::{Lab, Verdict};

/// The program that attaches it.
const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/xdp");

/// How long it may take: a machine that does other things as well is slow.
const LIMIT: Duration = Duration::from_secs(600);

/// What two guests do. `a` fetches 4 MiB of `b`, in frames longer than a page; then once more with the program
/// attached, which lets all pass but answers to echoes, and sends as much back; then it pings without the program.
const WORK: &str = r#"name=$(sed 's/.*name=//;s/ .*//' /proc/cmdline)
if [ $name = a ]; then me=1 peer=192.168.7.2; else me=2 peer=192.168.7.1; fi
until { killall udhcpc; ip addr add 192.168.7.$me/24 dev eth0; ping -c 2 -W 1 $peer; } >/dev/null 2>&1; do :; done
dd if=/dev/urandom of=/tmp/file bs=64k count=64 2>/dev/null
printf '#!/bin/sh\ncat /tmp/file\n' >/tmp/source; printf '#!/bin/sh\nmd5sum >/tmp/sum\n' >/tmp/sink
chmod +x /tmp/source /tmp/sink
receive() { until nc $peer $1 -e /tmp/sink; do usleep 100000; done; echo "$name: received: $(cat /tmp/sum)"; }
send() { nc -l -p $1 -e /tmp/source; echo "$name: sent: $(md5sum </tmp/file)"; }
if [ $name = b ]; then send 5001; send 5002; receive 5003; nc -l -p 5004 </dev/null; exit; fi
receive 5001
attach eth0 >/tmp/attached & attached=$!
tries=0; until [ -s /tmp/attached ] || [ $tries -gt 300 ]; do usleep 100000; tries=$((tries+1)); done
cat /tmp/attached
echo "with it: $(ping -c 5 -i 0.2 $peer | grep packets)"
receive 5002
send 5003
kill $attached; wait $attached; sleep 1
echo "without: $(ping -c 5 -i 0.2 $peer | grep packets)"
until nc $peer 5004 </dev/null; do usleep 100000; done
"#;

pub(super) fn a_linux_guest_that_looks_at_frames_gets_its_room_before_them(lab: &Lab<'_>) -> Result<Verdict> {
    let ramdisk = match compiler::program(lab, Path::new(SOURCES), 64) {
        Ok(program) => Ramdisk::new(lab.workspace, "linux").network().program("bin/attach", &program).script(WORK),
        Err(error) => return Ok(Verdict::Skipped(format!("no program: {error:#}"))),
    };
    let linux = match linux(lab, &ramdisk) {
        Ok(linux) => linux,
        Err(verdict) => return Ok(verdict),
    };
    let lines = "memory = 192\nvif = [\"\"]";
    let script = "xl create a.cfg; xl create b.cfg; xl wait a; xl wait b; brctl show; poweroff";
    let machine = with_guests(lab, &linux, script, &[("a", lines), ("b", lines)])?;
    let report = content(lab.boot_within(&machine, LIMIT)?.succeeded()?)?;
    let report = report.says_in_order(&["attached to eth0", "with it: 5 packets transmitted, 0 packets received"])?;
    let report = report.says("without: 5 packets transmitted, 5 packets received")?;
    let sums = |word: &str| {
        let lines = report.transcript().lines();
        let mut sums: Vec<_> =
            lines.filter_map(|line| line.split_once(word)?.1.split_whitespace().next().map(str::to_owned)).collect();
        sums.sort();
        sums
    };
    let (sent, received) = (sums(": sent: "), sums(": received: "));
    if sent.len() != 3 || sent != received {
        return report.fail(&format!("sent: {sent:?}, received: {received:?}"));
    }
    Ok(Verdict::Passed)
}
