//! The end of a domain, in bounded steps: whatever it had is given back (law 7).
//!
//! Nothing runs in the name of a dying domain, and nothing new is begun. What its vcpus, grants, ports and tables hold
//! goes first, then its memory. Frames that others still map go when they let go of them; until then the domain is dead
//! but not reaped: it keeps its id and its slot, because the frame table names it as their owner.

use crate::{
    Hypervisor,
    domain::{Domain, Stage, vcpu::Vcpu},
    machine::Machine,
    mem::{Hold, editor::Editor},
    reply::Stop,
};
use alloc::sync::Arc;
use core::sync::atomic::Ordering;
use oxen_abi::{domid::DomId, trace::TRC_SCHED_DOM_REM, virq::VIRQ_DOM_EXC};

impl<M: Machine> Hypervisor<M> {
    /// Ends a domain, or goes on with it. Not for the caller's own domain.
    ///
    /// # Errors
    /// `Unfinished` when something is left to do: call again.
    pub fn tear_down(&'static self, domain: &Arc<Domain>) -> Result<(), Stop> {
        {
            let mut stage = domain.life.lock();
            if stage.is_alive() {
                domain.memory.is_dying.store(true, Ordering::SeqCst);
                self.hold_domain(domain);
                self.note(TRC_SCHED_DOM_REM, || [domain.id.0.into()]);
                *stage = Stage::Vcpus;
            }
        }
        // Without the lock: a vcpu that is to leave its CPU may be waiting for it.
        self.wait_until_domain_off(domain);
        let mut stage = domain.life.lock();
        while *stage != Stage::Dead {
            *stage = self.tear_down_step(domain, &mut stage)?;
        }
        drop(stage);
        self.reap_dead_domains();
        Ok(())
    }

    /// Does what a stage asks for; the next stage.
    fn tear_down_step(&'static self, domain: &Arc<Domain>, stage: &mut Stage) -> Result<Stage, Stop> {
        Ok(match stage {
            Stage::Alive | Stage::Vcpus => {
                domain.each_vcpu().try_for_each(|vcpu| self.release_vcpu(domain, vcpu))?;
                Stage::Grants
            }
            Stage::Grants => {
                self.release_grants(domain)?;
                Stage::Events(0)
            }
            Stage::Events(next) => {
                self.close_all_ports(domain, next)?;
                self.put_eoi_page(&domain.pirqs);
                Stage::Memory(0)
            }
            Stage::Memory(next) => {
                self.memory.end_shadows(&domain.memory)?;
                self.memory.relinquish(&domain.memory, next)?;
                self.memory.frames.end_claim(domain.owner());
                domain.each_vcpu().for_each(|vcpu| self.unschedule_vcpu(vcpu));
                self.memory.give_back_shared(domain.shared_info);
                domain.vcpus.give_back_infos(&self.memory);
                self.raise_global_virq(VIRQ_DOM_EXC);
                Stage::Dead
            }
            Stage::Dead => Stage::Dead,
        })
    }

    /// Gives back the frames that a vcpu holds. What has been given back is forgotten at once.
    fn release_vcpu(&self, domain: &Domain, vcpu: &Arc<Vcpu>) -> Result<(), Stop> {
        self.stop_timers(vcpu);
        let mut slot = vcpu.slot.lock();
        if let Some(state) = slot.as_mut() {
            self.memory.drop_roots(&domain.memory, &mut state.kernel_root, &mut state.user_root)?;
            let editor = Editor::open(&self.memory, &domain.memory)?;
            for page in state.gdt.iter_mut().chain(&mut state.ldt).filter_map(Option::take) {
                editor.put_descriptors(page);
            }
            state.gdt_entries = 0;
        }
        let own = domain.vcpus.info(self.machine(), domain.shared_info, vcpu.id);
        if let Some((frame, own)) = vcpu.info_frame.lock().take().zip(own) {
            // Events are delivered under the lock of the place: nobody writes to the frame any more.
            *vcpu.info.lock() = Some(own);
            if let Some(state) = slot.as_mut() {
                state.info = own;
            }
            self.memory.frames.put_entry(frame.mfn(), Hold::Writable);
        }
        Ok(())
    }

    /// Takes dead domains out of the table of whose frames nobody holds one any more.
    pub fn reap_dead_domains(&'static self) {
        let mut from = DomId(0);
        while let Some(domain) = self.domains.next_from(from) {
            from = DomId(domain.id.0 + 1);
            let held = domain
                .owner()
                .slot()
                .map_or(0, |slot| self.memory.frames.reserved(slot) + self.memory.frames.shared(slot));
            if domain.is_dead() && held == 0 && self.domains.remove(&domain).is_some() {
                self.raise_global_virq(VIRQ_DOM_EXC);
            }
        }
    }
}
