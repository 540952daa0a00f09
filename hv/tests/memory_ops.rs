//! Memory under hostile hands: random operations on page tables and reservations, the laws checked after each.

mod support;

#[test]
fn frames_come_and_go() {
    let hv = support::boot(256);
    let before = hv.frames.free_frames();
    let guest = support::guest::Guest::new(hv, 1, false, 64);
    let frames: Vec<_> = (0..64).map(|_| guest.frame()).collect();
    assert!(oxen_hv::mem::frame_alloc::take_for(hv, &guest.domain, 0).is_err());
    for frame in frames {
        hv.frames.release_from_reservation(frame, guest.domain.owner).unwrap();
    }
    assert_eq!(hv.frames.free_frames(), before - 1);
}
