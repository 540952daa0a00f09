//! A frame that becomes something else while another CPU remembers what it was, or takes it for something else.

use crate::support::{self, Fake, guest::Guest, on_cpu, table_word};
use oxen_hv::{
    Hypervisor,
    addr::{GuestAddr, Mfn},
    mem::{RamFrame, editor::Editor, entry::Entry, frame_type::FrameType},
};
use oxen_model::check;
use std::sync::{
    Mutex,
    atomic::{AtomicU64, Ordering::SeqCst},
};

/// Where the page is: its address in the guest, and its place in the table.
const PAGE: usize = 2;
/// The CPU that runs the guest beside the one that edits its tables.
const OTHER: u16 = 1;

struct World {
    hv: &'static Hypervisor<Fake>,
    guest: Mutex<Guest>,
    page: Mfn,
    entry: &'static AtomicU64,
    root: RamFrame,
}

impl World {
    fn new() -> &'static Self {
        on_cpu(0);
        let hv = support::boot(48);
        let mut guest = Guest::new(hv, 1, false, 16);
        let home = guest.build_home(4);
        hv.memory.frames.tlb.enter(guest.domain.owner(), 1 << OTHER);
        let (page, entry) = (home.data[PAGE], table_word(hv, home.tables[3], PAGE));
        let root = guest.state.kernel_root.unwrap();
        let world = Self { hv, guest: Mutex::new(guest), page, entry, root };
        world.forget();
        Box::leak(Box::new(world))
    }

    /// No CPU remembers anything.
    fn forget(&self) {
        for number in [0, OTHER] {
            let mut cpu = self.hv.machine().cpu(number);
            cpu.pages.clear();
            cpu.tables.clear();
        }
    }

    /// The page loses its entry.
    fn unmap(&self) {
        let guest = self.guest.lock().unwrap();
        let mut editor = Editor::open(&self.hv.memory, &guest.domain.memory).unwrap();
        let rights = editor.own_rights();
        editor.map_at(self.root, GuestAddr::new((PAGE as u64) << 12), 0, &rights).unwrap();
    }

    /// The other CPU writes to the page, if its tables let it: it remembers the entry. (A CPU reads an entry and
    /// marks it in one locked operation.)
    fn touch(&self) {
        let entry = Entry(self.entry.fetch_and(u64::MAX, SeqCst));
        if entry.is_present() && entry.is_writable() {
            self.hv.machine().cpu(OTHER).pages.insert(PAGE as u64, entry);
        }
    }
}

/// The other CPU uses the page, flushes for a reason of its own, and uses it again.
fn use_and_flush(world: &World) {
    on_cpu(OTHER);
    world.touch();
    world.hv.memory.flush_cpus(1 << OTHER);
    world.touch();
}

/// The page loses its entry, and becomes a table.
fn retype(world: &World) {
    on_cpu(0);
    world.unmap();
    let guest = world.guest.lock().unwrap();
    let mut editor = Editor::open(&world.hv.memory, &guest.domain.memory).unwrap();
    editor.pin(world.page, 1).unwrap();
    let remembers = world.hv.machine().cpu(OTHER).pages.contains_key(&(PAGE as u64));
    assert!(!remembers, "law 1: a CPU can write to a page table");
}

#[test]
fn a_page_is_a_table_only_when_no_cpu_can_write_to_it_any_more() {
    println!("{} ways", check(World::new(), 2, &[use_and_flush, retype], World::forget));
}

/// Somebody else takes the page to write to it, and lets go.
fn write(world: &World) {
    on_cpu(OTHER);
    let memory = &world.hv.memory;
    let owner = memory.frames.state(world.page).owner();
    if let Ok(held) = memory.hold_writable(world.page, owner) {
        let state = memory.frames.state(world.page);
        assert!(state.kind() == FrameType::Writable && state.uses() != 0, "law 1: {state:?}");
        drop(held);
    }
}

/// The page becomes a table, if nobody writes to it, and is none any more.
fn pin(world: &World) {
    on_cpu(0);
    let guest = world.guest.lock().unwrap();
    let mut editor = Editor::open(&world.hv.memory, &guest.domain.memory).unwrap();
    if editor.pin(world.page, 1).is_ok() {
        let state = world.hv.memory.frames.state(world.page);
        assert!(state.kind() == FrameType::L1 && state.is_validated(), "law 1: {state:?}");
        editor.unpin(world.page).unwrap();
    }
}

fn nobody_has_the_page(world: &World) {
    let state = world.hv.memory.frames.state(world.page);
    assert_eq!((state.refs(), state.uses()), (1, 0), "{state:?}");
    world.forget();
}

#[test]
fn who_writes_to_a_page_and_who_makes_it_a_table_keep_each_other_out() {
    let world = World::new();
    // Nothing maps it, and it is empty.
    world.unmap();
    world.hv.machine().clear(world.page);
    println!("{} ways", check(world, 2, &[write, pin], nobody_has_the_page));
}
