//! Network interfaces of stock Linux guests: the machine's uplink, the bridge between guests.

use std::time::Duration;

use anyhow::{Result, ensure};
use oxen_tools::debian;
use oxen_tools::disk::{noise, sha256};
use oxen_tools::linux::Ramdisk;
use oxen_tools::qemu::USER_NETWORK;

use super::complaints::content;
use super::hypercalls;
use super::linux::{guest, linux, with_guests};
use crate::lab::{Lab, Report, Verdict};
use oxen_tools::http::{HOST, Server};

const MIB: usize = 1 << 20;

/// What a guest does on QEMU's network: waits for its address, then talks to the host. `HOST` and
/// `PORT` stand for where it listens.
const FETCH: &str = r#"tries=0
until ip addr show eth0 | grep -q 'inet ' || [ $tries -gt 600 ]; do usleep 100000; tries=$((tries+1)); done
ip addr show eth0 | grep 'inet '
ping -c 3 HOST
wget -q -O /tmp/file http://HOST:PORT/file && echo "fetched $(sha256sum < /tmp/file)"
wget -q -O - --post-file /tmp/file http://HOST:PORT/file && echo "posted"
ifconfig eth0 | grep packets
"#;

/// DHCP, ping, 32 MiB from the host and back through netfront, our backend, the bridge and the virtio card.
pub(super) fn a_linux_guest_gets_an_address_and_exchanges_32_mib_with_the_host(lab: &Lab<'_>) -> Result<Verdict> {
    // busybox posts a file up to its first zero.
    let file: Vec<u8> = noise(32, 32 * MIB).into_iter().map(|byte| byte.max(1)).collect();
    let sum = sha256(&file);
    let server = Server::start(file)?;
    let script = FETCH.replace("HOST", HOST).replace("PORT", &server.port.to_string());
    let linux = match linux(lab, &Ramdisk::new(lab.workspace, "linux").network().script(&script)) {
        Ok(linux) => linux,
        Err(verdict) => return Ok(verdict),
    };
    let lines = "memory = 256\nvif = [\"\"]";
    let script = "xl create linux.cfg; xl network-list linux; xl wait linux; brctl show; poweroff";
    let mut machine = with_guests(lab, &linux, script, &[("linux", lines)])?;
    machine.network = Some(USER_NETWORK.to_owned());
    let report = content(lab.boot(&machine)?.succeeded()?)?;
    let fetched = format!("fetched {sum}");
    report.says_in_order(&["inet 10.0.2.15/24", "3 packets received", &fetched, "posted"])?;
    ensure!(server.posted.try_recv().is_ok_and(|posted| posted == sum), "what the guest sent is not what it fetched");
    Ok(Verdict::Passed)
}

/// What each of two guests does; the one called `a` has the address that ends in 1. Each sends 100 MiB, in turns, on
/// port 5001, then sends for `SECONDS` seconds while it receives, on port 5002. `nc -e` gives the connection to a
/// program: one that sends a block again and again, or one that sums what comes.
const EXCHANGE: &str = r#"name=$(sed 's/.*name=//;s/ .*//' /proc/cmdline)
if [ $name = a ]; then me=1 other=2; else me=2 other=1; fi
peer=192.168.7.$other
dd if=/dev/urandom of=/tmp/block bs=64k count=64 2>/dev/null

cat >/tmp/source <<'END'
#!/bin/sh
read now rest </proc/uptime; end=$((${now%.*} + TIME)) i=0
while [ $i -lt $COUNT ] || [ ${now%.*} -lt $end ]; do cat /tmp/block; i=$((i+1)); read now rest </proc/uptime; done
echo $i >/tmp/count; echo $((${now%.*} + TIME - end)) >/tmp/seconds
END
cat >/tmp/sink <<'END'
#!/bin/sh
md5sum >/tmp/sum
END
chmod +x /tmp/source /tmp/sink
sum_of() { (i=0; while [ $i -lt $1 ]; do cat /tmp/block; i=$((i+1)); done) | md5sum; }
send() { COUNT=$1 TIME=$2 nc -l -p $3 -e /tmp/source; }
sent() { echo "$name sent $1 $(sum_of $(cat /tmp/count)) $(cat /tmp/count) blocks in $(cat /tmp/seconds) s"; }
# Both come here before either goes on.
meet() {
    if [ $name = a ]; then nc -l -p 5000 </dev/null; else until nc $peer 5000 </dev/null; do usleep 100000; done; fi
}
receive() { until nc $peer $1 -e /tmp/sink; do usleep 100000; done; echo "$name received $1 $(cat /tmp/sum)"; }
received() { cat /sys/class/net/eth0/statistics/rx_bytes; }

# The DHCP client that the ramdisk starts takes an address away when it begins.
until { killall udhcpc; ip addr add 192.168.7.$me/24 dev eth0; ping -c 2 -W 1 $peer; } >/dev/null 2>&1; do :; done
ping -c 5 -i 0.2 $peer | grep packets
if [ $name = a ]; then send 25 0 5001; sent 5001; receive 5001; else receive 5001; send 25 0 5001; sent 5001; fi

meet
receive 5002 & receiver=$!
send 0 SECONDS 5002 & sender=$!
# A stall would be a pause in which next to nothing is received: looked for from the first bytes on, until the last.
# A machine that is busy with other things may come to the end before two seconds can be measured.
slowest=none before=$(received)
until [ $(($(received) - before)) -gt 65536 ] || ! kill -0 $receiver 2>/dev/null; do usleep 100000; done
before=$(received)
while sleep 2; kill -0 $receiver 2>/dev/null; do
    now=$(received)
    if [ $slowest = none ] || [ $((now - before)) -lt $slowest ]; then slowest=$((now - before)); fi
    before=$now
done
wait $receiver $sender
echo "$name received in the slowest two seconds $slowest bytes"
sent 5002
ifconfig eth0 | grep packets
# The other may still want something of this one.
sleep 2
"#;

/// Ping, 100 MiB each way by TCP, then both ways at once for a time, over the bridge alone: the machine has no card.
/// The guests have as many vcpus as the machine has CPUs: with more, a vcpu would wait long for another's lock.
pub(super) fn exchange(lab: &Lab<'_>, seconds: u32, cpus: u32) -> Result<Verdict> {
    let script = EXCHANGE.replace("SECONDS", &seconds.to_string());
    let linux = match linux(lab, &Ramdisk::new(lab.workspace, "linux").network().script(&script)) {
        Ok(linux) => linux,
        Err(verdict) => return Ok(verdict),
    };
    let lines = format!("memory = 192\nvcpus = {cpus}\nvif = [\"\"]");
    let script = "xl create a.cfg; xl create b.cfg; xl wait a; xl wait b; brctl show; poweroff";
    let mut machine = with_guests(lab, &linux, script, &[("a", &lines), ("b", &lines)])?;
    machine.smp = cpus;
    // A minute or two on an idle machine; it is met only by what hangs.
    let limit = Duration::from_secs(1200 + u64::from(2 * seconds));
    let report = content(lab.boot_within(&machine, limit)?.succeeded()?)?;
    judge_exchange(&report)?;
    Ok(Verdict::Passed)
}

/// Demands that each guest received what the other sent, and never waited for it.
fn judge_exchange(report: &Report) -> Result<()> {
    let said = |text: &str| {
        let line = report.lines_with(text).first().copied().unwrap_or_default();
        line.split_once(text).map(|(_, rest)| rest.split_whitespace().next().unwrap_or_default().to_owned())
    };
    for (from, to) in [("a", "b"), ("b", "a")] {
        for port in [5001, 5002] {
            let (sent, received) = (said(&format!("{from} sent {port} ")), said(&format!("{to} received {port} ")));
            if sent.as_ref().is_none_or(String::is_empty) || sent != received {
                return report.fail(&format!("{from} sent {sent:?} by port {port}, {to} received {received:?}"));
            }
        }
        let slowest = said(&format!("{from} received in the slowest two seconds "));
        let is_enough = |text: &str| text == "none" || text.parse::<u64>().is_ok_and(|bytes| bytes >= 64 << 10);
        if !slowest.as_deref().is_some_and(is_enough) {
            return report.fail(&format!("{from} received only {slowest:?} bytes in two seconds"));
        }
    }
    if report.lines_with("5 packets transmitted, 5 packets received").len() != 2 {
        return report.fail("a ping was not answered");
    }
    Ok(())
}

pub(super) fn two_linux_guests_exchange_100_mib_over_the_bridge_both_ways_at_once(lab: &Lab<'_>) -> Result<Verdict> {
    exchange(lab, 10, 1)
}

/// How many interfaces the probe's questions about networks need.
const PROBED: usize = 13;

pub(super) fn a_frontend_that_breaks_the_protocol_loses_only_its_own_interface(lab: &Lab<'_>) -> Result<Verdict> {
    let mut machine = lab.machine("xl create probe.cfg; xl wait probe; brctl show; poweroff")?;
    let interfaces = vec!["\"\""; PROBED].join(", ");
    let config = format!(
        "name = \"probe\"\nkernel = \"guests/probe\"\nmemory = 32\ncmdline = \"family=network\"\nvif = [{interfaces}]\n"
    );
    let probe = std::fs::read(lab.workspace.out.join("probe"))?;
    lab.add(&mut machine, &[("probe.cfg", config.as_bytes()), ("guests/probe", &probe)])?;
    let report = lab.boot(&machine)?.succeeded()?.says("and with its bytes")?;
    hypercalls::judge(&report)
}

/// What a stock guest does while another sends: comes up, and counts what it received.
const RECEIVE: &str = "
xl create linux.cfg; expect linux 'linux:/# '
send linux 'killall udhcpc; ip link set eth0 up; before=$(cat /sys/class/net/eth0/statistics/rx_packets); echo up:$?'
expect linux 'up:0'
xl create probe.cfg; xl wait probe
send linux 'echo came:$(($(cat /sys/class/net/eth0/statistics/rx_packets) - before)):'; expect linux 'came:20:'
brctl show; xl shutdown -w linux; poweroff
";

/// A guest sends frames whose first piece ends inside the Ethernet header; Linux's frontend would not survive such a
/// page.
pub(super) fn frames_cut_inside_their_headers_harm_no_linux_guest(lab: &Lab<'_>) -> Result<Verdict> {
    let config = "name = \"probe\"\nkernel = \"guests/probe\"\nmemory = 16\ncmdline = \"family=cuts\"\nvif = [\"\"]\n";
    let probe = std::fs::read(lab.workspace.out.join("probe"))?;
    let files: [(&str, &[u8]); 2] = [("probe.cfg", config.as_bytes()), ("guests/probe", &probe)];
    let ramdisk = Ramdisk::new(lab.workspace, "linux").network();
    let settings = "memory = 128\nvif = [\"\"]";
    let mut machine = match guest(lab, debian::vmlinuz, &ramdisk, settings, &files, RECEIVE) {
        Ok(machine) => machine,
        Err(verdict) => return Ok(verdict),
    };
    machine.memory = 512;
    let report = content(lab.boot(&machine)?.succeeded()?)?;
    hypercalls::judge(&report)
}
