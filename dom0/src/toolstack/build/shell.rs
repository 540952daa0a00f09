//! A guest's domain before anything is in it.

use alloc::{format, vec::Vec};
use core::sync::atomic::Ordering;

use anyhow::{Context, Result, bail};
use oxen_abi::domctl::{ArchDomainconfig, DomctlCreatedomain};
use oxen_abi::domid::DomId;
use oxen_abi::errno::Errno;
use oxen_abi::grant_table::{GNTTAB_RESERVED_CONSOLE, GNTTAB_RESERVED_XENSTORE, GrantFlags};
use oxen_abi::memory::{XENMAPSPACE_GRANT_TABLE, XENMAPSPACE_SHARED_INFO};
use oxen_abi::sysctl::Capabilities;
use oxen_domu_lib::memory::{
    Mfn, Pfn,
    map::{Access, Mapping, Words},
};
use oxen_domu_lib::{control, task};
use zerocopy::FromZeros;

use super::BATCH;
use super::layout::PAGE;
use crate::errno::Named;

/// What a domain may have beyond its maximum: pages that the toolstack and Xen's own tools count as overhead, in KiB.
const OVERHEAD: u64 = 1024;

/// What a domain is made with.
#[derive(Clone, Debug)]
pub struct Shell {
    /// Its number among others' files.
    pub uuid: [u8; 16],
    /// Pages at the start.
    pub pages: u64,
    /// KiB that it may grow to.
    pub maximum: u64,
    /// Virtual processors.
    pub vcpus: u32,
    /// The greatest version that its grant table may have; the hypervisor's without.
    pub max_grant_version: Option<u32>,
    /// How it has its time stamp counter, a `TSC_MODE_*`; the hypervisor's choice without.
    pub tsc_mode: Option<u32>,
    /// Whether the hypervisor translates its frames for it.
    pub is_translated: bool,
}

/// Frames for translations that a vcpu wants, and pages of memory for each of which one more is wanted.
const TRANSLATION_PER_VCPU: u64 = 128;
const PAGES_PER_TRANSLATION: u64 = 128;

/// Frames' worth of mappings of others' grants that a guest may hold, 256 each: enough for one that serves some others.
/// The hypervisor's own limit, which is for dom0, would let each guest take 2 MiB of its memory.
const MAX_MAPTRACK_FRAMES: i32 = 64;

impl Shell {
    /// Makes the domain.
    ///
    /// # Errors
    /// What the hypervisor refuses.
    pub fn make(&self) -> Result<DomId> {
        let request = DomctlCreatedomain {
            handle: self.uuid,
            max_vcpus: self.vcpus,
            max_evtchn_port: 1023,
            max_grant_frames: -1,
            max_maptrack_frames: MAX_MAPTRACK_FRAMES,
            grant_opts: self.max_grant_version.map_or_else(greatest_grant_version, Ok)?,
            arch: ArchDomainconfig::new_zeroed(),
            ..DomctlCreatedomain::new_zeroed()
        };
        let made = match control::create_domain(&request) {
            // The hypervisor's command line may allow less; a negative number asks for what it allows.
            Err(Errno::Inval) => control::create_domain(&DomctlCreatedomain { max_maptrack_frames: -1, ..request }),
            made => made,
        };
        asked("create the domain", made)
    }

    /// Gives it vcpus, a limit of its memory, and its two ports: for the store and the console.
    ///
    /// # Errors
    /// What the hypervisor refuses.
    pub fn equip(&self, domain: DomId) -> Result<(u32, u32)> {
        asked("make its vcpus", control::set_max_vcpus(domain, self.vcpus))?;
        if self.is_translated {
            let frames = TRANSLATION_PER_VCPU * u64::from(self.vcpus) + self.end() / PAGES_PER_TRANSLATION;
            let mib = u32::try_from(frames.div_ceil(256)).unwrap_or(u32::MAX);
            asked("translate its frames", control::translate(domain, mib))?;
        }
        if let Some(mode) = self.tsc_mode {
            asked("choose its time stamp counter", control::set_tsc_mode(domain, mode))?;
        }
        asked("limit its memory", control::set_max_memory(domain, self.maximum + OVERHEAD))?;
        // The kernel learns how far it may grow; what it has now stands in start_info.
        let bytes = (self.maximum << 10).max(self.pages * PAGE);
        asked("tell it its memory", control::set_memory_map(domain, bytes))?;
        let open = || asked("open its event channels", control::open_port(domain));
        Ok((open()?, open()?))
    }

    /// The page behind the last one that it may ever have.
    fn end(&self) -> u64 {
        (self.maximum >> 2).max(self.pages)
    }

    /// Puts what the hypervisor shares with it into its memory, if its frames are translated: `shared_info` behind its
    /// last page, then its grant table, of which the first frame is needed now.
    ///
    /// # Errors
    /// What the hypervisor refuses.
    pub fn place_shared(&self, domain: DomId) -> Result<()> {
        if !self.is_translated {
            return Ok(());
        }
        for (space, page) in [(XENMAPSPACE_SHARED_INFO, self.end()), (XENMAPSPACE_GRANT_TABLE, self.end() + 1)] {
            asked("place what it shares", control::add_to_physmap(domain, space, 0, Pfn::new(page)))?;
        }
        Ok(())
    }

    /// Whether the machine has memory for it.
    ///
    /// # Errors
    /// It has too little.
    pub fn has_room(&self) -> Result<()> {
        let free = control::physical_info().map_or(u64::MAX, |info| info.free_pages);
        if free < self.pages {
            bail!(self.lacking(free));
        }
        Ok(())
    }

    fn lacking(&self, free: u64) -> alloc::string::String {
        let mib = |pages: u64| pages >> 8;
        let (has, wants) = (mib(free), mib(self.pages));
        format!("the machine has {has} MiB free, too few for {wants} MiB; end or shrink another guest (xl mem-set)")
    }

    /// Gives it memory; returns the frame behind each page.
    ///
    /// # Errors
    /// The machine has too little.
    pub async fn populate(&self, domain: DomId) -> Result<Vec<Mfn>> {
        self.has_room()?;
        let pages: Vec<Pfn> = (0..self.pages).map(Pfn::new).collect();
        let mut frames = Vec::with_capacity(pages.len());
        for chunk in pages.chunks(BATCH) {
            let Ok(given) = control::populate_physmap(domain, chunk) else {
                bail!(self.lacking(control::physical_info().map_or(0, |info| info.free_pages)));
            };
            frames.extend(given);
            task::yield_now().await;
        }
        Ok(frames)
    }
}

/// Puts the grants for the two rings where frontends and other backends expect them.
///
/// # Errors
/// What the hypervisor refuses.
pub fn offer_rings(domain: DomId, store: Mfn, console: Mfn) -> Result<()> {
    let frame = asked("show its grant table", control::grant_table_frame(domain))?;
    let table = asked("map its grant table", Mapping::of(domain, &[frame], Access::ReadWrite))?;
    for (reference, ring) in [(GNTTAB_RESERVED_CONSOLE, console), (GNTTAB_RESERVED_XENSTORE, store)] {
        // flags, domid (dom0), frame: one word of 64 bits.
        let entry = u64::from(GrantFlags::PERMIT_ACCESS.bits()) | ring.raw() << 32;
        let index = usize::try_from(reference).unwrap_or(usize::MAX);
        if let Some(word) = table.words64().get(index) {
            word.store(entry, Ordering::Relaxed);
        }
    }
    Ok(())
}

/// The greatest version of grant tables that the hypervisor has.
fn greatest_grant_version() -> Result<u32> {
    let machine = asked("tell what it can", control::physical_info())?;
    let capabilities = Capabilities::from_bits_retain(machine.capabilities);
    Ok(if capabilities.contains(Capabilities::GNTTAB_V2) { 2 } else { 1 })
}

/// What the hypervisor refuses, in words.
///
/// # Errors
/// The refusal.
pub fn asked<T>(what: &str, answer: Result<T, Errno>) -> Result<T> {
    answer.map_err(Named).with_context(|| format!("the hypervisor refuses to {what}"))
}
