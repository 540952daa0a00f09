//! Pools of CPUs: each domain is in one, and its vcpus run on the CPUs of that alone.
//! Pure: no vcpu and no hardware here.

use heapless::Vec;
use oxen_abi::errno::Errno;

/// Pools that there can be: as many as CPUs, and one that is empty for each.
pub const MAX_POOLS: usize = 64;
/// The pool that is always there, with every CPU that no other has and that was not taken out.
pub const FIRST_POOL: u32 = 0;

/// A pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Its number in the interface.
    pub id: u32,
    /// Its CPUs, bit n for CPU n.
    pub cpus: u64,
}

/// All pools, by their numbers. A CPU is in one at most.
#[derive(Debug)]
pub struct Pools {
    pools: Vec<Pool, MAX_POOLS>,
    last_id: u32,
}

impl Default for Pools {
    /// One pool with every CPU, those included that are yet to come.
    fn default() -> Self {
        let mut pools = Vec::new();
        // Cannot fail: there is room for many.
        let _fits = pools.push(Pool { id: FIRST_POOL, cpus: u64::MAX });
        Self { pools, last_id: FIRST_POOL }
    }
}

impl Pools {
    /// The pool of this number.
    #[must_use]
    pub fn get(&self, id: u32) -> Option<Pool> {
        self.pools.iter().find(|pool| pool.id == id).copied()
    }

    /// The first pool whose number is `id` or greater.
    #[must_use]
    pub fn next_from(&self, id: u32) -> Option<Pool> {
        self.pools.iter().filter(|pool| pool.id >= id).min_by_key(|pool| pool.id).copied()
    }

    /// The CPUs of a pool; none if there is no such pool.
    #[must_use]
    pub fn cpus(&self, id: u32) -> u64 {
        self.get(id).map_or(0, |pool| pool.cpus)
    }

    /// CPUs that are in no pool.
    #[must_use]
    pub fn free(&self) -> u64 {
        !self.pools.iter().fold(0, |all, pool| all | pool.cpus)
    }

    /// Makes a pool without CPUs, of this number or of one that was not used lately; its number.
    ///
    /// # Errors
    /// `NoSpc` for a number in use, and when there are as many as can be.
    pub fn create(&mut self, id: Option<u32>) -> Result<u32, Errno> {
        let id = match id {
            Some(id) if self.get(id).is_some() => return Err(Errno::NoSpc),
            Some(id) => id,
            None => {
                let id = (1..=MAX_POOLS as u32 + 1).map(|n| self.last_id.wrapping_add(n));
                let id = id.filter(|&id| id != u32::MAX).find(|&id| self.get(id).is_none()).ok_or(Errno::NoSpc)?;
                self.last_id = id;
                id
            }
        };
        self.pools.push(Pool { id, cpus: 0 }).map_err(|_| Errno::NoSpc)?;
        Ok(id)
    }

    /// Ends a pool that has no CPU. Nobody is in it: the caller has looked.
    ///
    /// # Errors
    /// `NoEnt` for a pool that there is not, `Busy` for one with CPUs.
    pub fn destroy(&mut self, id: u32) -> Result<(), Errno> {
        let index = self.pools.iter().position(|pool| pool.id == id).ok_or(Errno::NoEnt)?;
        if self.cpus(id) != 0 || id == FIRST_POOL {
            return Err(Errno::Busy);
        }
        self.pools.swap_remove(index);
        Ok(())
    }

    /// Puts a free CPU into a pool.
    ///
    /// # Errors
    /// `NoEnt` for a pool that there is not, `NoDev` for a CPU that is not free.
    pub fn add_cpu(&mut self, id: u32, cpu: u16) -> Result<(), Errno> {
        let bit = 1 << (cpu & 63);
        let is_free = self.free() & bit != 0;
        let pool = self.pools.iter_mut().find(|pool| pool.id == id).ok_or(Errno::NoEnt)?;
        if !is_free {
            return Err(Errno::NoDev);
        }
        pool.cpus |= bit;
        Ok(())
    }

    /// Takes a CPU out of its pool.
    ///
    /// # Errors
    /// `NoEnt` for a pool that there is not, `Inval` for a CPU that is not in it.
    pub fn remove_cpu(&mut self, id: u32, cpu: u16) -> Result<(), Errno> {
        let bit = 1 << (cpu & 63);
        let pool = self.pools.iter_mut().find(|pool| pool.id == id).ok_or(Errno::NoEnt)?;
        if pool.cpus & bit == 0 {
            return Err(Errno::Inval);
        }
        pool.cpus &= !bit;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_cpu_goes_from_pool_to_pool_by_being_free() {
        let mut pools = Pools::default();
        assert_eq!(pools.create(None), Ok(1));
        assert_eq!(pools.create(Some(1)), Err(Errno::NoSpc));
        assert_eq!(pools.add_cpu(1, 3), Err(Errno::NoDev), "it is in the first pool");
        assert_eq!(pools.remove_cpu(0, 3), Ok(()));
        assert_eq!(pools.free(), 1 << 3);
        assert_eq!(pools.remove_cpu(0, 3), Err(Errno::Inval));
        assert_eq!(pools.add_cpu(7, 3), Err(Errno::NoEnt));
        assert_eq!(pools.add_cpu(1, 3), Ok(()));
        assert_eq!(pools.destroy(1), Err(Errno::Busy));
        assert_eq!((pools.next_from(1), pools.next_from(2)), (Some(Pool { id: 1, cpus: 1 << 3 }), None));
        assert_eq!(pools.remove_cpu(1, 3), Ok(()));
        assert_eq!(pools.destroy(1), Ok(()));
        assert_eq!(pools.destroy(1), Err(Errno::NoEnt));
        assert_eq!(pools.create(None), Ok(2), "a number is not given out again at once");
    }

    proptest! {
        #[test]
        fn a_cpu_is_in_one_pool_at_most(ops in proptest::collection::vec((0..5_u8, 0..4_u32, 0..8_u16), 1..200)) {
            let mut pools = Pools::default();
            for (op, id, cpu) in ops {
                let _ = match op {
                    0 => pools.create(Some(id)).map(|_| ()),
                    1 => pools.destroy(id),
                    2 => pools.add_cpu(id, cpu),
                    _ => pools.remove_cpu(id, cpu),
                };
                let sum: u32 = pools.pools.iter().map(|pool| pool.cpus.count_ones()).sum();
                prop_assert_eq!(sum + pools.free().count_ones(), 64);
                prop_assert!(pools.get(FIRST_POOL).is_some());
            }
        }
    }
}
