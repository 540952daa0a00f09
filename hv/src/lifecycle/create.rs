//! Making a domain and its vcpus.

use crate::{
    Hypervisor,
    config::MAX_VCPUS,
    domain::{
        Config, Domain, VcpuTable,
        vcpu::{Pauses, Vcpu, VcpuState},
    },
    heap,
    machine::Machine,
    mem::RamFrame,
    rights::{Rights, last_frame},
    sched::clock,
    shared_info::{VCPU_INFO_BYTES, VcpuInfoPlace},
};
use alloc::sync::Arc;
use core::sync::atomic::Ordering;
use oxen_abi::{errno::Errno, segments::XEN_LEGACY_MAX_VCPUS, trace::TRC_SCHED_DOM_ADD};

impl<M: Machine> Hypervisor<M> {
    /// Makes a domain without vcpus and without memory but its `shared_info`, paused once by the controller.
    ///
    /// # Errors
    /// `Exist` if the id is taken, `Inval` for an id or number of vcpus that no domain can have, `NoMem` without
    /// memory, `NFile` when there are as many domains as can be.
    pub fn create_domain(&self, config: &Config) -> Result<Arc<Domain>, Errno> {
        if config.max_vcpus == 0 || config.max_vcpus as usize > MAX_VCPUS {
            return Err(Errno::Inval);
        }
        let created = self.domains.create(config.id, |id, owner| {
            self.memory.frames.new_generation(owner);
            self.cpus.iter().for_each(|cpu| cpu.forget_teacher(owner));
            let shared_info = self.memory.take_shared(owner)?;
            let made = VcpuTable::new(self.machine(), config.max_vcpus as usize);
            let vcpus = made.inspect_err(|_| self.memory.give_back_shared(shared_info))?;
            let rights =
                if config.is_privileged { Rights::everything(last_frame(self.machine())) } else { Rights::default() };
            let mut domain = Domain::new(id, owner, shared_info, vcpus, rights, config);
            domain.memory.is_apart = self.speculation.keeps_apart(config.is_privileged);
            if self.speculation.l1tf.judges(config.is_privileged) {
                domain.memory.judge_absent_entries(self.speculation.l1tf);
            }
            self.join_pool(&domain, config.pool).inspect_err(|_| self.memory.give_back_shared(shared_info))?;
            self.mask_all_upcalls(shared_info);
            self.time.publish_wall_clock(self.machine(), shared_info, 0);
            domain.events.set_limit(config.max_port);
            heap::share(self.machine(), domain).inspect_err(|_| self.memory.give_back_shared(shared_info))
        })?;
        self.note(TRC_SCHED_DOM_ADD, || [created.id.0.into()]);
        Ok(created)
    }

    /// A vcpu begins with its events masked.
    fn mask_all_upcalls(&self, shared_info: RamFrame) {
        for place in (0..XEN_LEGACY_MAX_VCPUS)
            .filter_map(|id| VcpuInfoPlace::new(self.machine(), shared_info, id * VCPU_INFO_BYTES))
        {
            place.set_upcall_mask(true);
        }
    }
}

impl<M: Machine> Hypervisor<M> {
    /// Creates the vcpu with this number, without a context and down. Made already: nothing happens.
    ///
    /// # Errors
    /// `Inval` beyond the domain's limit, `NoMem` without memory or room in a run queue.
    pub fn add_vcpu(&self, domain: &Arc<Domain>, id: u32) -> Result<(), Errno> {
        if id >= domain.max_vcpus.load(Ordering::Relaxed) {
            return Err(Errno::Inval);
        }
        let cell = domain.vcpus.cell(id).ok_or(Errno::Inval)?;
        let stage = domain.life.lock();
        if cell.is_completed() {
            return Ok(());
        }
        if !stage.is_alive() {
            return Err(Errno::Inval);
        }
        let info = domain.vcpus.make_info(&self.memory, domain.shared_info, id)?;
        let state = heap::own(self.machine(), VcpuState::new(info))?;
        let mut pauses = Pauses::DOWN;
        pauses.set(Pauses::DOMAIN, domain.pause_count.load(Ordering::Relaxed) != 0);
        pauses.set(Pauses::SHUT_DOWN, domain.is_shut_down());
        let vcpu = heap::share(self.machine(), Vcpu::new(domain.id, id, info, state, pauses, self.now()))?;
        self.admit_within_pool(domain, &vcpu)?;
        clock::publish(&info, self.time_info(domain));
        cell.call_once(|| vcpu);
        drop(stage);
        let share = *domain.share.lock();
        self.set_share(domain, share);
        Ok(())
    }
}
