//! The limits that this build knows.

/// Domains that can exist at once, dom0 included.
pub const MAX_DOMAINS: usize = 256;
/// Virtual CPUs of a domain. `shared_info` has room for the `vcpu_info` of the first 32 (`XEN_LEGACY_MAX_VCPUS`).
pub const MAX_VCPUS: usize = 128;
/// Physical CPUs.
pub const MAX_CPUS: usize = 32;
/// Event channel ports of a domain in the FIFO ABI; the two-level one has 4096.
pub const MAX_PORTS: usize = 1 << 17;
/// Lines of the interrupt controllers and messages of devices that dom0 may bind: one for each vector of 0x20 to 0xef.
pub const MAX_PIRQS: usize = 208;
/// Frames of a domain's grant table at most.
pub const MAX_GRANT_FRAMES: usize = 64;
/// Frames' worth of mappings of foreign grants that a domain may hold, as many as Xen's default.
pub const MAX_MAPTRACK_FRAMES: usize = 1024;
/// Mappings that the interface counts as a frame's worth: Xen keeps 16 bytes of each.
pub const MAPPINGS_PER_FRAME: usize = 256;
/// Seconds after which a CPU that does not answer is taken for dead. An emulator or a hypervisor around us
/// may not let it run for a while.
pub const CPU_PATIENCE: u64 = 60;
/// Units of work (table entries, batch entries) between two looks for something more urgent.
pub const PREEMPT_INTERVAL: u32 = 512;
/// Frames of the frame table that are looked at for one unit of work.
pub const FRAMES_PER_UNIT: usize = 32;
