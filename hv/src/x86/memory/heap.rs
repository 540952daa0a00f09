//! The heap: whole frames for domains and vcpus, set aside before they are asked for.

use super::super::percpu;
use core::alloc::{GlobalAlloc, Layout};
use core::ptr;
use core::sync::atomic::{AtomicBool, Ordering};
use oxen_abi::errno::Errno;
use oxen_hv::addr::{MachineAddr, Mfn, PAGE_BYTES};
use oxen_hv::layout::DIRECT_MAP_START;
use spin::Once;

/// Where the heap's frames come from and go to.
pub(crate) struct Source {
    /// Takes a block of frames, of an order.
    pub take: fn(u32) -> Result<Mfn, Errno>,
    /// Gives a frame back that no guest ever knew.
    pub give_back: fn(Mfn),
}

static SOURCE: Once<Source> = Once::new();

/// Says where frames come from. Once, at boot; until then there are none.
pub(crate) fn draw_from(source: Source) {
    SOURCE.call_once(|| source);
}

/// Whether what was not reserved is given as well.
static IS_OPEN: AtomicBool = AtomicBool::new(false);

/// Gives memory to whoever asks for as long as `step` takes: for the boot CPU, before any guest runs.
pub(crate) fn open_during<R>(step: impl FnOnce() -> R) -> R {
    IS_OPEN.store(true, Ordering::Relaxed);
    let result = step();
    IS_OPEN.store(false, Ordering::Relaxed);
    result
}

/// Sets frames aside for the next allocation on this CPU.
pub(crate) fn reserve(bytes: usize) -> Result<(), Errno> {
    release(percpu::this().reserve.take());
    let source = SOURCE.get().ok_or(Errno::NoMem)?;
    let pages = bytes.div_ceil(PAGE_BYTES);
    let order = pages.next_power_of_two().trailing_zeros();
    let first = (source.take)(order)?;
    // What the power of two is too much goes back at once.
    release(first.checked_add(pages as u64).map(|rest| (rest, (1 << order) - pages)));
    percpu::this().reserve.set(Some((first, pages)));
    Ok(())
}

/// Gives frames back that no guest ever knew.
fn release(frames: Option<(Mfn, usize)>) {
    let (Some((first, count)), Some(source)) = (frames, SOURCE.get()) else { return };
    for frame in (0..count as u64).filter_map(|i| first.checked_add(i)) {
        (source.give_back)(frame);
    }
}

/// The allocator behind `Box` and `Arc`. What was not reserved is refused, but in [`open_during`].
struct Frames;

// SAFETY: what `alloc` returns is whole frames of the direct map that nobody else has, aligned to a page and of the
// size asked; `dealloc` gives exactly those back.
unsafe impl GlobalAlloc for Frames {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let pages = layout.size().div_ceil(PAGE_BYTES);
        if layout.align() > PAGE_BYTES {
            return ptr::null_mut();
        }
        let take = || percpu::this().reserve.take();
        let open =
            || if IS_OPEN.load(Ordering::Relaxed) { reserve(layout.size()).ok().and_then(|()| take()) } else { None };
        let Some((first, reserved)) = take().or_else(open) else { return ptr::null_mut() };
        if reserved < pages {
            release(Some((first, reserved)));
            return ptr::null_mut();
        }
        release(first.checked_add(pages as u64).map(|rest| (rest, reserved - pages)));
        (DIRECT_MAP_START + first.address().as_u64()) as *mut u8
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        let first = Mfn::containing(MachineAddr::new(at as u64 - DIRECT_MAP_START));
        release(first.map(|first| (first, layout.size().div_ceil(PAGE_BYTES))));
    }
}

#[global_allocator]
static HEAP: Frames = Frames;
