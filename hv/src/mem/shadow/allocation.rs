//! Memory for shadows: how much a domain may have, taken and given back step by step; and shadows turned on and off.

use super::{
    super::{Hardware, PagingDomain, frame_type::Owner},
    MODES, Root, Shadow,
    bitmap::Bitmap,
    follow::begin_root,
    index::{self, Index},
    pool::Pool,
};
use crate::{
    addr::Mfn,
    config::PREEMPT_INTERVAL,
    heap,
    mem::{Memory, RamFrame},
    reply::Stop,
};
use alloc::boxed::Box;
use core::sync::atomic::Ordering;
use oxen_abi::errno::Errno;

/// Frames for shadows that each vcpu that a domain may have needs at least, as Xen counts: more than any one
/// instruction can touch, and as much again.
const FRAMES_PER_VCPU: u32 = 128;
/// Of them, those that the log may not have.
const SHADOWS_PER_VCPU: u32 = 64;
/// Frames of a domain for each of which one more is needed.
const FRAMES_PER_FRAME: u32 = 256;
/// The work of taking a frame or giving one back, in units.
const FRAME_UNITS: u32 = 8;
/// Frames that are taken out of the pool at once.
const BATCH: usize = 32;

impl Shadow {
    fn new(roots: Box<[Root]>) -> Self {
        Self {
            is_on: false,
            is_logging: false,
            pool: Pool::default(),
            index: Index::new(Box::default()),
            roots,
            dirty: Bitmap::default(),
            lent: Bitmap::default(),
            loans: 0,
            stats: super::Stats::default(),
            round: 0,
            has_missed: false,
            translated: None,
        }
    }

    /// All frames that it has.
    pub(super) fn frames(&self) -> u32 {
        let roots = self.roots.iter().filter(|root| root.frame.is_some()).count();
        self.pool.count() + (self.index.frames().len() + roots) as u32
    }
}

impl<M: Hardware> Memory<M> {
    /// Frames that a domain has for shadows, of all kinds.
    #[must_use]
    pub fn shadow_allocation(&self, owner: Owner) -> u32 {
        self.shadows.of(owner).as_deref().and_then(Option::as_deref).map_or(0, Shadow::frames)
    }

    /// Fewer frames than these a domain with `vcpus` does not have, if it has any.
    #[must_use]
    pub fn min_shadow_allocation(&self, owner: Owner, vcpus: u32) -> u32 {
        let frames = owner.slot().map_or(0, |slot| self.frames.reserved(slot));
        vcpus * FRAMES_PER_VCPU + frames / FRAMES_PER_FRAME
    }

    /// Gives a domain, which may have `vcpus`, so many frames for shadows in all.
    ///
    /// # Errors
    /// `NoMem` when there are not so many; what has been given meanwhile stays. `Unfinished`: call again.
    pub fn set_shadow_allocation(&self, domain: &PagingDomain, vcpus: u32, wanted: u32) -> Result<(), Stop> {
        let owner = domain.owner;
        if wanted.saturating_sub(self.shadow_allocation(owner)) > self.frames.free_frames() {
            // Nobody is served by a machine without memory.
            return Err(Errno::NoMem.into());
        }
        self.begin_shadows(owner, vcpus, wanted)?;
        if let Some(shadow) = self.shadows.of(owner).as_deref_mut().and_then(Option::as_deref_mut) {
            shadow.pool.set_reserve((vcpus * SHADOWS_PER_VCPU).min(wanted / 2));
        }
        let mut spent = 0;
        loop {
            let has = self.shadow_allocation(owner);
            if has == wanted {
                return Ok(());
            }
            if spent >= PREEMPT_INTERVAL {
                return Err(Stop::Unfinished);
            }
            if has < wanted {
                let frame = self.take_own(0)?;
                if let Some(shadow) = self.shadows.of(owner).as_deref_mut().and_then(Option::as_deref_mut) {
                    shadow.pool.add(self, frame);
                }
                spent += FRAME_UNITS;
            } else {
                match self.shrink_pool(owner, (has - wanted) as usize, false) {
                    // The rest is in use by the log.
                    0 => return Ok(()),
                    gone => spent += FRAME_UNITS * gone as u32,
                }
            }
        }
    }

    /// Makes what holds shadows together, with an index for so many frames; or another index.
    fn begin_shadows(&self, owner: Owner, vcpus: u32, frames: u32) -> Result<(), Errno> {
        let size = index::frames_for(frames) as usize;
        let has = self.shadows.of(owner).as_deref().and_then(Option::as_deref).map(|s| s.index.frames().len());
        if has == Some(size) {
            return Ok(());
        }
        let index = self.take_index(size)?;
        if has.is_some() {
            let old = self.shadows.of(owner).as_deref_mut().and_then(Option::as_deref_mut).map(|shadow| {
                shadow.drop_all(self, owner);
                core::mem::replace(&mut shadow.index, Index::new(index))
            });
            old.iter().flat_map(Index::frames).for_each(|&frame| self.give_back_own(frame.mfn()));
            return Ok(());
        }
        let made = heap::row(&self.machine, MODES * vcpus as usize, |_| Root::default())
            .and_then(|roots| heap::own(&self.machine, Shadow::new(roots)));
        let mut shadow = made.inspect_err(|_| index.iter().for_each(|&frame| self.give_back_own(frame.mfn())))?;
        shadow.index = Index::new(index);
        if let Some(mut place) = self.shadows.of(owner) {
            *place = Some(shadow);
        }
        Ok(())
    }

    fn take_index(&self, size: usize) -> Result<Box<[RamFrame]>, Errno> {
        let mut taken = 0;
        let mut failed = None;
        let nothing = RamFrame::counted(Mfn::new(0).ok_or(Errno::NoMem)?);
        let frames = heap::row(&self.machine, size, |_| match self.take_own(0) {
            Ok(frame) if failed.is_none() => {
                taken += 1;
                frame
            }
            Ok(frame) => {
                self.give_back_own(frame.mfn());
                nothing
            }
            Err(error) => {
                failed = Some(error);
                nothing
            }
        })?;
        let Some(error) = failed else { return Ok(frames) };
        frames.iter().take(taken).for_each(|&frame| self.give_back_own(frame.mfn()));
        Err(error)
    }

    /// Gives frames of the pool back, at most `count`, and not those that shadows cannot do
    /// without unless they end; how many.
    fn shrink_pool(&self, owner: Owner, count: usize, is_end: bool) -> usize {
        let mut gone: heapless::Vec<RamFrame, BATCH> = heapless::Vec::new();
        if let Some(shadow) = self.shadows.of(owner).as_deref_mut().and_then(Option::as_deref_mut) {
            shadow.drop_all(self, owner);
            while gone.len() < count.min(BATCH)
                && (is_end || shadow.pool.has_spare())
                && let Some(frame) = shadow.pool.remove(self)
            {
                // There is room for a batch.
                let _ = gone.push(frame);
            }
        }
        gone.iter().for_each(|&frame| self.give_back_own(frame.mfn()));
        gone.len()
    }

    /// Has a domain, none of whose vcpus is on a CPU, run on shadows from now on; it has memory for them.
    ///
    /// # Errors
    /// `NoMem` if there is none.
    pub(super) fn turn_shadows_on(&self, domain: &PagingDomain, is_logging: bool) -> Result<(), Errno> {
        let owner = domain.owner;
        let mut paging = domain.paging.lock();
        let mut shadows = self.shadows.of(owner).ok_or(Errno::NoMem)?;
        let shadow = shadows.as_deref_mut().ok_or(Errno::NoMem)?;
        let home = owner.slot().ok_or(Errno::NoMem)? << 16;
        for number in 0..shadow.roots.len() {
            if shadow.roots.get(number).is_some_and(|root| root.frame.is_none()) {
                let frame = shadow.pool.remove(self).ok_or(Errno::NoMem)?;
                begin_root(self, frame);
                self.frames.set_aux(frame.mfn(), (home | number) as u32);
                if let Some(root) = shadow.roots.get_mut(number) {
                    *root = Root { frame: Some(frame), source: None };
                }
            }
        }
        if !core::mem::replace(&mut shadow.is_on, true) {
            self.shadows.running.fetch_add(1, Ordering::SeqCst);
        }
        if is_logging && !shadow.is_logging {
            shadow.is_logging = true;
            self.shadows.logging.fetch_add(1, Ordering::SeqCst);
        }
        // What was writable so far is in no log.
        shadow.drop_all(self, owner);
        paging.set_shadowed(true, domain.judged.is_some());
        domain.is_shadowed.store(true, Ordering::SeqCst);
        Ok(())
    }

    /// Has a domain, none of whose vcpus is on a CPU, run on its own tables again, and
    /// gives back all memory for shadows.
    ///
    /// # Errors
    /// `Unfinished`: call again.
    pub fn end_shadows(&self, domain: &PagingDomain) -> Result<(), Stop> {
        let owner = domain.owner;
        self.end_translation(owner)?;
        {
            let mut paging = domain.paging.lock();
            let Some(mut shadows) = self.shadows.of(owner) else { return Ok(()) };
            let Some(shadow) = shadows.as_deref_mut() else { return Ok(()) };
            shadow.turn_off(self, owner);
            paging.set_shadowed(false, domain.judged.is_some());
            domain.is_shadowed.store(false, Ordering::SeqCst);
        }
        let mut spent = 0;
        loop {
            match self.shrink_pool(owner, BATCH, true) {
                0 => break,
                gone => spent += FRAME_UNITS * gone as u32,
            }
            if spent >= PREEMPT_INTERVAL {
                return Err(Stop::Unfinished);
            }
        }
        // The heap's frames go back without the lock.
        let last = self.shadows.of(owner).and_then(|mut shadows| shadows.take());
        if let Some(shadow) = last {
            shadow.index.frames().iter().for_each(|&frame| self.give_back_own(frame.mfn()));
        }
        Ok(())
    }
}

impl Shadow {
    /// All that is in use for something is in the pool again.
    fn turn_off<M: Hardware>(&mut self, memory: &Memory<M>, owner: Owner) {
        if core::mem::take(&mut self.is_on) {
            memory.shadows.running.fetch_sub(1, Ordering::SeqCst);
        }
        if core::mem::take(&mut self.is_logging) {
            memory.shadows.logging.fetch_sub(1, Ordering::SeqCst);
        }
        self.drop_all(memory, owner);
        if let Some(translated) = &mut self.translated {
            translated.end();
        }
        self.dirty = Bitmap::default();
        self.lent = Bitmap::default();
        self.loans = 0;
        self.pool.release_kept(memory);
        for root in &mut self.roots {
            root.source = None;
            if let Some(frame) = root.frame.take() {
                self.pool.add(memory, frame);
            }
        }
    }
}
