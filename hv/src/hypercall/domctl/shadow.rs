//! Shadow page tables of a guest, and the log of what it writes to
//! (`xen_domctl_shadow_op`): see [`crate::mem::shadow`].

use super::{Answer, Outcome};
use crate::hypercall::number::{long, uint};
use crate::{
    addr::PAGE_SHIFT,
    caller::Caller,
    config::PREEMPT_INTERVAL,
    domain::Domain,
    machine::Machine,
    mem::{
        RamFrame,
        editor::Editor,
        guest_ptr::GuestPtr,
        shadow::log::{Operator, PART_BITS, Part, Step},
    },
    reply::{Control, Stop},
};
use alloc::sync::Arc;
use core::sync::atomic::Ordering;
use oxen_abi::{
    domctl::{
        Domctl, DomctlShadowOp, DomctlShadowOpStats, OXEN_DOMCTL_SHADOW_ENABLE_TRANSLATED,
        XEN_DOMCTL_SHADOW_ENABLE_LOG_DIRTY, XEN_DOMCTL_SHADOW_LOGDIRTY_FINAL, XEN_DOMCTL_SHADOW_OP_CLEAN,
        XEN_DOMCTL_SHADOW_OP_ENABLE, XEN_DOMCTL_SHADOW_OP_ENABLE_LOGDIRTY, XEN_DOMCTL_SHADOW_OP_ENABLE_TEST,
        XEN_DOMCTL_SHADOW_OP_GET_ALLOCATION, XEN_DOMCTL_SHADOW_OP_OFF, XEN_DOMCTL_SHADOW_OP_PEEK,
        XEN_DOMCTL_SHADOW_OP_SET_ALLOCATION,
    },
    domid::DomId,
    errno::Errno,
};

/// Frames in a MiB, by which the interface counts.
const MIB_SHIFT: u32 = 20 - PAGE_SHIFT;
/// Where Xen keeps a mode in a word of 32 bits: what does not fit means nothing.
const MODE_SHIFT: u32 = 10;
/// Of more pages Xen loses count while it rounds them up to bytes: it tells of none.
const MAX_PAGES: u64 = u64::MAX - 7;
/// The work of copying a part of the log out, in units.
const PART_UNITS: u32 = 8;

/// An operation on the shadows of a domain, which one CPU at a time does.
struct ShadowOp<'a, 'b, M: Machine> {
    caller: &'a Caller<'b, M>,
    operator: Operator<'a>,
    domain: &'a Arc<Domain>,
    request: &'a mut DomctlShadowOp,
}

impl<M: Machine> Caller<'_, M> {
    /// Does what is asked; the request is copied back whatever comes of it.
    pub(super) fn shadow_op(&self, _: Control, domain: &Arc<Domain>, op: &mut Domctl) -> Outcome {
        let mut request: DomctlShadowOp = op.get();
        let operator = self.hv.memory.operate_shadows()?;
        let done = ShadowOp { caller: self, operator, domain, request: &mut request }.act();
        op.set(&request);
        match done {
            Ok(()) => Ok(Answer::CopyBack),
            Err(Stop::Refused(error)) => Ok(Answer::CopyBackAnd(error)),
            Err(other) => Err(other),
        }
    }
}

impl<M: Machine> ShadowOp<'_, '_, M> {
    fn act(&mut self) -> Result<(), Stop> {
        self.caller.other_than_self(self.domain)?;
        if self.domain.memory.is_dying.load(Ordering::Acquire) {
            return Ok(());
        }
        self.domain.vcpu(0).ok_or(Errno::Inval)?;
        let op = self.request.op;
        if op == XEN_DOMCTL_SHADOW_OP_GET_ALLOCATION {
            self.tell_allocation();
            return Ok(());
        }
        let step = self.caller.hv.memory.shadow_step(&self.operator, &self.domain.memory, op)?;
        // What a domain's numbers mean does not end before the domain, and its writes are not logged.
        if self.domain.memory.is_translated() && op != XEN_DOMCTL_SHADOW_OP_SET_ALLOCATION {
            return Err(Errno::Inval.into());
        }
        let is_logging = self.request.mode & XEN_DOMCTL_SHADOW_ENABLE_LOG_DIRTY != 0;
        match op {
            XEN_DOMCTL_SHADOW_OP_OFF => self.turn_off(),
            XEN_DOMCTL_SHADOW_OP_ENABLE_LOGDIRTY => self.turn_on(step, true),
            XEN_DOMCTL_SHADOW_OP_ENABLE if is_logging => self.turn_on(step, true),
            XEN_DOMCTL_SHADOW_OP_ENABLE if self.request.mode == OXEN_DOMCTL_SHADOW_ENABLE_TRANSLATED => {
                self.translate()
            }
            // Guests with hardware's help there are none.
            XEN_DOMCTL_SHADOW_OP_ENABLE if self.request.mode << MODE_SHIFT != 0 => Err(Errno::Inval.into()),
            XEN_DOMCTL_SHADOW_OP_ENABLE | XEN_DOMCTL_SHADOW_OP_ENABLE_TEST => self.turn_on(step, false),
            XEN_DOMCTL_SHADOW_OP_CLEAN | XEN_DOMCTL_SHADOW_OP_PEEK => self.read(step),
            XEN_DOMCTL_SHADOW_OP_SET_ALLOCATION => self.set_allocation(),
            _ => Err(Errno::Inval.into()),
        }
    }

    fn tell_allocation(&mut self) {
        let frames = self.caller.hv.memory.shadow_allocation(self.domain.owner());
        self.request.mb = frames.div_ceil(1 << MIB_SHIFT);
    }

    fn set_allocation(&mut self) -> Result<(), Stop> {
        let (hv, owner) = (self.caller.hv, self.domain.owner());
        // Xen counts frames in 32 bits, and what does not fit is lost.
        let frames = self.request.mb << MIB_SHIFT;
        if frames == 0 {
            if hv.memory.shadow_mode(owner).0 {
                return Err(Errno::Inval.into());
            }
            hv.memory.end_shadows(&self.domain.memory)?;
        } else {
            self.take_memory(frames)?;
        }
        self.tell_allocation();
        Ok(())
    }

    /// Takes so many frames, or as few as the domain must have.
    fn take_memory(&self, frames: u32) -> Result<(), Stop> {
        let (memory, vcpus) = (&self.caller.hv.memory, self.domain.max_vcpus.load(Ordering::Relaxed));
        let least = memory.min_shadow_allocation(self.domain.owner(), vcpus);
        memory.set_shadow_allocation(&self.domain.memory, vcpus, frames.max(least))
    }

    /// Pauses the domain, and waits until no CPU has a vcpu of it.
    fn pause(&self) {
        self.caller.hv.pause_domain(self.domain);
        self.caller.hv.wait_until_domain_off(self.domain);
    }

    fn unpause(&self) {
        self.caller.hv.unpause_domain(self.domain);
    }

    /// Leaves the operation here, to be gone on with, or ends it.
    fn set_step(&self, step: Option<Step>) {
        let (memory, op) = (&self.caller.hv.memory, self.request.op);
        memory.set_shadow_step(&self.operator, &self.domain.memory, op, step);
    }

    fn turn_off(&self) -> Result<(), Stop> {
        self.pause();
        let ended = self.caller.hv.memory.end_shadows(&self.domain.memory);
        self.set_step(ended.is_err().then_some(Step::Begin));
        self.unpause();
        ended
    }

    fn turn_on(&self, step: Step, is_logging: bool) -> Result<(), Stop> {
        let (hv, owner) = (self.caller.hv, self.domain.owner());
        let mut next = match step {
            Step::Find(next) => next,
            Step::GiveUp => return self.give_up(),
            _ => {
                let (is_on, logs) = hv.memory.shadow_mode(owner);
                if logs || is_on && !is_logging {
                    return Err(Errno::Inval.into());
                }
                self.begin(is_logging)?;
                0
            }
        };
        if is_logging {
            self.find_lent(&mut next)?;
        }
        self.set_step(None);
        Ok(())
    }

    /// Has the frames of a domain be translated for it, which has none yet.
    fn translate(&self) -> Result<(), Stop> {
        let (memory, owner) = (&self.caller.hv.memory, self.domain.owner());
        let has_frames = owner.slot().is_none_or(|slot| memory.frames.reserved(slot) != 0);
        if has_frames || self.domain.has_begun() || self.domain.is_privileged() || memory.shadow_mode(owner).0 {
            return Err(Errno::Inval.into());
        }
        let begun = self.take_memory(memory.shadow_allocation(owner));
        match begun.and_then(|()| Ok(memory.begin_translation(&self.domain.memory)?)) {
            Err(Stop::Refused(_)) => self.give_up(),
            begun => begun,
        }
    }

    fn begin(&self, is_logging: bool) -> Result<(), Stop> {
        let (hv, owner) = (self.caller.hv, self.domain.owner());
        let is_on = hv.memory.shadow_mode(owner).0;
        if !is_on {
            match self.take_memory(hv.memory.shadow_allocation(owner)) {
                Err(Stop::Refused(_)) => return self.give_up(),
                taken => taken?,
            }
        }
        self.pause();
        let begun = hv.memory.begin_log(&self.operator, &self.domain.memory, is_logging);
        self.mark_held();
        self.unpause();
        begun?;
        if is_logging {
            self.await_batches();
        }
        Ok(())
    }

    /// What was taken for shadows that cannot be had in full goes back.
    fn give_up(&self) -> Result<(), Stop> {
        let ended = self.caller.hv.memory.end_shadows(&self.domain.memory);
        self.set_step(ended.is_err().then_some(Step::GiveUp));
        ended?;
        Err(Errno::NoMem.into())
    }

    /// Whoever was changing page tables before writes were logged has come to an end.
    fn await_batches(&self) {
        for domain in self.caller.hv.domains.from(DomId::DOM0) {
            drop(Editor::lock(&self.caller.hv.memory, &domain.memory));
        }
    }

    /// Goes through the tables of others, and notes how far it has come where it is interrupted.
    fn find_lent(&self, next: &mut usize) -> Result<(), Stop> {
        let found = self.caller.hv.memory.find_lent(self.domain.owner(), next);
        found.inspect_err(|_| self.set_step(Some(Step::Find(*next))))
    }

    /// Marks what the hypervisor holds of the paused domain's, to write to it whenever it likes, and what
    /// devices of others may write to.
    fn mark_held(&self) {
        let (memory, domain) = (&self.caller.hv.memory, self.domain);
        let mark = |frame: RamFrame| memory.mark_lent(domain.owner(), frame.mfn());
        for vcpu in domain.each_vcpu() {
            if let Some(state) = vcpu.slot.lock().as_ref() {
                state.gdt.iter().chain(&state.ldt).flatten().for_each(|&frame| mark(frame));
            }
            vcpu.info_frame.lock().iter().for_each(|&frame| mark(frame));
        }
        domain
            .grants
            .lock()
            .each_pin()
            .filter(|pin| pin.4 != 0)
            .for_each(|pin| memory.mark_lent(domain.owner(), pin.1));
        domain.events.each_frame(mark);
        domain.pirqs.lock().page.iter().for_each(|&frame| mark(frame));
    }

    /// Reads the log, and cleans it if that is asked for: then the domain is paused until all is done.
    fn read(&mut self, step: Step) -> Result<(), Stop> {
        if self.request.mode & !XEN_DOMCTL_SHADOW_LOGDIRTY_FINAL != 0 {
            return Err(Errno::Inval.into());
        }
        let is_cleaned = self.request.op == XEN_DOMCTL_SHADOW_OP_CLEAN;
        if is_cleaned && step == Step::Begin {
            self.pause();
        }
        let done = self.read_from(step, is_cleaned);
        if done == Err(Stop::Unfinished) {
            return done;
        }
        self.set_step(None);
        if is_cleaned {
            // Where not all could be told, some of the log may be clean all the same.
            self.caller.hv.memory.end_round(&self.operator, self.domain.owner());
            self.unpause();
        }
        done
    }

    fn read_from(&mut self, step: Step, is_cleaned: bool) -> Result<(), Stop> {
        let (memory, owner) = (&self.caller.hv.memory, self.domain.owner());
        let mut first = 0;
        match step {
            Step::Read(page) => first = page,
            _ if is_cleaned && memory.shadow_mode(owner).1 => {
                let mut next = 0;
                if let Step::Find(frame) = step {
                    next = frame;
                } else {
                    memory.log_lent(&self.operator, owner);
                    self.mark_held();
                }
                self.find_lent(&mut next)?;
            }
            _ => {}
        }
        let stats = memory.log_stats(owner);
        self.request.stats = DomctlShadowOpStats { fault_count: stats.faults, dirty_count: stats.dirty };
        if memory.has_log_missed(owner) {
            return Err(Errno::NoMem.into());
        }
        self.copy_out(first, is_cleaned)
    }

    /// Copies the log to the caller's bitmap from a page on, part by part.
    fn copy_out(&mut self, mut first: u64, is_cleaned: bool) -> Result<(), Stop> {
        if self.request.pages > MAX_PAGES {
            (self.request.pages, self.request.dirty_bitmap) = (0, 0);
        }
        let pages = self.request.pages;
        let mut spent = 0_u32;
        while first < pages {
            if spent >= PREEMPT_INTERVAL {
                self.set_step(Some(Step::Read(first)));
                return Err(Stop::Unfinished);
            }
            if self.request.dirty_bitmap == 0 {
                // The caller may want no more than that it is clean.
                let next = self.caller.hv.memory.next_in_log(self.domain.owner(), first, pages);
                let Some(next) = next.filter(|_| is_cleaned) else { break };
                first = next;
            }
            self.copy_part(first, is_cleaned)?;
            first = first.saturating_add(PART_BITS);
            spent = spent.saturating_add(PART_UNITS);
        }
        Ok(())
    }

    fn copy_part(&self, first: u64, is_cleaned: bool) -> Result<(), Stop> {
        let (memory, owner) = (&self.caller.hv.memory, self.domain.owner());
        let part = memory.read_log(&self.operator, owner, first, is_cleaned);
        let told = self.tell_part(first, &part);
        if told.is_err() && is_cleaned {
            memory.restore_log(&self.operator, owner, first, &part);
        }
        Ok(told?)
    }

    fn tell_part(&self, first: u64, part: &Part) -> Result<(), Errno> {
        if self.request.dirty_bitmap == 0 {
            return Ok(());
        }
        let bytes = self.request.pages.saturating_sub(first).min(PART_BITS).div_ceil(8);
        let mut copy = [0; size_of::<Part>()];
        for (to, word) in copy.as_chunks_mut::<8>().0.iter_mut().zip(part) {
            *to = word.to_le_bytes();
        }
        let at = self.request.dirty_bitmap.checked_add(first / 8).ok_or(Errno::Fault)?;
        let told = copy.get(..crate::hypercall::number::index(uint(bytes))).ok_or(Errno::Fault)?;
        GuestPtr::<u8>::new(at, long(told.len()))?.write_many(self.caller.hv.machine(), 0, told)
    }
}
