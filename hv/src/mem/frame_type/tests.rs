//! What a frame may become, and what it may not.

use super::*;

fn owner() -> Owner {
    Owner::domain(1).unwrap()
}

#[test]
fn a_use_excludes_every_other_type() {
    let (table, todo) = FrameState::fresh(owner()).acquire(owner(), FrameType::L1).unwrap();
    assert_eq!(todo, Acquired::Unvalidated { retyped: false });
    let table = table.validated();
    assert_eq!(table.acquire(owner(), FrameType::Writable), Err(Errno::Busy));
    assert_eq!(table.acquire(owner(), FrameType::L1).unwrap().1, Acquired::Ready);
    assert_eq!(table.release_means(), Released::MustDevalidate);
    let idle = table.devalidated().unreference();
    let (writable, todo) = idle.acquire(owner(), FrameType::Writable).unwrap();
    assert_eq!(todo, Acquired::Changed);
    let (_, todo) = writable.release().acquire(owner(), FrameType::L1).unwrap();
    assert_eq!(todo, Acquired::Unvalidated { retyped: true });
}

#[test]
fn a_free_frame_or_a_stranger_s_gives_no_reference() {
    assert_eq!(FrameState::FREE.reference(owner()), Err(Errno::Inval));
    assert_eq!(FrameState::FREE.reference(Owner::NOBODY), Err(Errno::Inval));
    let other = Owner::domain(2).unwrap();
    assert_eq!(FrameState::fresh(other).reference(owner()), Err(Errno::Inval));
}

#[test]
fn a_past_that_nobody_knows_is_the_worst_one() {
    let unknown = FrameState::from_raw(FrameState::fresh(owner()).raw() & !TYPE);
    assert_eq!(unknown.kind(), FrameType::Unknown);
    assert_eq!(unknown.acquire(owner(), FrameType::L1).unwrap().1, Acquired::Unvalidated { retyped: true });
    assert_eq!(unknown.acquire(owner(), FrameType::Writable).unwrap().1, Acquired::Changed);
}

#[test]
fn a_frame_that_comes_back_has_the_past_it_left_with() {
    let idle = FrameState::fresh(owner()).acquire(owner(), FrameType::Writable).unwrap().0.release();
    for state in [FrameState::fresh(owner()), idle] {
        let away = state.withdrawn(owner()).unwrap();
        assert_eq!(away.reference(owner()), Err(Errno::Inval));
        assert_eq!(away.withdrawn(owner()), Err(Errno::Inval));
        assert_eq!(away.restored(owner()), state);
    }
    let held = idle.reference(owner()).unwrap();
    assert_eq!(held.withdrawn(owner()), Err(Errno::Busy));
}

#[test]
fn an_unfinished_validation_lets_nobody_in() {
    let (table, _) = FrameState::fresh(owner()).acquire(owner(), FrameType::L2).unwrap();
    assert_eq!(table.acquire(owner(), FrameType::L2), Err(Errno::Busy));
    assert_eq!(table.partial().acquire(owner(), FrameType::L2), Err(Errno::Busy));
}
