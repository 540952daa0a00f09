//! The end of a domain, in bounded steps: whatever it had is given back (law 7).
//!
//! Nothing runs in the name of a dying domain, and nothing new is begun. What its vcpus, grants, ports and tables hold
//! goes first, then its memory. Frames that others still map go when they let go of them; until then the domain is dead
//! but not buried: it keeps its id and its slot, because the frame table names it as their owner.

use super::{Domain, context, vcpu::Vcpu};
use crate::{
    Hypervisor,
    domain::Progress,
    event, grant,
    machine::Machine,
    mem::{editor::Editor, frame_alloc, relinquish::relinquish, root},
    reply::Stop,
    sched::{self, timers},
};
use alloc::sync::Arc;
use core::sync::atomic::Ordering;
use oxen_abi::{domid::DomId, virq::VIRQ_DOM_EXC};

/// How far a domain's life has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It may run.
    Alive,
    /// What its vcpus hold is being given back.
    Vcpus,
    /// What it maps of others is, and its grant table.
    Grants,
    /// Its ports are being closed; all below this one are.
    Events(u32),
    /// Its memory is being given back; all below this frame has been.
    Memory(usize),
    /// It has nothing left but what others hold.
    Dead,
}

impl Stage {
    /// Whether the domain may run.
    #[must_use]
    pub const fn is_alive(self) -> bool {
        matches!(self, Self::Alive)
    }
}

/// Ends a domain, or goes on with it. Not for the caller's own domain.
///
/// # Errors
/// `Unfinished` when something is left to do: call again.
pub fn advance<M: Machine>(hv: &'static Hypervisor<M>, domain: &Arc<Domain>) -> Result<(), Stop> {
    {
        let mut stage = domain.life.lock();
        if stage.is_alive() {
            domain.is_dying.store(true, Ordering::SeqCst);
            domain.hold(hv);
            *stage = Stage::Vcpus;
        }
    }
    // Without the lock: a vcpu that is to leave its CPU may be waiting for it.
    domain.wait_until_off(hv);
    let mut stage = domain.life.lock();
    while *stage != Stage::Dead {
        *stage = step(hv, domain, &mut stage)?;
    }
    drop(stage);
    bury_the_dead(hv);
    Ok(())
}

/// Does what a stage asks for; the next stage.
fn step<M: Machine>(hv: &'static Hypervisor<M>, domain: &Arc<Domain>, stage: &mut Stage) -> Result<Stage, Stop> {
    let finished = |progress: Progress| if progress == Progress::Done { Ok(()) } else { Err(Stop::Unfinished) };
    Ok(match stage {
        Stage::Alive | Stage::Vcpus => {
            domain.each_vcpu().try_for_each(|vcpu| release_vcpu(hv, domain, vcpu))?;
            Stage::Grants
        }
        Stage::Grants => {
            finished(grant::release_all(hv, domain))?;
            Stage::Events(0)
        }
        Stage::Events(next) => {
            finished(event::close_all(hv, domain, next))?;
            event::pirq::put_eoi_page(hv, &domain.pirqs);
            Stage::Memory(0)
        }
        Stage::Memory(next) => {
            relinquish(hv, domain, next)?;
            hv.frames.end_claim(domain.owner);
            domain.each_vcpu().for_each(|vcpu| sched::dismiss(hv, vcpu));
            frame_alloc::give_back_shared(hv, domain.shared_info);
            domain.vcpus.give_back_infos(hv);
            event::virq::raise_global(hv, VIRQ_DOM_EXC);
            Stage::Dead
        }
        Stage::Dead => Stage::Dead,
    })
}

/// Gives back the frames that a vcpu holds. What has been given back is forgotten at once.
fn release_vcpu<M: Machine>(hv: &Hypervisor<M>, domain: &Domain, vcpu: &Arc<Vcpu>) -> Result<(), Stop> {
    timers::stop_all(hv, vcpu);
    let mut slot = vcpu.slot.lock();
    if let Some(state) = slot.as_mut() {
        root::drop_roots(hv, domain, state)?;
        context::put_gdt(&Editor::open(hv, domain)?, state);
    }
    let own = domain.vcpus.info(&hv.machine, domain.shared_info, vcpu.id);
    if let Some((frame, own)) = vcpu.info_frame.lock().take().zip(own) {
        // Events are delivered under the lock of the place: nobody writes to the frame any more.
        *vcpu.info.lock() = Some(own);
        if let Some(state) = slot.as_mut() {
            state.info = own;
        }
        hv.frames.put_use(frame);
    }
    Ok(())
}

/// Takes dead domains out of the table of whose frames nobody holds one any more.
pub fn bury_the_dead<M: Machine>(hv: &'static Hypervisor<M>) {
    let mut from = DomId(0);
    while let Some(domain) = hv.domains.next_from(from) {
        from = DomId(domain.id.0 + 1);
        let held = domain.owner.slot().map_or(0, |slot| hv.frames.reserved(slot) + hv.frames.shared(slot));
        if domain.is_dead() && held == 0 && hv.domains.remove(&domain).is_some() {
            event::virq::raise_global(hv, VIRQ_DOM_EXC);
        }
    }
}
