//! `memory_op`: who has how much, what lies where, and frames of other domains' resources (`memory.h`).

use super::{
    commands::MemoryCommand,
    number::{count, index, long, size, uint},
};
use crate::{
    caller::Caller,
    domain::Domain,
    firmware::memory_map::Region,
    grant,
    layout::{M2P_END, M2P_START},
    machine::Machine,
    mem::guest_ptr::GuestPtr,
    reply::Reply,
};
use core::{mem::offset_of, sync::atomic::Ordering};
use oxen_abi::{
    domid::DomId,
    errno::Errno,
    memory::{
        E820Entry, ForeignMemoryMap, MachphysMapping, MachphysMfnList, MemAcquireResource, MemoryMap,
        XENMEM_RESOURCE_GRANT_TABLE, XENMEM_RESOURCE_GRANT_TABLE_ID_SHARED, XENMEM_RESOURCE_GRANT_TABLE_ID_STATUS,
    },
    shared_info::{ArchSharedInfo, SharedInfo},
};

impl<M: Machine> Caller<'_, M> {
    /// What a question about one domain's memory is answered.
    ///
    /// # Errors
    /// `Srch` and `Perm` for the domain.
    pub(super) fn answer_about_memory(&self, command: MemoryCommand, id: DomId) -> Reply {
        let named = self.domain_to_act_on(id)?;
        let domain: &Domain = &named;
        match command {
            MemoryCommand::CurrentReservation => {
                let slot = domain.owner().slot().ok_or(Errno::Srch)?;
                Ok(u64::from(self.hv.memory.frames.reserved(slot)))
            }
            MemoryCommand::MaximumReservation => Ok(u64::from(domain.memory.max_pages.load(Ordering::Relaxed))),
            _ => {
                const OFFSET: usize = offset_of!(SharedInfo, arch) + offset_of!(ArchSharedInfo, max_pfn);
                let words = self.hv.machine().words(domain.shared_info);
                let max_pfn = words.get(OFFSET / 8).map_or(0, |word| word.load(Ordering::Relaxed));
                Ok(max_pfn.saturating_sub(1))
            }
        }
    }

    /// `XENMEM_memory_map`: what the toolstack said.
    ///
    /// # Errors
    /// `NoSys` if it said nothing, `Fault`.
    pub(super) fn get_memory_map(&self, argument: u64) -> Reply {
        let place = GuestPtr::<MemoryMap>::one(argument)?;
        let mut asked = place.read(self.hv.machine(), 0)?;
        let map = self.domain.memory_map.lock();
        if map.is_empty() {
            return Err(Errno::NoSys.into());
        }
        let told = map.len().min(index(asked.nr_entries));
        let entries = map.get(..told).unwrap_or_default();
        GuestPtr::<E820Entry>::new(asked.buffer, long(told))?.write_many(self.hv.machine(), 0, entries)?;
        asked.nr_entries = count(told);
        place.write(self.hv.machine(), 0, &asked)?;
        Ok(0)
    }

    /// `XENMEM_set_memory_map`.
    ///
    /// # Errors
    /// `Inval` for too many regions; `Srch`, `Perm`, `Fault`.
    pub(super) fn set_memory_map(&self, argument: u64) -> Reply {
        let asked = self.copy_from_guest::<ForeignMemoryMap>(argument)?;
        if index(asked.map.nr_entries) > Domain::MAX_MEMORY_MAP {
            return Err(Errno::Inval.into());
        }
        let domain = self.domain_to_act_on(asked.domid)?;
        let list = GuestPtr::<E820Entry>::new(asked.map.buffer, u64::from(asked.map.nr_entries))?;
        let mut map = heapless::Vec::new();
        for index in 0..list.count() {
            map.push(list.read(self.hv.machine(), index)?).map_err(|_| Errno::Inval)?;
        }
        *domain.memory_map.lock() = map;
        Ok(0)
    }

    /// `XENMEM_machine_memory_map`: what the firmware said.
    ///
    /// # Errors
    /// `Perm` for all but the control domain, `Inval` if the guest has too little room.
    pub(super) fn get_machine_memory_map(&self, argument: u64) -> Reply {
        self.control()?;
        let place = GuestPtr::<MemoryMap>::one(argument)?;
        let mut asked = place.read(self.hv.machine(), 0)?;
        let list = GuestPtr::<E820Entry>::new(asked.buffer, u64::from(asked.nr_entries))?;
        let mut told = 0_u64;
        for Region { range, kind } in self.hv.memory_map.regions() {
            if told == list.count() {
                return Err(Errno::Inval.into());
            }
            let size = range.end.saturating_sub(range.start);
            let entry = E820Entry { addr: range.start, size, r#type: kind.raw() };
            list.write(self.hv.machine(), told, &entry)?;
            told = told.wrapping_add(1);
        }
        asked.nr_entries = uint(told);
        place.write(self.hv.machine(), 0, &asked)?;
        Ok(0)
    }

    /// `XENMEM_machphys_mapping`: where the machine-to-phys table is.
    ///
    /// # Errors
    /// `Fault`.
    pub(super) fn get_machphys_mapping(&self, argument: u64) -> Reply {
        let last = long(self.hv.memory.frames.end()).saturating_sub(1);
        let mapping = MachphysMapping { v_start: M2P_START, v_end: M2P_END, max_mfn: last };
        self.copy_to_guest::<MachphysMapping>(argument, &mapping)?;
        Ok(0)
    }

    /// `XENMEM_machphys_mfn_list`: the frames of that table, the first of each 2 MiB.
    ///
    /// # Errors
    /// `Fault`.
    pub(super) fn get_machphys_frames(&self, argument: u64) -> Reply {
        let place = GuestPtr::<MachphysMfnList>::one(argument)?;
        let mut asked = place.read(self.hv.machine(), 0)?;
        let list = GuestPtr::<u64>::new(asked.extent_start, u64::from(asked.max_extents))?;
        let chunks = (0..list.count()).map_while(|index| self.hv.machine().machine_to_phys_chunk(size(index)));
        asked.nr_extents = 0;
        for (index, frame) in (0..).zip(chunks) {
            list.write(self.hv.machine(), index, &frame.raw())?;
            asked.nr_extents = asked.nr_extents.wrapping_add(1);
        }
        place.write(self.hv.machine(), 0, &asked)?;
        Ok(0)
    }

    /// `XENMEM_acquire_resource`: frames of another domain's grant table, entries or status words, for the toolstack to
    /// map.
    ///
    /// # Errors
    /// `OpNotSupp` for other resources, `Inval` beyond the table and for status words of a table of version 1; `Srch`
    /// for a domain that there is not, `Perm` for the caller's own and for all but the control domain; `Fault`.
    pub(super) fn acquire_resource(&self, argument: u64) -> Reply {
        let place = GuestPtr::<MemAcquireResource>::one(argument)?;
        let mut asked = place.read(self.hv.machine(), 0)?;
        // How much there is has 32 bits, and so has where it begins.
        if asked.pad != 0 || asked.frame > u64::from(u32::MAX) {
            return Err(Errno::Inval.into());
        }
        // Of another domain, by its own name; then the right to ask.
        let domain = self.hv.domains.get(asked.domid).ok_or(Errno::Srch)?;
        self.control()?;
        if domain.id == self.domain.id {
            return Err(Errno::Perm.into());
        }
        if asked.r#type != XENMEM_RESOURCE_GRANT_TABLE {
            return Err(Errno::OpNotSupp.into());
        }
        let (_, frames) = domain.grants.lock().size();
        let is_status = asked.id == XENMEM_RESOURCE_GRANT_TABLE_ID_STATUS;
        let limit = match asked.id {
            XENMEM_RESOURCE_GRANT_TABLE_ID_SHARED => frames,
            XENMEM_RESOURCE_GRANT_TABLE_ID_STATUS => grant::status_frames_of(frames),
            _ => return Err(Errno::Inval.into()),
        };
        if asked.frame_list == 0 {
            if asked.nr_frames != 0 {
                return Err(Errno::Inval.into());
            }
            asked.nr_frames = limit;
            place.write(self.hv.machine(), 0, &asked)?;
            return Ok(0);
        }
        let end = asked.frame.checked_add(u64::from(asked.nr_frames)).ok_or(Errno::Inval)?;
        if end > u64::from(limit) {
            return Err(Errno::Inval.into());
        }
        let list = GuestPtr::<u64>::new(asked.frame_list, u64::from(asked.nr_frames))?;
        for (index, number) in (0..).zip(uint(asked.frame)..uint(end)) {
            let frame = if is_status {
                self.hv.grant_status_frame(&domain, number)?
            } else {
                self.hv.grant_table_frame(&domain, number)?
            };
            list.write(self.hv.machine(), index, &frame.mfn().raw())?;
        }
        Ok(0)
    }
}
