//! Where vcpus may run, and how one gets there that runs where it may not any more.
//!
//! What a vcpu may use is its hard affinity within its domain's pool, or the one CPU that its kernel asked for. All of
//! it changes under the lock of the pools. A vcpu that has to move is paused for [`Pauses::MOVING`]; it moves once its
//! state is off its CPU, by whoever asked for it or by that CPU (`finish_leaving`), and goes on.

use crate::{
    Hypervisor,
    domain::{
        Domain,
        vcpu::{Pauses, Vcpu},
    },
    machine::Machine,
    sched::{pools::FIRST_POOL, run_queue::Share, vcpu::NO_OVERRIDE},
};
use alloc::sync::Arc;
use core::sync::atomic::Ordering;
use oxen_abi::{domid::DomId, errno::Errno};

impl<M: Machine> Hypervisor<M> {
    /// The CPUs that run guests, bit n for CPU n.
    #[inline(never)]
    #[must_use]
    pub fn online_mask(&self) -> u64 {
        self.online_cpus().fold(0, |mask, cpu| mask | 1 << cpu.0)
    }
}

/// What a vcpu may use, of which CPUs there are.
fn allowed(vcpu: &Vcpu, cpus: u64) -> u64 {
    match vcpu.sched.override_cpu.load(Ordering::Relaxed) {
        NO_OVERRIDE => vcpu.sched.affinity.load(Ordering::Relaxed) & cpus,
        cpu => 1_u64.checked_shl(cpu).unwrap_or(0) & cpus,
    }
}

impl<M: Machine> Hypervisor<M> {
    /// Assigns a new vcpu to a CPU of its domain's pool.
    ///
    /// # Errors
    /// `NoMem` when none of them has one left.
    pub fn admit_within_pool(&self, domain: &Arc<Domain>, vcpu: &Arc<Vcpu>) -> Result<(), Errno> {
        let pools = self.pools.lock();
        let cpus = pools.cpus(domain.pool.load(Ordering::Relaxed));
        vcpu.sched.allowed.store(allowed(vcpu, cpus), Ordering::SeqCst);
        self.admit_vcpu(domain, vcpu)
    }

    /// Has the scheduler obey what a vcpu may use now; the lock of the pools is held.
    #[inline(never)]
    fn apply_affinity(&self, domain: &Arc<Domain>, vcpu: &Arc<Vcpu>, cpus: u64) -> Result<(), Errno> {
        vcpu.sched.allowed.store(allowed(vcpu, cpus), Ordering::SeqCst);
        if self.is_well_placed(vcpu) {
            return Ok(());
        }
        self.pause_vcpu(vcpu, Pauses::MOVING);
        self.finish_move(domain, vcpu)
    }

    /// Moves a vcpu that is to move, if its state is off its CPU; the lock of the pools is held.
    fn finish_move(&self, domain: &Arc<Domain>, vcpu: &Arc<Vcpu>) -> Result<(), Errno> {
        if !vcpu.pauses.load(Ordering::SeqCst).intersects(Pauses::MOVING) || vcpu.slot.lock().is_none() {
            return Ok(());
        }
        let moved = self.migrate_vcpu(domain, vcpu);
        self.unpause_vcpu(vcpu, Pauses::MOVING);
        moved
    }

    /// Moves a vcpu whose state this CPU has just put away.
    #[cold]
    pub(crate) fn finish_leaving(&self, domain: &Arc<Domain>, vcpu: &Arc<Vcpu>) {
        let pools = self.pools.lock();
        // Where no run queue has room it goes on where it was.
        let _no_room = self.finish_move(domain, vcpu);
        drop(pools);
    }

    /// Sets where a vcpu may run; the CPUs of it that there are.
    ///
    /// # Errors
    /// `Inval` for none that there is in its pool, `Busy` while its kernel has asked for a CPU, `NoMem` without room
    /// there.
    pub fn set_hard_affinity(&self, domain: &Arc<Domain>, vcpu: &Arc<Vcpu>, wanted: u64) -> Result<u64, Errno> {
        let pools = self.pools.lock();
        let cpus = pools.cpus(domain.pool.load(Ordering::Relaxed));
        let effective = wanted & cpus & self.online_mask();
        if effective == 0 {
            return Err(Errno::Inval);
        }
        if vcpu.sched.override_cpu.load(Ordering::Relaxed) != NO_OVERRIDE {
            return Err(Errno::Busy);
        }
        let old = vcpu.sched.affinity.swap(wanted, Ordering::Relaxed);
        self.apply_affinity(domain, vcpu, cpus).inspect_err(|_| {
            vcpu.sched.affinity.store(old, Ordering::Relaxed);
            vcpu.sched.allowed.store(allowed(vcpu, cpus), Ordering::SeqCst);
        })?;
        drop(pools);
        Ok(effective)
    }

    /// Sets where a vcpu should run if it can; the CPUs of it that there are and on which it may run.
    ///
    /// # Errors
    /// `Busy` while its kernel has asked for a CPU.
    pub fn set_soft_affinity(&self, domain: &Domain, vcpu: &Vcpu, wanted: u64) -> Result<u64, Errno> {
        let pools = self.pools.lock();
        if vcpu.sched.override_cpu.load(Ordering::Relaxed) != NO_OVERRIDE {
            return Err(Errno::Busy);
        }
        vcpu.sched.soft_affinity.store(wanted, Ordering::Relaxed);
        let hard = vcpu.sched.affinity.load(Ordering::Relaxed);
        Ok(wanted & hard & pools.cpus(domain.pool.load(Ordering::Relaxed)) & self.online_mask())
    }

    /// Binds a vcpu to one CPU in its kernel's name, or with `None` ends that (`SCHEDOP_pin_override`).
    ///
    /// # Errors
    /// `Inval` for a CPU that is not in its pool, or where nothing is to end; `Busy` while it is bound; `NoMem`.
    pub fn pin_override(&self, domain: &Arc<Domain>, vcpu: &Arc<Vcpu>, cpu: Option<u32>) -> Result<(), Errno> {
        let pools = self.pools.lock();
        let cpus = pools.cpus(domain.pool.load(Ordering::Relaxed));
        let place = &vcpu.sched.override_cpu;
        match (cpu, place.load(Ordering::Relaxed)) {
            (None, NO_OVERRIDE) => return Err(Errno::Inval),
            (Some(_), old) if old != NO_OVERRIDE => return Err(Errno::Busy),
            (Some(cpu), _) if 1_u64.checked_shl(cpu).unwrap_or(0) & cpus & self.online_mask() == 0 => {
                return Err(Errno::Inval);
            }
            _ => {}
        }
        place.store(cpu.unwrap_or(NO_OVERRIDE), Ordering::Relaxed);
        let done = self.apply_affinity(domain, vcpu, cpus);
        drop(pools);
        done
    }

    /// Runs over every domain of a pool.
    fn each_domain_of_pool(&self, pool: u32, visit: &mut dyn FnMut(&Arc<Domain>)) {
        let mut from = DomId(0);
        while let Some(domain) = self.domains.next_from(from) {
            from = DomId(domain.id.0 + 1);
            if domain.pool.load(Ordering::Relaxed) == pool {
                visit(&domain);
            }
        }
    }

    /// How many domains are in a pool.
    #[inline(never)]
    #[must_use]
    pub fn domains_of_pool(&self, pool: u32) -> u32 {
        let mut count = 0;
        self.each_domain_of_pool(pool, &mut |_| count += 1);
        count
    }

    /// Puts a new domain into a pool.
    ///
    /// # Errors
    /// `Srch` for a pool that there is not, `Inval` for one without CPUs.
    pub fn join_pool(&self, domain: &Domain, pool: u32) -> Result<(), Errno> {
        let pools = self.pools.lock();
        if pools.get(pool).ok_or(Errno::Srch)?.cpus & self.online_mask() == 0 {
            return Err(Errno::Inval);
        }
        domain.pool.store(pool, Ordering::Relaxed);
        drop(pools);
        Ok(())
    }

    /// Moves a domain to another pool, where it may run everywhere and has the usual share.
    ///
    /// # Errors
    /// `NoEnt` for a pool that there is not or that has no CPU, `NoMem` without room there.
    pub fn move_domain_to_pool(&self, domain: &Arc<Domain>, pool: u32) -> Result<(), Errno> {
        let pools = self.pools.lock();
        if domain.pool.load(Ordering::Relaxed) == pool {
            return Ok(());
        }
        let cpus = pools.cpus(pool);
        if cpus & self.online_mask() == 0 {
            return Err(Errno::NoEnt);
        }
        domain.pool.store(pool, Ordering::Relaxed);
        let moved = domain.each_vcpu().try_for_each(|vcpu| {
            forget_wishes(vcpu);
            self.apply_affinity(domain, vcpu, cpus)
        });
        drop(pools);
        self.set_share(domain, Share::default());
        moved
    }
}

fn forget_wishes(vcpu: &Vcpu) {
    vcpu.sched.affinity.store(u64::MAX, Ordering::Relaxed);
    vcpu.sched.soft_affinity.store(u64::MAX, Ordering::Relaxed);
    vcpu.sched.override_cpu.store(NO_OVERRIDE, Ordering::Relaxed);
}

impl<M: Machine> Hypervisor<M> {
    /// Ends a pool.
    ///
    /// # Errors
    /// `NoEnt` for a pool that there is not, `Busy` for one with domains or CPUs.
    pub fn destroy_pool(&self, pool: u32) -> Result<(), Errno> {
        let mut pools = self.pools.lock();
        if pools.get(pool).is_some() && (pool == FIRST_POOL || self.domains_of_pool(pool) != 0) {
            return Err(Errno::Busy);
        }
        pools.destroy(pool)
    }

    /// Puts a CPU that is in no pool into one: that CPU, or with `None` the first there is.
    ///
    /// # Errors
    /// `NoEnt` for a pool that there is not, `Inval` for a CPU that there is not, `NoDev` for one that is not free.
    pub fn add_cpu_to_pool(&self, pool: u32, cpu: Option<u32>) -> Result<(), Errno> {
        let mut pools = self.pools.lock();
        pools.get(pool).ok_or(Errno::NoEnt)?;
        let free = pools.free() & self.online_mask();
        let cpu = match cpu {
            Some(cpu) => self.online_number(cpu)?,
            None if free == 0 => return Err(Errno::NoDev),
            None => free.trailing_zeros() as u16,
        };
        pools.add_cpu(pool, cpu)?;
        self.settle_pool(pool, pools.cpus(pool))
    }

    /// Takes a CPU out of its pool: that CPU, or with `None` the last there is. Vcpus that could run there alone may
    /// run everywhere in the pool then.
    ///
    /// # Errors
    /// `NoEnt` for a pool that there is not, `Inval` for a CPU that is not in it and for the first pool's last one,
    /// `Busy` for the last one of another pool with domains, `NoMem` when the others have no room for those who leave.
    pub fn remove_cpu_from_pool(&self, pool: u32, cpu: Option<u32>) -> Result<(), Errno> {
        let mut pools = self.pools.lock();
        let cpus = pools.get(pool).ok_or(Errno::NoEnt)?.cpus & self.online_mask();
        let cpu = match cpu {
            Some(cpu) => self.online_number(cpu)?,
            None if cpus == 0 => return Err(Errno::Inval),
            None => (63 - cpus.leading_zeros()) as u16,
        };
        if cpus == 1 << cpu && self.domains_of_pool(pool) != 0 {
            return Err(if pool == FIRST_POOL { Errno::Inval } else { Errno::Busy });
        }
        pools.remove_cpu(pool, cpu)?;
        self.settle_pool(pool, pools.cpus(pool))
    }

    fn online_number(&self, cpu: u32) -> Result<u16, Errno> {
        let is_online = 1_u64.checked_shl(cpu).unwrap_or(0) & self.online_mask() != 0;
        if is_online { Ok(cpu as u16) } else { Err(Errno::Inval) }
    }

    /// Has the scheduler obey a pool's new CPUs.
    #[inline(never)]
    fn settle_pool(&self, pool: u32, cpus: u64) -> Result<(), Errno> {
        let mut settled = Ok(());
        self.each_domain_of_pool(pool, &mut |domain| {
            for vcpu in domain.each_vcpu() {
                if allowed(vcpu, cpus) & self.online_mask() == 0 {
                    forget_wishes(vcpu);
                }
                settled = settled.and(self.apply_affinity(domain, vcpu, cpus));
            }
        });
        settled
    }
}
