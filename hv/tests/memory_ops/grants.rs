//! Mappings of frames of others, as the grant table's code makes them.

use crate::{
    support::entry_address,
    world::{Outcome, Player, World, release_claim},
};
use oxen_hv::{
    addr::{GuestAddr, MachineAddr},
    mem::{Hold, editor::Editor, entry::Entry, grant_mapping::At},
};

impl World {
    /// Where a mapping of a grant may be asked for.
    pub(crate) fn place(&mut self, player: usize) -> At {
        let va = GuestAddr::new((1 + self.random.below(40)) << 12);
        if self.random.chance(70) {
            return At::Address(self.players[player].guest.state.kernel_root.unwrap(), va);
        }
        let misaligned = u64::from(self.random.chance(5));
        At::Entry(MachineAddr::new(entry_address(self.table(player), self.slot()) + misaligned))
    }

    /// Claims a frame of another and maps it, as the grant table's code does.
    pub(crate) fn map_grant(&mut self, player: usize) -> Outcome {
        let granter = self.random.below(self.players.len() as u64) as usize;
        let owner = self.players[granter].guest.domain.owner();
        let (frame, writable, at) = (self.frame(granter), self.random.chance(50), self.place(player));
        let hv = self.hv;
        let hold = if writable { Hold::Writable } else { Hold::Reference };
        let Ok(held) = hv.memory.hold_as(frame, owner, hold) else { return Outcome::Refused };
        let Player { guest, claims, .. } = &mut self.players[player];
        let flags = if writable { Entry::PRESENT | Entry::WRITABLE } else { Entry::PRESENT };
        let mapped = Editor::open(&hv.memory, &guest.domain.memory)
            .and_then(|mut editor| editor.map_grant(at, frame, owner, flags));
        if mapped.is_ok() {
            claims.push((held.into_entry().mfn(), writable));
            return Outcome::Done;
        }
        Outcome::Refused
    }

    /// Unmaps a claimed frame, or what may not be one, and gives up the claim after a flush.
    pub(crate) fn unmap_grant(&mut self, player: usize) -> Outcome {
        let at = self.place(player);
        let claim = match self.players[player].claims.len() as u64 {
            0 => None,
            count => Some(self.random.below(count) as usize),
        };
        let (frame, writable) = match claim {
            Some(index) if self.random.chance(90) => self.players[player].claims[index],
            _ => (self.frame(player), self.random.chance(50)),
        };
        let from = self.random.chance(20).then(|| GuestAddr::new((1 + self.random.below(40)) << 12));
        let hv = self.hv;
        let Player { guest, claims, .. } = &mut self.players[player];
        let root = guest.state.kernel_root.unwrap();
        let Ok(mut editor) = Editor::open(&hv.memory, &guest.domain.memory) else { return Outcome::Partly };
        let unmapped = match from {
            Some(va) => editor.replace_grant(at, frame, writable, (root, va)),
            None => editor.unmap_grant(at, frame, writable),
        };
        drop(editor);
        if unmapped.is_err() && from.is_none() {
            return Outcome::Refused;
        }
        hv.memory.flush_cpus(hv.memory.frames.tlb.cpus_of(guest.domain.owner()));
        if unmapped.is_err() {
            // What was to be moved may be gone.
            return Outcome::Partly;
        }
        if let Some(index) = claims.iter().position(|&claim| claim == (frame, writable)) {
            release_claim(hv, claims.swap_remove(index));
        }
        Outcome::Done
    }
}
