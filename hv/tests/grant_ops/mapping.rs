//! Mapping and unmapping, and what the model expects of it.

use super::{
    copying::Use,
    support::{dice::Dice, entry_address},
    world::{FIRST_SPARE, GENERAL, GUESTS, HANDLES, Mapping, OKAY, SPARES, Side, World, any_domain, any_ref},
};
use oxen_abi::grant_table::{self as abi, GnttabMapGrantRef, GnttabUnmapAndReplace};
use oxen_hv::{addr::Mfn, mem::Tlb};

impl World {
    fn expect_map(&mut self, me: usize, op: &GnttabMapGrantRef, place: Option<usize>) -> Result<u32, i16> {
        if op.flags & (abi::GNTMAP_DEVICE_MAP | abi::GNTMAP_HOST_MAP) == 0 {
            return Err(abi::GNTST_BAD_GNTREF);
        }
        let granter = Self::by_id(op.dom).ok_or(abi::GNTST_BAD_DOMAIN)?;
        let writes = op.flags & abi::GNTMAP_READONLY == 0;
        let claim = self.expect_claim(granter, me, op.r#ref, writes, Use::Map)?.claim;
        if op.flags & abi::GNTMAP_HOST_MAP != 0 {
            let Some(slot) = place else {
                self.release(claim);
                return Err(GENERAL);
            };
            self.sides[me].spares[slot] = Some((self.claims[&claim].frame, writes));
        }
        Ok(claim)
    }

    pub(crate) fn map(&mut self, me: usize, dice: &mut Dice) {
        if self.sides[me].mappings.len() >= HANDLES as usize {
            return self.unmap(me, dice);
        }
        let slot = dice.roll(SPARES as u32) as usize;
        let side = &self.sides[me];
        let other_table = self.sides[(me + 1) % GUESTS].home.tables[3];
        let (by_entry, host_addr, place) = match dice.roll(12) {
            0 => (false, 0x7000_0000_0000, None),
            1 => (false, 0xffff_8300_0000_0000, None),
            2 => (true, side.entry_at(slot) + 4, None),
            3 => (true, entry_address(other_table, FIRST_SPARE), None),
            4 => (true, entry_address(side.home.tables[2], 5), None),
            5 => (true, u64::MAX - 7, None),
            6 | 7 => (true, side.entry_at(slot), Some(slot)),
            _ => (false, Side::spare(slot), Some(slot)),
        };
        let mut flags = dice.pick(&[0, 1, 2, 2, 2, 2, 3]) | dice.pick(&[0, 0, abi::GNTMAP_READONLY]);
        flags |= dice.pick(&[0, abi::GNTMAP_APPLICATION_MAP]) | dice.pick(&[0, 7 << 16, 0xffff << 16]);
        flags |= if by_entry { abi::GNTMAP_CONTAINS_PTE } else { 0 };
        let mut op = GnttabMapGrantRef {
            host_addr,
            flags,
            r#ref: any_ref(dice),
            dom: any_domain(dice),
            status: 99,
            handle: u32::MAX,
            dev_bus_addr: 0,
        };
        let expected = self.expect_map(me, &op, place);
        assert_eq!(self.sides[me].ask(abi::GNTTABOP_MAP_GRANT_REF, &mut op), Ok(0));
        assert_eq!(op.status, expected.err().unwrap_or(OKAY), "map {op:?}");
        if let Ok(claim) = expected {
            assert_eq!(op.dev_bus_addr, self.claims[&claim].frame.address().as_u64());
            let old = self.sides[me].mappings.insert(op.handle, Mapping { claim, flags });
            assert!(old.is_none(), "a handle that was given out twice");
        }
        // What was there before may still be known to the CPU: the guest's own affair, which it sees to.
        self.sides[me].guest.hv.machine().flush();
    }

    pub(crate) fn unmap(&mut self, me: usize, dice: &mut Dice) {
        let side = &self.sides[me];
        let handle = dice.roll(HANDLES + 2);
        let mapping = side.mappings.get(&handle).copied();
        let frame = mapping.map(|m| self.claims[&m.claim].frame);
        let slot = dice.roll(SPARES as u32) as usize;
        // More often than not the right place, if the mapping still is at one.
        let is_it = |place: &Option<(Mfn, bool)>| place.is_some_and(|(f, _)| Some(f) == frame);
        let slot = if dice.roll(4) != 0 { side.spares.iter().position(is_it).unwrap_or(slot) } else { slot };
        let by_entry = mapping.is_some_and(|m| m.flags & abi::GNTMAP_CONTAINS_PTE != 0);
        let host_addr = match dice.roll(8) {
            0 => 0,
            1 => 0x7000_0000_0008,
            _ if by_entry => side.entry_at(slot),
            _ => Side::spare(slot),
        };
        let new_slot = dice.roll(SPARES as u32) as usize;
        let new_addr = if dice.roll(5) == 0 { Side::spare(new_slot) } else { 0 };
        let bus = frame.map_or(0, |f| f.address().as_u64());
        let dev_bus_addr = if new_addr == 0 { dice.pick(&[0, bus, bus, 0x5000]) } else { 0 };
        let expected = self.expect_unmap(me, handle, mapping, (host_addr, slot), (new_addr, new_slot), dev_bus_addr);
        let side = &mut self.sides[me];
        side.run();
        side.can_read(slot);
        side.can_read(new_slot);
        let status = if new_addr == 0 {
            let mut op = abi::GnttabUnmapGrantRef { host_addr, dev_bus_addr, handle, status: 99, _pad0: 0 };
            assert_eq!(side.ask(abi::GNTTABOP_UNMAP_GRANT_REF, &mut op), Ok(0));
            op.status
        } else {
            let mut op = GnttabUnmapAndReplace { host_addr, new_addr, handle, status: 99, _pad0: 0 };
            assert_eq!(side.ask(abi::GNTTABOP_UNMAP_AND_REPLACE, &mut op), Ok(0));
            op.status
        };
        for slot in [slot, new_slot] {
            assert_eq!(side.can_read(slot), side.spares[slot].is_some(), "after the end of {handle} {mapping:?}");
        }
        assert_eq!(status, expected, "unmap {handle} {mapping:?} at {host_addr:#x}, {new_addr:#x}, {dev_bus_addr:#x}");
    }

    fn expect_unmap(
        &mut self,
        me: usize,
        handle: u32,
        mapping: Option<Mapping>,
        (host_addr, slot): (u64, usize),
        (new_addr, new_slot): (u64, usize),
        dev_bus_addr: u64,
    ) -> i16 {
        let Some(mut mapping) = mapping else { return abi::GNTST_BAD_HANDLE };
        let claim = self.claims[&mapping.claim];
        let is_device = mapping.flags & abi::GNTMAP_DEVICE_MAP != 0;
        if dev_bus_addr != 0 && is_device && dev_bus_addr != claim.frame.address().as_u64() {
            return abi::GNTST_BAD_DEV_ADDR;
        }
        if host_addr != 0 && mapping.flags & abi::GNTMAP_HOST_MAP != 0 {
            let is_by_entry = mapping.flags & abi::GNTMAP_CONTAINS_PTE != 0;
            let side = &mut self.sides[me];
            let is_place = host_addr == Side::spare(slot) || host_addr == side.entry_at(slot);
            let is_there = is_place && side.spares[slot] == Some((claim.frame, claim.writes));
            if new_addr != 0 && is_by_entry {
                return GENERAL;
            }
            if !is_there || (new_addr != 0 && new_slot == slot) {
                // What was to be moved is gone.
                if new_addr != 0 {
                    side.spares[new_slot] = None;
                }
                return GENERAL;
            }
            side.spares[slot] = if new_addr == 0 { None } else { side.spares[new_slot].take() };
            mapping.flags &= !abi::GNTMAP_HOST_MAP;
        }
        if dev_bus_addr != 0 {
            mapping.flags &= !abi::GNTMAP_DEVICE_MAP;
        }
        if mapping.flags & (abi::GNTMAP_HOST_MAP | abi::GNTMAP_DEVICE_MAP) == 0 {
            self.sides[me].mappings.remove(&handle);
            self.release(mapping.claim);
        } else {
            self.sides[me].mappings.insert(handle, mapping);
        }
        OKAY
    }
}
