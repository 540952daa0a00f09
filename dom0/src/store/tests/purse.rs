//! What domains pay, and what happens to those who cannot.

use super::*;

#[test]
fn who_has_spent_its_purse_gets_an_error_and_can_let_go() {
    let mut s = store();
    let purse = s.purses().of(1);
    let mut written = 0;
    while ask(&mut s, 1, xs::XS_WRITE, &[format!("d{}/n{written}\0", written / 10).as_bytes(), &[7; 1900]].concat())
        .is_ok()
    {
        written += 1;
    }
    assert!(purse.heap.left() < 3000 && written < s.limits().nodes / 2, "{purse:?}");
    for (kind, payload) in
        [(xs::XS_WRITE, b"more\0".as_slice()), (xs::XS_WATCH, b"w\0t\0"), (xs::XS_TRANSACTION_START, b"\0")]
    {
        let filler = purse.heap.charge(purse.heap.left()).unwrap();
        assert_eq!(ask(&mut s, 1, kind, payload), Err("ENOSPC".into()));
        drop(filler);
    }
    // Nobody else notices, and dom0 is not refused either.
    ask(&mut s, 2, xs::XS_WRITE, &[b"v\0".as_slice(), &[1; 1900]].concat()).unwrap();
    let used = purse.heap.used();
    ask(&mut s, 0, xs::XS_WRITE, &[b"/local/domain/1/by-dom0\0".as_slice(), &[1; 4000]].concat()).unwrap();
    let by_dom0 = Path::resolve("/local/domain/1/by-dom0", 0).unwrap();
    assert_eq!(s.tree().get(&by_dom0).unwrap().permissions.owner, 1);
    assert!(purse.heap.used() <= used, "dom0 pays for what its owner cannot pay");
    s.tree().audit().unwrap();
    // The same value again needs nothing more, less gives back, and what is removed is room for others.
    ask(&mut s, 1, xs::XS_WRITE, &[b"d0/n0\0".as_slice(), &[8; 1900]].concat()).unwrap();
    ask(&mut s, 1, xs::XS_WRITE, b"d0/n0\0").unwrap();
    assert!(purse.heap.used() < used);
    ask(&mut s, 1, xs::XS_RM, b"d1\0").unwrap();
    ask(&mut s, 1, xs::XS_WATCH, b"w\0t\0").unwrap();
    ask(&mut s, 1, xs::XS_WRITE, b"more\0").unwrap();
    s.tree().audit().unwrap();
}

#[test]
fn what_a_transaction_touches_is_paid_for_and_nothing_else() {
    let mut s = store();
    for i in 0..100 {
        ask(&mut s, 1, xs::XS_WRITE, &[format!("big/n{i}\0").as_bytes(), &[1; 1000]].concat()).unwrap();
    }
    let purse = s.purses().of(1);
    let before = purse.heap.used();
    let tx = s.start_transaction(1).unwrap();
    let empty = purse.heap.used() - before;
    ask_in(&mut s, 1, tx, xs::XS_READ, b"big/n1\0").unwrap();
    let read = purse.heap.used() - before - empty;
    assert!((1000..2500).contains(&read) && empty < 4096, "{empty} for a transaction, {read} for a node of 1000 bytes");
    ask_in(&mut s, 1, tx, xs::XS_READ, b"big/n1\0").unwrap();
    assert_eq!(purse.heap.used(), before + empty + read, "what has been seen is not paid for again");
    ask_in(&mut s, 1, tx, xs::XS_WRITE, b"big/n1\0x").unwrap();
    s.end_transaction(1, tx, true).unwrap();
    assert!(purse.heap.used() < before, "the value has become shorter");
    // One that cannot pay for its next step can be given up, or carried out as far as it came.
    let tx = s.start_transaction(1).unwrap();
    ask_in(&mut s, 1, tx, xs::XS_WRITE, b"big/n2\0y").unwrap();
    let filler = purse.heap.charge(purse.heap.left()).unwrap();
    assert_eq!(ask_in(&mut s, 1, tx, xs::XS_READ, b"big/n3\0"), Err("ENOSPC".into()));
    assert_eq!(ask_in(&mut s, 1, tx, xs::XS_TRANSACTION_END, b"T\0"), Ok(b"OK\0".to_vec()));
    assert_eq!(ask(&mut s, 1, xs::XS_READ, b"big/n2\0"), Ok(b"y".to_vec()));
    drop(filler);
    s.reset(1);
    s.tree().audit().unwrap();
}

#[test]
fn what_others_do_leaves_a_domain_room_of_its_own() {
    let mut s = store();
    ask(&mut s, 1, xs::XS_MKDIR, b"shared\0").unwrap();
    ask(&mut s, 1, xs::XS_SET_PERMS, b"shared\0n1\0r2\0").unwrap();
    for i in 0..20 {
        let token = format!("{i}{}", "t".repeat(900));
        ask(&mut s, 2, xs::XS_WATCH, format!("/local/domain/1/shared\0{token}\0").as_bytes()).unwrap();
    }
    let mut waiting = s.take_events();
    for i in 0..100 {
        ask(&mut s, 1, xs::XS_WRITE, format!("shared/{i}\0").as_bytes()).unwrap();
        waiting.extend(s.take_events());
    }
    assert!(s.is_behind(2) && s.take_late() == [2] && waiting.len() < 1000, "{} events", waiting.len());
    ask(&mut s, 2, xs::XS_WRITE, &[b"own\0".as_slice(), &[1; 1900]].concat()).unwrap();
    drop(waiting);
    s.catch_up(2);
    assert_eq!((s.take_events().len(), s.is_behind(2)), (20, false));
}

#[test]
fn domains_that_come_and_go_leave_nothing_in_each_others_homes() {
    let mut s = store();
    ask(&mut s, 1, xs::XS_MKDIR, b"guests\0").unwrap();
    ask(&mut s, 1, xs::XS_SET_PERMS, b"guests\0n1\0b2\0").unwrap();
    ask(&mut s, 1, xs::XS_WATCH, b"guests/a\0t\0").unwrap();
    let nodes = s.tree().iter().count();
    for _ in 0..3 {
        s.introduce(2);
        ask(&mut s, 1, xs::XS_SET_PERMS, b"guests\0n1\0b2\0").unwrap();
        for i in 0..100 {
            ask(&mut s, 2, xs::XS_WRITE, format!("/local/domain/1/guests/a/n{i}\0").as_bytes()).unwrap();
        }
        ask(&mut s, 2, xs::XS_SET_PERMS, b"/local/domain/1/guests/a\0r2\0").unwrap();
        events(&mut s);
        let dom0 = s.purses().of(0).heap.used();
        s.release(2).unwrap();
        assert!(events(&mut s).contains(&(1, "guests/a".into())), "who watches learns of it");
        assert!(s.purses().of(0).heap.used() <= dom0);
        s.tree().audit().unwrap();
    }
    // The home of domain 2 was its own as well.
    assert_eq!(s.tree().iter().count(), nodes - 1);
}
