//! A domain's ports, one word each, in pages that are made as they are needed and go with the domain.

use super::port::Port;
use crate::{
    addr::TABLE_ENTRIES,
    config::MAX_PORTS,
    heap::{self, Reserve},
};
use alloc::boxed::Box;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use oxen_abi::{errno::Errno, event_channel::EVTCHN_2L_NR_CHANNELS};
use spin::Once;

/// Ports of a bucket: one page.
const BUCKET_PORTS: usize = TABLE_ENTRIES;
/// Buckets of the ports that either ABI has.
const NEAR: usize = EVTCHN_2L_NR_CHANNELS as usize / BUCKET_PORTS;
/// Buckets of the ports that only the FIFO ABI has.
const FAR: usize = MAX_PORTS / BUCKET_PORTS - NEAR;
/// By how many ports the numbers that are not refused as such grow, as in Xen: tools look for the first refusal.
const VALID_STEP: u32 = 64;

type Bucket = Once<Box<[AtomicU64; BUCKET_PORTS]>>;

/// The ports of a domain.
#[derive(Debug)]
pub(crate) struct Ports {
    near: [Bucket; NEAR],
    far: Once<Box<[Bucket]>>,
    /// Port numbers below this one exist, in use or not.
    valid: AtomicU32,
}

impl Default for Ports {
    fn default() -> Self {
        Self { near: [const { Once::new() }; NEAR], far: Once::new(), valid: AtomicU32::new(VALID_STEP) }
    }
}

impl Ports {
    /// What a port is at this moment; `None` for a number that no port has.
    #[inline]
    pub(crate) fn get(&self, port: u32) -> Option<Port> {
        let state = self.word(port).map_or(Port::CLOSED, |word| Port::from_raw(word.load(Ordering::Acquire)));
        (state != Port::CLOSED || port < self.valid()).then_some(state)
    }

    /// The greatest port number that is not refused as such, plus one.
    #[inline]
    pub(crate) fn valid(&self) -> u32 {
        self.valid.load(Ordering::Relaxed)
    }

    /// Changes a port; the caller holds the lock of the domain's events, and the port has been opened.
    pub(crate) fn set(&self, port: u32, value: Port) {
        if let Some(word) = self.word(port) {
            word.store(value.raw(), Ordering::Release);
        }
    }

    /// Puts a port to use that was closed. The caller holds the lock of the domain's events.
    pub(crate) fn open(&self, machine: &impl Reserve, port: u32, value: Port) -> Result<(), Errno> {
        debug_assert_eq!(self.get(port).unwrap_or_default(), Port::CLOSED);
        let index = port as usize / BUCKET_PORTS;
        let bucket = match index.checked_sub(NEAR) {
            None => self.near.get(index),
            Some(index) => self.far.try_call_once(|| heap::row(machine, FAR, |_| Once::new()))?.get(index),
        };
        let empty = || heap::own(machine, [const { AtomicU64::new(0) }; BUCKET_PORTS]);
        bucket.ok_or(Errno::NoSpc)?.try_call_once(empty)?;
        self.set(port, value);
        self.valid.fetch_max((port + 1).next_multiple_of(VALID_STEP), Ordering::Relaxed);
        Ok(())
    }

    #[inline]
    fn word(&self, port: u32) -> Option<&AtomicU64> {
        let index = port as usize / BUCKET_PORTS;
        let bucket = self.near.get(index).or_else(|| self.far(index))?;
        bucket.get()?.get(port as usize % BUCKET_PORTS)
    }

    #[cold]
    fn far(&self, index: usize) -> Option<&Bucket> {
        self.far.get()?.get(index.checked_sub(NEAR)?)
    }
}
