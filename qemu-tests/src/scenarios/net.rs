//! The sample guest `net` on our own backend and bridge: with the host through the
//! machine's card, and among themselves.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use oxen_tools::disk::{noise, sha256};
use oxen_tools::qemu::USER_NETWORK;

use crate::lab::{Lab, Verdict};
use oxen_tools::http::{HOST, Server};

const MIB: usize = 1 << 20;

/// What the guest serves at `/bytes/N`.
pub(super) fn pattern(length: usize) -> Vec<u8> {
    let words = (0..length as u64).step_by(8).flat_map(|at| at.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    words.take(length).collect()
}

/// What a server on this machine's `port` answers to a request for `path`, behind the head.
fn ask(port: u16, path: &str) -> Result<Vec<u8>> {
    let mut connection = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    connection.set_read_timeout(Some(Duration::from_secs(20)))?;
    write!(connection, "GET {path} HTTP/1.0\r\n\r\n")?;
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer)?;
    let head = answer.windows(4).position(|window| window == b"\r\n\r\n").context("no head")?;
    ensure!(answer.starts_with(b"HTTP/1.0 200 "), "not found");
    Ok(answer.split_off(head + 4))
}

/// Asks for `path` until there is a whole answer: before the guest is there, QEMU accepts for it and
/// hangs up. Then asks for [`LAST`] until the run has ended, so that dom0 finds such a request in the
/// guest's console whenever it looks.
fn client(port: u16, path: &str, length: usize, ended: &AtomicBool) -> Vec<u8> {
    let mut served = Vec::new();
    while !ended.load(Ordering::Relaxed) {
        match ask(port, if served.is_empty() { path } else { LAST }) {
            Ok(answer) if answer.len() == length => served = answer,
            _ => thread::sleep(Duration::from_millis(200)),
        }
    }
    served
}

/// What is asked for when all else was answered.
const LAST: &str = "/bytes/1";

/// A lease, echoes, 32 MiB from the host, and 8 MiB for the host, all through the virtio card.
pub(super) fn net_fetches_from_the_host_and_serves_it(lab: &Lab<'_>) -> Result<Verdict> {
    const SERVED: usize = 8 * MIB;
    let file = noise(21, 32 * MIB);
    let sum = sha256(&file);
    let server = Server::start(file)?;
    let forwarded = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
    let path = format!("/bytes/{SERVED}");
    let script = format!(
        "xl create net.cfg cmdline='again fetch=http://{HOST}:{}/file'; expect net 'net: fetched'; \
         expect net 'GET {LAST}: 200'; xl shutdown net; xl wait net; brctl show; poweroff",
        server.port
    );
    let mut machine = lab.machine(&script)?;
    machine.network = Some(format!("{USER_NETWORK},hostfwd=tcp:127.0.0.1:{forwarded}-10.0.2.15:80"));
    let ended = AtomicBool::new(false);
    let (report, served) = thread::scope(|scope| {
        let client = scope.spawn(|| client(forwarded, &path, SERVED, &ended));
        let report = lab.boot(&machine);
        ended.store(true, Ordering::Relaxed);
        (report, client.join().unwrap_or_default())
    });
    let report = report?.succeeded()?;
    let fetched = format!("{} bytes in ", 32 * MIB);
    let report = report.says_in_order(&[
        "net: closed, and connecting again",
        "net: lease 10.0.2.15/24",
        "net: ping 10.0.2.2 3: ",
    ])?;
    let report = report.says(&fetched)?.says(&format!("sha256 {sum}"))?.lacks("FAILED")?;
    if served != pattern(SERVED) {
        return report.fail("the host did not receive the pattern that the guest served");
    }
    report.says(&format!("sha256 {}", sha256(&served)))?;
    Ok(Verdict::Passed)
}

/// Two guests fetch 32 MiB from each other at the same time, over the bridge alone: the machine has no card.
pub(super) fn two_guests_fetch_from_each_other_at_once(lab: &Lab<'_>) -> Result<Verdict> {
    let create = |name: &str, own: u8, other: u8| {
        format!(
            "xl create net.cfg name={name} \
             cmdline='ip=10.9.0.{own}/24 ping=10.9.0.{other} fetch=http://10.9.0.{other}/bytes/{}'; ",
            32 * MIB
        )
    };
    let script = create("left", 1, 2)
        + &create("right", 2, 1)
        + "expect left 'net: fetched'; expect right 'net: fetched'; xl network-list left; \
           xl shutdown -a; xl wait left; xl wait right; poweroff";
    let report = lab.script(&script)?.lacks("FAILED")?;
    let sum = sha256(&pattern(32 * MIB));
    for name in ["left", "right"] {
        let fetched = report.lines_with(&format!("({name}) net: fetched"));
        if !fetched.iter().any(|line| line.contains(&sum)) {
            return report.fail(&format!("{name} did not fetch the pattern: {fetched:?}"));
        }
    }
    Ok(Verdict::Passed)
}

/// An interface that is taken away closes on both ends, and the guest is told.
pub(super) fn an_interface_that_is_detached_closes_on_both_ends(lab: &Lab<'_>) -> Result<Verdict> {
    let script = "xl create net.cfg cmdline='ip=10.9.0.1/24'; expect net 'net: serving'; xl network-detach net 0; \
        xl wait net; brctl show; poweroff";
    let report = lab.script(script)?.says("(net) net: FAILED: the backend closed")?.lacks("does not let go")?;
    report.lacks("vif1.0 ")?;
    Ok(Verdict::Passed)
}
