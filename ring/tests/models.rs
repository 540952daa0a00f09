//! Both ends of a ring under loom: no event is lost, no message is seen before it is there, however they interleave.
#![cfg(loom)]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "it is a test")]

use oxen_model::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use oxen_model::{check, wait};
use oxen_ring::{BackRing, FrontRing, PAGE_WORDS, Page, console};

/// Pages, and what each end is rung by.
struct World {
    pages: [Page; 1],
    is_made: AtomicBool,
    for_back: AtomicBool,
    for_front: AtomicBool,
}

impl World {
    fn new() -> &'static Self {
        Box::leak(Box::new(Self {
            pages: [[const { AtomicU32::new(0) }; PAGE_WORDS]],
            is_made: AtomicBool::new(false),
            for_back: AtomicBool::new(false),
            for_front: AtomicBool::new(false),
        }))
    }
}

type Message = [u32; 2];

fn sleep_until(bell: &AtomicBool) {
    while !bell.swap(false, Ordering::AcqRel) {
        wait();
    }
}

/// Two requests, each published by itself, and their answers.
fn front(world: &World) {
    let mut ring = FrontRing::<Message, Message>::new(&world.pages).unwrap();
    world.is_made.store(true, Ordering::Release);
    for number in [3, 4] {
        ring.push(&[number, !number]).unwrap();
        if ring.publish() {
            world.for_back.swap(true, Ordering::AcqRel);
        }
    }
    let mut next = 3;
    loop {
        while let Some(answer) = ring.pop().unwrap() {
            assert_eq!(answer, [next, next << 8]);
            next += 1;
        }
        if next == 5 {
            return;
        }
        if !ring.final_check().unwrap() {
            sleep_until(&world.for_front);
        }
    }
}

fn back(world: &World) {
    while !world.is_made.load(Ordering::Acquire) {
        wait();
    }
    let mut ring = BackRing::<Message, Message>::attach(&world.pages).unwrap();
    let mut answered = 0;
    loop {
        while let Some([number, other]) = ring.pop().unwrap() {
            assert_eq!(other, !number);
            ring.push(&[number, number << 8]).unwrap();
            answered += 1;
        }
        if ring.publish() {
            world.for_front.swap(true, Ordering::AcqRel);
        }
        if answered == 2 {
            return;
        }
        if !ring.final_check().unwrap() {
            sleep_until(&world.for_back);
        }
    }
}

#[test]
fn no_event_of_a_ring_is_lost_and_no_message_is_seen_too_early() {
    let runs = check(World::new(), 2, &[front, back], |_| {});
    println!("{runs} ways");
}

fn speak(world: &World) {
    let mut ends = console::guest(&world.pages[0]);
    let mut rest = &b"abc"[..];
    while !rest.is_empty() {
        let count = ends.writer.write(&rest[..1]).unwrap();
        rest = &rest[count..];
    }
}

fn listen(world: &World) {
    let mut ends = console::backend(&world.pages[0]);
    let (mut heard, mut buffer) = (Vec::new(), [0; 4]);
    while heard.len() < 3 {
        let count = ends.reader.read(&mut buffer).unwrap();
        heard.extend_from_slice(&buffer[..count]);
        if count == 0 {
            wait();
        }
    }
    assert_eq!(heard, b"abc");
}

#[test]
fn bytes_of_a_stream_are_there_before_its_index_says_so() {
    let runs = check(World::new(), 3, &[speak, listen], |_| {});
    println!("{runs} ways");
}
