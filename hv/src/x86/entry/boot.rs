//! From the boot loader's 32-bit world into Rust: the Multiboot headers, the early page tables, long mode.
//!
//! Multiboot 1 (QEMU's `-kernel`) and Multiboot 2 (GRUB) both enter `boot_entry` with paging off, the magic in EAX
//! and the machine address of the information in EBX. The early tables map the first 4 GiB twice, one to one and in the
//! direct map, and the image at its link address; `memory::tables` replaces them.

use super::super::percpu::STACK_BYTES;
use super::super::running::BLOCK_OFFSET;
use super::super::smp;
use super::secondary::START_PAGE;
use core::arch::global_asm;
use oxen_hv::layout::IMAGE_START;

const MULTIBOOT1_MAGIC: u32 = 0x1bad_b002;
/// Page-aligned modules, memory information, and address fields (the "a.out kludge": the loader need not know ELF64).
const MULTIBOOT1_FLAGS: u32 = 0x0001_0003;
const MULTIBOOT2_MAGIC: u32 = 0xe852_50d6;

global_asm!(
    include_str!("boot.s"),
    include_str!("secondary.s"),
    mb1_magic = const MULTIBOOT1_MAGIC,
    mb1_flags = const MULTIBOOT1_FLAGS,
    mb2_magic = const MULTIBOOT2_MAGIC,
    offset = const IMAGE_START,
    stack_bytes = const STACK_BYTES,
    stack_top = const BLOCK_OFFSET,
    start = sym crate::start,
    page = const START_PAGE,
    secondary_stack = sym smp::STARTING_STACK,
    secondary_start = sym smp::start,
    options(att_syntax)
);
