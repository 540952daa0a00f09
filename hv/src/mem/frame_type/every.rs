//! Every transition from every state: all types, flags and owners, with counts at all their edges. (Between its edges a
//! transition only adds to a count.)

use super::*;

const SHARED: u64 = Marks::SHARED.bits();
const VALIDATED: u64 = Marks::VALIDATED.bits();
const PARTIAL: u64 = Marks::PARTIAL.bits();
const PINNED: u64 = Marks::PINNED.bits();
const ALLOCATED: u64 = Marks::ALLOCATED.bits();

/// Counts of references at which something changes, those of uses, and their neighbours.
const REFS: [u64; 10] = [0, 1, 2, 3, 7, MANY_REFS - 1, MANY_REFS, MANY_REFS + 1, MAX_REFS - 1, MAX_REFS];
const USES_AT: [u64; 8] = [0, 1, 2, 3, MAX_USES / 2, MAX_USES / 2 + 1, MAX_USES - 1, MAX_USES];

/// All states that can be: a use holds a reference.
fn every(owners: impl Iterator<Item = u16> + Clone, mut look: impl FnMut(FrameState)) {
    for flags in 0..32_u64 {
        let flags = (flags & 15) << 60 | if flags & 16 != 0 { SHARED } else { 0 };
        for kind in 0..8_u64 {
            for owner in owners.clone() {
                for uses in USES_AT {
                    for refs in REFS.into_iter().filter(|&refs| refs >= uses) {
                        let counts = refs | uses << USES_SHIFT;
                        look(FrameState(flags | kind << TYPE_SHIFT | u64::from(owner) << OWNER_SHIFT | counts));
                    }
                }
            }
        }
    }
}

/// Owners at edges; the bits of all others are seen by `a_reference_is_the_owners_alone`.
const OWNERS: [u16; 7] = [0, 1, 255, Owner::XEN.0, Owner::HYPERVISOR.0, Owner::IO.0, Owner::NOBODY.0];

/// Two words are the same but for these bits.
fn same_but(one: FrameState, other: FrameState, bits: u64) -> bool {
    (one.0 ^ other.0) & !bits == 0
}

#[test]
fn a_reference_is_the_owners_alone() {
    let mut states = 0_u64;
    every(0..=Owner::MASK, |state| {
        states += 1;
        let asked = state.reference(Owner(1));
        let may = state.owner() == Owner(1) && state.refs() != 0 && state.refs() != MAX_REFS;
        assert_eq!(asked.ok(), may.then(|| FrameState(state.0 + ONE_REF)), "{state:?}");
        if let Some(next) = state.plus_reference_fast(Owner(1)) {
            assert!(state.owner() == Owner(1) && same_but(next, state, MAX_REFS), "{state:?}");
        }
    });
    assert!(states > 10_000_000, "{states}");
}

#[test]
fn a_type_changes_only_while_nobody_uses_it() {
    every(OWNERS.into_iter(), |state| {
        for owner in OWNERS.map(Owner) {
            for kind in FrameType::ALL {
                let Ok((next, todo)) = state.acquire(owner, kind) else { continue };
                assert!(owner.has_pages() && state.owner() == owner && state.refs() != 0, "{state:?}");
                assert_eq!((next.refs(), next.uses()), (state.refs() + 1, state.uses() + 1), "{state:?} as {kind:?}");
                assert_eq!(next.kind(), kind);
                assert!(same_but(next, state, MAX_REFS | USES | TYPE | VALIDATED), "{state:?}, {next:?}");
                if state.uses() != 0 {
                    let is_it = state.kind() == kind && state.is_validated() && todo == Acquired::Ready;
                    assert!(is_it, "law 1: {state:?} as {kind:?}");
                } else {
                    assert!(!state.is_partial(), "law 1: {state:?} is half way");
                    let is_trusted = next.is_validated();
                    assert_eq!(is_trusted, !kind.needs_validation(), "law 1: {state:?} as {kind:?}");
                    // What a CPU may still know is told to who takes the frame.
                    let is_told = !matches!(todo, Acquired::Ready | Acquired::Unvalidated { retyped: false });
                    assert_eq!(is_told, state.kind().may_be_known_otherwise(kind), "law 3: {state:?} as {kind:?}");
                }
            }
        }
    });
}

#[test]
fn what_is_given_back_is_a_count_and_nothing_else() {
    every(OWNERS.into_iter(), |state| {
        if state.uses() != 0 {
            let next = state.release();
            assert!(same_but(next, state, MAX_REFS | USES) && next.uses() + 1 == state.uses(), "{state:?}");
            assert_eq!(next.refs() + 1, state.refs());
            let idle = state.devalidated();
            assert!(same_but(idle, state, USES | VALIDATED | PARTIAL) && idle.refs() == state.refs(), "{state:?}");
            assert!(!idle.is_validated() && !idle.is_partial());
            let means = match state.uses() {
                1 if state.kind().needs_validation() => Released::MustDevalidate,
                1 => Released::Idle,
                _ => Released::InUse,
            };
            assert_eq!(state.release_means(), means, "{state:?}");
        }
        if state.refs() > state.uses() {
            assert!(same_but(state.unreference(), state, MAX_REFS), "{state:?}");
        }
        assert!(same_but(state.validated(), state, VALIDATED | PARTIAL) && state.validated().is_validated());
        assert!(same_but(state.partial(), state, VALIDATED | PARTIAL) && !state.partial().is_validated());
        assert!(same_but(state.pinned(), state, PINNED) && same_but(state.unpinned(), state, PINNED));
        assert!(same_but(state.deallocated(), state, ALLOCATED));
    });
}

#[test]
fn only_a_loose_frame_leaves_and_it_comes_back_as_it_was() {
    every(OWNERS.into_iter(), |state| {
        for owner in OWNERS.map(Owner) {
            let Ok(away) = state.withdrawn(owner) else { continue };
            assert!(state.is_loose() && state.owner() == owner, "{state:?}");
            assert_eq!((away.owner(), away.refs(), away.uses()), (Owner::HYPERVISOR, 0, 0));
            assert_eq!(away.restored(owner), state, "law 3: its past is forgotten");
        }
    });
}

#[test]
fn the_short_ways_lead_where_the_long_ones_do_from_every_state() {
    every(OWNERS.into_iter(), |state| {
        let owner = Owner(1);
        for kind in [FrameType::L1, FrameType::L2, FrameType::L3, FrameType::L4, FrameType::Writable] {
            let is_used = state.uses() != 0 || kind == FrameType::Writable;
            if let Some(next) = state.plus_table_use_fast(owner, kind)
                && is_used
                && state.refs() != 0
            {
                assert_eq!(state.acquire(owner, kind), Ok((next, Acquired::Ready)), "{state:?}");
            }
        }
        if let Some((next, is_last)) = state.minus_writable_fast()
            && state.uses() != 0
        {
            assert_eq!((next, is_last), (state.release(), state.release_means() == Released::Idle), "{state:?}");
        }
        if let Some(next) = state.minus_table_use_fast() {
            assert_eq!((next, state.release_means()), (state.release(), Released::InUse), "{state:?}");
        }
        if let Some(next) = state.minus_reference_fast()
            && state.refs() > state.uses()
        {
            assert!(next == state.unreference() && next.refs() != 0, "{state:?}");
        }
    });
}
