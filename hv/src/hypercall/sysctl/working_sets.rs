//! The working sets of all domains, in periods that the control domain ends: see [`crate::mem::working_set`].

use crate::{
    addr::Mfn,
    caller::Caller,
    config::{FRAMES_PER_UNIT, PREEMPT_INTERVAL},
    domain::Domain,
    hypercall::number::{long, size, uint},
    machine::Machine,
    mem::{guest_ptr::GuestPtr, shadow::translated::Forget},
    reply::{Control, Stop},
};
use alloc::sync::Arc;
use oxen_abi::{
    domid::DomId,
    errno::Errno,
    sysctl::{SysctlWorkingSets, WorkingSet},
};

impl<M: Machine> Caller<'_, M> {
    /// Ends the period that runs for all domains and begins the next: one pass over all frames, in steps.
    ///
    /// # Errors
    /// `Fault` if the list cannot be written: then the period has ended all the same. `Unfinished`: call again.
    pub(super) fn watch_working_sets(&self, _: Control, request: &mut SysctlWorkingSets) -> Result<(), Stop> {
        let hv = self.hv;
        let list = GuestPtr::<WorkingSet>::new(request.buffer, request.max_domains.into())?;
        if request.next == 0 {
            for domain in hv.domains.from(DomId::DOM0) {
                let seed = uint(hv.machine().ticks() ^ u64::from(domain.id.0) << 16);
                // Of a domain of which nothing can be noted nothing is told.
                let _ = hv.memory.choose_watched(&domain.memory, seed, request.samples);
            }
        }
        let mut next = size(request.next);
        let done = self.look_at_all_frames(&mut next);
        request.next = long(next);
        done?;
        let cpus =
            hv.domains.from(DomId::DOM0).fold(0, |cpus, domain| cpus | hv.memory.frames.tlb.cpus_of(domain.owner()));
        hv.memory.flush_cpus(cpus);
        // What is used from now on is shown anew.
        hv.domains.from(DomId::DOM0).for_each(|domain| hv.memory.forget_translations(domain.owner(), Forget::All));
        let mut count = 0_u32;
        let mut written: Result<(), Errno> = Ok(());
        for domain in hv.domains.from(DomId::DOM0) {
            let Some((sampled, touched)) = domain.memory.working_set.lock().as_deref_mut().map(|set| set.turn()) else {
                continue;
            };
            if count < request.max_domains {
                let told = WorkingSet { domain: domain.id, _pad: 0, sampled, touched };
                written = written.and(list.write(hv.machine(), count.into(), &told));
                count = count.saturating_add(1);
            }
        }
        (request.next, request.max_domains) = (0, count);
        Ok(written?)
    }

    fn look_at_all_frames(&self, next: &mut usize) -> Result<(), Stop> {
        let (frames, mut units) = (&self.hv.memory.frames, PREEMPT_INTERVAL);
        while let Some(frame) = Mfn::new(long(*next)).filter(|_| *next < frames.end()) {
            if units == 0 {
                return Err(Stop::Unfinished);
            }
            let owner = frames.state(frame).owner();
            let domain: Option<Arc<Domain>> = owner.slot().and_then(|slot| self.hv.domains.in_slot(slot));
            match domain {
                Some(domain) => units = self.hv.memory.look_at_frames(&domain.memory, next, units),
                None => {
                    *next = next.saturating_add(1);
                    units = units.saturating_sub(u32::from(next.is_multiple_of(FRAMES_PER_UNIT)));
                }
            }
        }
        Ok(())
    }
}
