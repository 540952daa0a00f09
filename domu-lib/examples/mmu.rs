//! A guest that makes address spaces: it maps different pages at the same address of two, switches between them, runs
//! user code in both, changes page tables under itself, and shows what the hypervisor refuses and why.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![forbid(unsafe_code)]

extern crate alloc;

use alloc::rc::Rc;
use core::sync::atomic::Ordering;

use oxen_abi::errno::Errno;
use oxen_domu_lib::memory::{AddressSpace, Frame, Mfn, PAGE_SIZE, Page, Rights, bits, is_translated, p2m};
use oxen_domu_lib::refusal::{self, Fault};
use oxen_domu_lib::{entry, println};

entry!(run);

/// Where both spaces map a page of data.
const DATA: u64 = 0x40_0000;
/// Where both spaces map the user's code.
const CODE: u64 = 0x80_0000;
/// Another address, whose page table is a different one.
const FAR: u64 = 0x7f00_0000_0000;

const READ_WRITE: Rights = Rights { write: true, execute: false };
const READ_ONLY: Rights = Rights { write: false, execute: false };
const EXECUTE: Rights = Rights { write: false, execute: true };

/// User code: `mov rax, [DATA]; inc qword ptr [DATA]; syscall; mov rax, [kernel]`.
const PROGRAM: [u8; 26] = [
    0x48, 0x8b, 0x04, 0x25, 0x00, 0x00, 0x40, 0x00, // mov rax, [0x400000]
    0x48, 0xff, 0x04, 0x25, 0x00, 0x00, 0x40, 0x00, // inc qword ptr [0x400000]
    0x0f, 0x05, // syscall
    0x48, 0x8b, 0x04, 0x25, 0x00, 0x00, 0x00, 0x80, // mov rax, [0xffffffff80000000]
];

fn run() {
    match show() {
        Ok(()) => println!("mmu: done"),
        Err(errno) => println!("mmu: {errno}, where nothing should be refused"),
    }
}

fn show() -> Result<(), Errno> {
    let (page_a, page_b) = (page(0xaaaa)?, page(0xbbbb)?);
    let (mut a, mut b) = (AddressSpace::new()?, AddressSpace::new()?);
    a.map(DATA, &page_a, READ_WRITE)?;
    b.map(DATA, &page_b, READ_WRITE)?;
    println!("mmu: space A has its root in frame {:#x}, B in frame {:#x}", a.root().raw(), b.root().raw());
    for (name, space) in [("A", &a), ("B", &b), ("A", &a)] {
        space.activate()?;
        let entry = space.entry(DATA).unwrap_or(0);
        println!("mmu: in {name}, {DATA:#x} holds {} (entry {entry:#018x})", seen(refusal::read(DATA)));
    }
    change_entries(&mut a, &page_a, &page_b)?;
    run_user(&mut a, &mut b)?;
    if is_translated() {
        own_tables(&mut a)?;
    } else {
        refusals(&mut a, &page_a)?;
    }
    AddressSpace::leave()?;
    drop((a, b));
    println!("mmu: both spaces taken apart; their tables are ordinary pages again");
    Ok(())
}

fn page(value: u64) -> Result<Rc<Page>, Errno> {
    let page = Page::zeroed().ok_or(Errno::NoMem)?;
    if let Some(word) = page.words64().first() {
        word.store(value, Ordering::Relaxed);
    }
    Ok(Rc::new(page))
}

/// Changes what an address means while the space is loaded.
fn change_entries(space: &mut AddressSpace, first: &Rc<Page>, second: &Rc<Page>) -> Result<(), Errno> {
    space.activate()?;
    space.unmap(DATA)?;
    println!("mmu: unmapped, {DATA:#x} is {}", seen(refusal::read(DATA)));
    space.map(DATA, second, READ_ONLY)?;
    println!("mmu: mapped read-only to B's page, it holds {}", seen(refusal::read(DATA)));
    println!("mmu: a write there is {}", done(refusal::write(DATA, 1)));
    space.map(DATA, first, READ_WRITE)?;
    println!("mmu: mapped to A's page again, a write is {}", done(refusal::write(DATA, 0xa1)));
    Ok(())
}

/// Runs the same user code in both spaces.
fn run_user(a: &mut AddressSpace, b: &mut AddressSpace) -> Result<(), Errno> {
    let code = Rc::new(Page::zeroed().ok_or(Errno::NoMem)?);
    for (byte, value) in code.bytes().iter().zip(PROGRAM) {
        byte.store(value, Ordering::Relaxed);
    }
    for (name, space) in [("A", a), ("B", b)] {
        space.map(CODE, &code, EXECUTE)?;
        let mut frame = Frame { rip: CODE, rsp: CODE, ..Frame::default() };
        space.run_user(&mut frame)?;
        println!("mmu: user code in {name} called the kernel with {:#x}", frame.rax);
        frame.rip = CODE + 18;
        space.run_user(&mut frame)?;
        println!("mmu: then it reached for the kernel: vector {} at {:#x}", frame.vector, frame.rip);
    }
    Ok(())
}

/// Where frames are translated nobody believes the tables, so that the guest may write to them itself; and what it does
/// not say by a flush, the processor does not know.
fn own_tables(space: &mut AddressSpace) -> Result<(), Errno> {
    space.activate()?;
    space.ensure(FAR)?;
    let table = space.table(DATA, 1).unwrap_or(Mfn::new(0));
    space.set_entry(FAR, table.entry(bits::DATA | bits::USER))?;
    let slot = FAR + (DATA / PAGE_SIZE as u64 % 512) * 8;
    println!("mmu: translated: its own table says {} for {DATA:#x}", seen(refusal::read(slot)));
    println!("mmu: translated: a store to it is {}", done(refusal::write(slot, 0)));
    space.activate()?;
    println!("mmu: translated: then {DATA:#x} is {}", seen(refusal::read(DATA)));
    let nowhere = Mfn::new(0x0f_ffff_ffff).entry(bits::DATA | bits::USER);
    space.set_entry(FAR, nowhere)?;
    println!("mmu: translated: where no frame is, there is {}", seen(refusal::read(FAR)));
    space.set_entry(FAR, 0)
}

/// Asks for what no guest may have.
fn refusals(space: &mut AddressSpace, page: &Rc<Page>) -> Result<(), Errno> {
    space.activate()?;
    space.ensure(FAR)?;
    // The first frame behind the machine's lowest 2 MiB that is somebody else's.
    let foreign = (0x200..).map(Mfn::new).find(|&frame| p2m::pfn(frame).is_none()).unwrap_or(Mfn::new(0));
    let table = space.table(DATA, 1).unwrap_or(Mfn::new(0));
    let entry = |frame: Mfn| frame.entry(bits::DATA | bits::USER);
    let show = |what: &str, result: Result<(), Errno>| match result {
        Ok(()) => println!("mmu: ALLOWED: {what}"),
        Err(errno) => println!("mmu: refused with {errno}: {what}"),
    };
    show("a writable mapping of a page table", space.set_entry(FAR, entry(table)));
    show("a writable mapping of the root", space.set_entry(FAR, entry(space.root())));
    show("a mapping of a frame that is not this guest's", space.set_entry(FAR, entry(foreign)));
    show("a mapping of a frame that no machine has", space.set_entry(FAR, entry(Mfn::new(0x0f_ffff_ffff))));
    show("a page table entry in the hypervisor's slots", space.set_root_entry(256 * 8, entry(page.mfn())));
    show("a data page in place of a table", space.set_root_entry(8, page.mfn().entry(bits::TABLE)));
    show("pinning a writable page as a page table", refusal::pin(page, 1));
    show("pinning a writable page as a root", refusal::pin(page, 4));
    show("unpinning what is not pinned", refusal::unpin(page));
    show("loading a writable page as the root", refusal::load_root(page));
    show("a mapping at the hypervisor's addresses", refusal::map_at_hypervisor(page));
    space.set_entry(FAR, 0)?;
    let read_only = table.entry(bits::READ_ONLY | bits::USER);
    show("(for comparison) a read-only mapping of a page table", space.set_entry(FAR, read_only));
    let slot = FAR + (DATA / PAGE_SIZE as u64 % 512) * 8;
    println!("mmu: through it, the entry reads {}", seen(refusal::read(slot)));
    println!("mmu: a store to it is {}", done(refusal::write(slot, 0)));
    Ok(())
}

fn seen(result: Result<u64, Fault>) -> alloc::string::String {
    match result {
        Ok(value) => alloc::format!("{value:#x}"),
        Err(fault) => {
            alloc::format!("a fault (vector {}, error {:#x}, address {:#x})", fault.vector, fault.error, fault.address)
        }
    }
}

fn done(result: Result<(), Fault>) -> alloc::string::String {
    result.map_or_else(|fault| seen(Err(fault)), |()| "carried out".into())
}
