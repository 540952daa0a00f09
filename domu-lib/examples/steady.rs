//! A guest that works in steps, for ever: at each it looks whether all that it keeps is as it was, and says what its
//! clocks tell. It is meant to be stopped, saved, restored and copied.
//!
//! A line is `now T, system T, wall T, disk N: step N is whole`, times in microseconds, or `is DAMAGED`. With a disk
//! two tasks write it all the time, each its half, with what the place and the round say, and read it back: `disk`
//! counts what they did. It runs in an address space of its own making. `period=MS` is the time between two steps; with
//! `maps` it has a granted page mapped, and so cannot be saved.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![forbid(unsafe_code)]

extern crate alloc;

use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::Cell;

use oxen_domu_lib::frontend::block::{Block, BlockError, SECTOR};
use oxen_domu_lib::frontend::{balloon, control};
use oxen_domu_lib::grant::{Access, Grant, GrantError, GrantMapping};
use oxen_domu_lib::memory::{AddressSpace, Page, Rights, bits};
use oxen_domu_lib::store::Store;
use oxen_domu_lib::{DomId, Errno, entry, println, start_info, suspend, task, time};

entry!(run);

/// Words that it keeps in memory.
const KEPT: usize = 128 * 1024;
/// Bytes of a transfer: several requests.
const CHUNK: usize = 512 * 1024;
/// Where its own address space has a page.
const MAPPED: u64 = 0x40_0000;

fn run() {
    match Store::connect() {
        Ok(store) => task::run(story(store)),
        Err(error) => println!("steady: {error}"),
    }
}

async fn story(store: Store) {
    task::spawn(balloon::follow(store.clone()));
    task::spawn(tell_restores());
    let rounds = Rc::new(Cell::new(0));
    let is_damaged = Rc::new(Cell::new(false));
    if let Some(disk) = disk(&store).await {
        let disk = Rc::new(disk);
        let chunks = disk.geometry().sectors / (2 * CHUNK / SECTOR) as u64;
        for half in 0..2 {
            task::spawn(work(disk.clone(), half * chunks..(half + 1) * chunks, rounds.clone(), is_damaged.clone()));
        }
    }
    let mapped = match start_info::option("maps") {
        Some(_) => Some(map_own_grant(&store).await),
        None => None,
    };
    if let Some(Err(error)) = &mapped {
        println!("steady: {error}");
    }
    task::spawn(step(rounds, is_damaged));
    control::obey(store).await;
}

async fn disk(store: &Store) -> Option<Block> {
    let disks = store.list("device/vbd").await.ok()?;
    match Block::connect(store, disks.iter().min()?).await {
        Ok(disk) => Some(disk),
        Err(error) => {
            println!("steady: {error}");
            None
        }
    }
}

/// Lends itself a page, and takes it.
async fn map_own_grant(store: &Store) -> Result<(Grant, GrantMapping), GrantError> {
    let own =
        DomId(store.read_number("domid").await.ok().and_then(|number| number.try_into().ok()).unwrap_or_default());
    let grant = Grant::zeroed(own, Access::ReadWrite)?;
    let mapping = GrantMapping::map(own, &[grant.reference()], Access::ReadOnly)?;
    Ok((grant, mapping))
}

/// An address space with a page in it, which is loaded.
fn space() -> Result<(AddressSpace, Rc<Page>), Errno> {
    let page = Rc::new(Page::zeroed().ok_or(Errno::NoMem)?);
    let mut space = AddressSpace::new()?;
    space.map(MAPPED, &page, Rights { write: true, execute: false })?;
    space.activate()?;
    Ok((space, page))
}

async fn tell_restores() {
    loop {
        let count = suspend::restores();
        suspend::restored(count).await;
        println!("restored {} times", suspend::restores());
    }
}

async fn step(rounds: Rc<Cell<u64>>, is_damaged: Rc<Cell<bool>>) {
    let period = start_info::option("period").and_then(|text| text.parse().ok()).unwrap_or(50);
    let space = space();
    let mut kept: Vec<u64> = (0..KEPT as u64).collect();
    for number in 1_u64.. {
        // Each word changes at each step, so that no page is as it was.
        let sound = kept.iter_mut().zip(0_u64..).all(|(word, at)| {
            let sound = *word == at.wrapping_mul(number);
            *word = at.wrapping_mul(number + 1);
            sound
        });
        let is_mapped = space.as_ref().is_ok_and(|(space, page)| {
            space.entry(MAPPED).map(|entry| entry & bits::FRAME) == Some(page.mfn().address())
        });
        let is = if sound && is_mapped && !is_damaged.get() { "whole" } else { "DAMAGED" };
        let [now, system, wall] = [time::now(), time::system(), time::wall()].map(|time| time / 1000);
        println!("now {now}, system {system}, wall {wall}, disk {}: step {number} is {is}", rounds.get());
        time::sleep(period * time::MILLISECOND).await;
    }
}

/// Writes some chunks of the disk and reads them back, again and again.
async fn work(disk: Rc<Block>, chunks: core::ops::Range<u64>, rounds: Rc<Cell<u64>>, is_damaged: Rc<Cell<bool>>) {
    for round in 1_u64.. {
        for chunk in chunks.clone() {
            match try_chunk(&disk, chunk, round).await {
                Ok(true) => {}
                Ok(false) => {
                    println!("steady: chunk {chunk} of round {round} is DAMAGED");
                    is_damaged.set(true);
                }
                Err(error) => {
                    println!("steady: {error}");
                    return is_damaged.set(true);
                }
            }
            rounds.set(rounds.get() + 1);
            task::yield_now().await;
        }
    }
}

async fn try_chunk(disk: &Block, chunk: u64, round: u64) -> Result<bool, BlockError> {
    let first = chunk * (CHUNK / SECTOR) as u64;
    let seed = chunk.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ round;
    let data: Vec<u8> = (0..CHUNK as u64 / 8).flat_map(|at| (seed ^ at << 40).to_le_bytes()).collect();
    disk.write(first, &data).await?;
    let mut read = vec![0; CHUNK];
    disk.read(first, &mut read).await?;
    Ok(read == data)
}
