//! Two places at one bridge.

use core::future::Future;
use core::pin::pin;
use core::sync::atomic::{AtomicU64, Ordering};
use core::task::{Context, Poll, Waker};

use oxen_domu_lib::ip::smoltcp::wire::{Ipv4Address, Ipv4Cidr};
use oxen_domu_lib::task;
use proptest::prelude::*;

use super::connection::Connection;
use super::{Network, Settings};
use crate::bridge::{Bridge, Mac, Packet};

const MACS: [Mac; 2] = [Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 2])];
const SECOND: Ipv4Address = Ipv4Address::new(10, 9, 0, 2);
const PORT: u16 = 8002;

/// A millisecond later at each look.
fn clock() -> u64 {
    static NOW: AtomicU64 = AtomicU64::new(0);
    NOW.fetch_add(1_000_000, Ordering::Relaxed)
}

fn two() -> (Bridge, [Network; 2]) {
    let bridge = Bridge::new(clock, 8 << 20);
    let place = |number: u8, mac: Mac| {
        let address = Ipv4Cidr::new(Ipv4Address::new(10, 9, 0, number), 24);
        Network::new(&bridge, mac, Settings::Fixed { address, gateway: None }, clock)
    };
    let networks = [place(1, MACS[0]), place(2, MACS[1])];
    (bridge, networks)
}

fn turn<'a>(driven: impl IntoIterator<Item = &'a Network>) {
    for network in driven {
        let _ = network.stack.poll();
    }
}

/// Has those that are driven do what they can until the future ends, for two minutes at most.
fn run<T>(driven: &[&Network], future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    for _ in 0..60_000 {
        if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return value;
        }
        turn(driven.iter().copied());
    }
    panic!("it does not end")
}

fn connected([first, second]: &[Network; 2]) -> [Connection; 2] {
    let both = task::join(Connection::open(first, SECOND, PORT), Connection::accept(second, PORT));
    let (opened, accepted) = run(&[first, second], both);
    [opened.unwrap(), accepted.unwrap()]
}

async fn read_all(connection: &Connection, most: usize) -> anyhow::Result<Vec<u8>> {
    let (mut all, mut part) = (Vec::new(), vec![0; 70_000]);
    while all.len() < most {
        match connection.read_some(&mut part).await? {
            0 => break,
            count => all.extend_from_slice(&part[..count]),
        }
    }
    Ok(all)
}

#[test]
fn bytes_go_both_ways_whole_and_in_order() {
    let (_bridge, networks) = two();
    let [near, far] = connected(&networks);
    assert_eq!(far.peer().unwrap().addr, Ipv4Address::new(10, 9, 0, 1).into());
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|at| ((at / 3) ^ (at >> 9)) as u8).collect();
    let there = async {
        near.write_all(&bytes).await.unwrap();
        let back = read_all(&near, usize::MAX).await.unwrap();
        near.finish().await;
        back
    };
    let back = async {
        let came = read_all(&far, bytes.len()).await.unwrap();
        far.write_all(&came).await.unwrap();
        far.finish().await;
        came
    };
    let (echo, came) = run(&[&networks[0], &networks[1]], task::join(there, back));
    assert!(came == bytes && echo == bytes);
}

#[test]
fn who_is_not_there_or_does_not_listen_is_told_apart_from_who_does() {
    let (_bridge, networks) = two();
    let both = [&networks[0], &networks[1]];
    let error = |outcome: anyhow::Result<Connection>| outcome.err().unwrap().to_string();
    let refused = error(run(&both, Connection::open(&networks[0], SECOND, PORT)));
    assert_eq!(refused, "nobody takes connections at 10.9.0.2, port 8002");
    let silent = error(run(&both, Connection::open(&networks[0], Ipv4Address::new(10, 9, 0, 3), PORT)));
    assert_eq!(silent, "nobody takes connections at 10.9.0.3, port 8002");
    let elsewhere = error(run(&both, Connection::open(&networks[0], Ipv4Address::new(10, 8, 0, 3), PORT)));
    assert_eq!(elsewhere, "there is no way to 10.8.0.3 from here");
}

#[test]
fn an_end_that_breaks_off_or_falls_silent_is_noticed() {
    let (_bridge, networks) = two();
    let [near, far] = connected(&networks);
    run(&[&networks[0], &networks[1]], far.write_all(b"last words")).unwrap();
    turn(&networks);
    drop(far);
    // What was said before the break is still read.
    let said = run(&[&networks[0], &networks[1]], read_all(&near, 10)).unwrap();
    assert_eq!(said, b"last words");
    let broken = run(&[&networks[0], &networks[1]], read_all(&near, 1));
    assert_eq!(broken.unwrap_err().to_string(), "the connection broke");
    let [near, _far] = connected(&networks);
    let broken = run(&[&networks[0]], near.read_some(&mut [0]));
    assert_eq!(broken.unwrap_err().to_string(), "the connection broke");
}

#[test]
fn a_connection_that_is_given_up_leaves_nothing() {
    let (_bridge, networks) = two();
    for _ in 0..3 {
        drop(connected(&networks));
        turn(&networks);
        for network in &networks {
            assert_eq!(network.stack.sockets(), 0);
        }
    }
}

proptest! {
    /// Whatever a guest sends: dom0 stands, and still takes connections.
    #[test]
    fn frames_of_any_bytes_harm_nothing(
        frames in proptest::collection::vec((0..4_u8, proptest::collection::vec(any::<u8>(), 8..120)), 1..40)
    ) {
        let (bridge, networks) = two();
        let guest = bridge.attach_interface("guest", Mac([2, 0, 0, 0, 0, 3]));
        for (kind, mut bytes) in frames {
            let kind: &[u8] = match kind {
                0 => &[8, 6, 0, 1, 8, 0, 6, 4, 0],
                1 => &[8, 0, 0x45, 0, 0, 60, 0, 0, 0, 0, 64, 1],
                2 => &[8, 0, 0x45, 0, 0, 60, 0, 0, 0, 0, 64, 6],
                _ => &[],
            };
            bytes.splice(..0, [&[0xff; 6][..], &[2, 0, 0, 0, 0, 3], kind].concat());
            let _ = guest.send(Packet::plain(bytes));
            turn(&networks);
        }
        connected(&networks);
    }
}
