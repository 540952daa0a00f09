//! The store under friendly, hostile and random requests.

use super::{request::Effect, wire::Message, *};
use alloc::{format, string::String};
use oxen_abi::io::xs_wire as xs;
use oxen_domu_lib::memory::Mfn;
use proptest::prelude::*;

mod purse;

fn store() -> Store {
    let mut store = Store::new(Limits::default(), Purses::new());
    for domain in [1, 2, 3] {
        store.introduce(domain);
        let home = Path::home(domain);
        store.make(0, 0, &home).unwrap();
        store.set_permissions(0, 0, &home, Permissions::private(domain)).unwrap();
    }
    store.take_events();
    store
}

fn ask(store: &mut Store, domain: DomId, kind: u32, payload: &[u8]) -> Result<Vec<u8>, String> {
    ask_in(store, domain, 0, kind, payload)
}

fn ask_in(store: &mut Store, domain: DomId, tx: u32, kind: u32, payload: &[u8]) -> Result<Vec<u8>, String> {
    let message = Message { kind, request: 42, transaction: tx, payload: payload.to_vec() };
    let reply = store.request(domain, &message).reply;
    assert_eq!((reply.request, reply.transaction), (42, tx));
    if reply.kind == kind {
        Ok(reply.payload)
    } else {
        assert_eq!(reply.kind, xs::XS_ERROR);
        Err(String::from_utf8(reply.payload).unwrap().trim_end_matches('\0').into())
    }
}

/// All that everybody can see.
fn snapshot(store: &Store) -> Vec<(Path, Node)> {
    store.tree().iter().map(|(path, node)| (path.clone(), node.clone())).collect()
}

fn events(store: &mut Store) -> Vec<(DomId, String)> {
    store.take_events().into_iter().map(|e| (e.domain, e.path)).collect()
}

#[test]
fn a_guest_reads_what_it_wrote() {
    let mut s = store();
    assert_eq!(ask(&mut s, 1, xs::XS_WRITE, b"data/x\0a\0b"), Ok(b"OK\0".to_vec()));
    assert_eq!(ask(&mut s, 1, xs::XS_READ, b"data/x\0"), Ok(b"a\0b".to_vec()));
    assert_eq!(ask(&mut s, 0, xs::XS_READ, b"/local/domain/1/data/x\0"), Ok(b"a\0b".to_vec()));
    assert_eq!(ask(&mut s, 1, xs::XS_DIRECTORY, b"data\0"), Ok(b"x\0".to_vec()));
    assert_eq!(ask(&mut s, 1, xs::XS_GET_PERMS, b"data/x\0"), Ok(b"n1\0".to_vec()));
    assert_eq!(ask(&mut s, 1, xs::XS_READ, b"data/y\0"), Err("ENOENT".into()));
}

#[test]
fn a_guest_sees_and_touches_nothing_of_others() {
    let mut s = store();
    ask(&mut s, 1, xs::XS_WRITE, b"secret\0x").unwrap();
    for name in ["/local/domain/1/secret\0", "/local/domain/1/nothing\0", "/vm/x\0"] {
        assert_eq!(ask(&mut s, 2, xs::XS_READ, name.as_bytes()), Err("EACCES".into()), "{name}");
        assert_eq!(ask(&mut s, 2, xs::XS_WRITE, name.as_bytes()), Err("EACCES".into()), "{name}");
        assert_eq!(ask(&mut s, 2, xs::XS_RM, name.as_bytes()), Err("EACCES".into()), "{name}");
    }
    assert_eq!(ask(&mut s, 2, xs::XS_SET_PERMS, b"/local/domain/1/secret\0b2\0"), Err("EACCES".into()));
    assert_eq!(ask(&mut s, 1, xs::XS_SET_PERMS, b"secret\0n2\0"), Err("EPERM".into()));
    assert_eq!(ask(&mut s, 1, xs::XS_SET_PERMS, b"secret\0n1\0r2\0"), Ok(b"OK\0".to_vec()));
    assert_eq!(ask(&mut s, 2, xs::XS_READ, b"/local/domain/1/secret\0"), Ok(b"x".to_vec()));
}

#[test]
fn privileged_requests_are_for_dom0() {
    let mut s = store();
    for kind in [xs::XS_INTRODUCE, xs::XS_RELEASE, xs::XS_SET_TARGET, xs::XS_CONTROL, xs::XS_RESUME] {
        assert_eq!(ask(&mut s, 1, kind, b"2\x003\x004\0"), Err("EACCES".into()));
    }
    let message = Message { kind: xs::XS_INTRODUCE, request: 0, transaction: 0, payload: b"9\x00123\x004\0".to_vec() };
    assert_eq!(s.request(0, &message).effect, Some(Effect::Serve { domain: 9, gfn: Mfn::new(123), port: 4 }));
    assert_eq!(ask(&mut s, 1, xs::XS_IS_DOMAIN_INTRODUCED, b"9\0"), Ok(b"T\0".to_vec()));
    assert_eq!(ask(&mut s, 0, xs::XS_RELEASE, b"9\0"), Ok(b"OK\0".to_vec()));
    assert_eq!(ask(&mut s, 0, xs::XS_RELEASE, b"9\0"), Err("ENOENT".into()));
    assert_eq!(ask(&mut s, 1, xs::XS_IS_DOMAIN_INTRODUCED, b"9\0"), Ok(b"F\0".to_vec()));
    assert_eq!(ask(&mut s, 1, xs::XS_GET_DOMAIN_PATH, b"9\0"), Ok(b"/local/domain/9\0".to_vec()));
    assert_eq!(ask(&mut s, 0, xs::XS_CONTROL, b"check\0"), Ok(b"OK\n\0".to_vec()));
    assert_eq!(ask(&mut s, 0, 4711, b"\0"), Err("ENOSYS".into()));
}

#[test]
fn watches_fire_at_once_and_for_everything_below() {
    let mut s = store();
    ask(&mut s, 1, xs::XS_WATCH, b"data\0token\0").unwrap();
    ask(&mut s, 0, xs::XS_WATCH, b"/local\0t0\0").unwrap();
    assert_eq!(events(&mut s), [(1, "data".into()), (0, "/local".into())]);
    assert_eq!(ask(&mut s, 1, xs::XS_WATCH, b"data\0token\0"), Err("EEXIST".into()));
    ask(&mut s, 1, xs::XS_WRITE, b"data/a/b\0x").unwrap();
    assert_eq!(events(&mut s), [(1, "data/a/b".into()), (0, "/local/domain/1/data/a/b".into())]);
    ask(&mut s, 1, xs::XS_WATCH, b"/local/domain/1/data/a/b\0deep\0").unwrap();
    events(&mut s);
    ask(&mut s, 0, xs::XS_RM, b"/local/domain/1/data\0").unwrap();
    let mut seen = events(&mut s);
    seen.sort();
    let below = "/local/domain/1/data/a/b".into();
    assert_eq!(seen, [(0, "/local/domain/1/data".into()), (1, below), (1, "data".into())]);
    assert_eq!(ask(&mut s, 1, xs::XS_UNWATCH, b"data\0other\0"), Err("ENOENT".into()));
    assert_eq!(ask(&mut s, 1, xs::XS_UNWATCH, b"data\0token\0"), Ok(b"OK\0".to_vec()));
    ask(&mut s, 1, xs::XS_RESET_WATCHES, b"\0").unwrap();
    ask(&mut s, 1, xs::XS_WRITE, b"data/a/b\0x").unwrap();
    assert_eq!(events(&mut s), [(0, "/local/domain/1/data/a/b".into())]);
}

#[test]
fn watches_keep_secrets() {
    let mut s = store();
    ask(&mut s, 2, xs::XS_WATCH, b"/local/domain/1\0t\0").unwrap();
    ask(&mut s, 2, xs::XS_WATCH, b"@releaseDomain\0t\0").unwrap();
    events(&mut s);
    ask(&mut s, 1, xs::XS_WRITE, b"hidden\0x").unwrap();
    s.release(3).unwrap();
    assert_eq!(events(&mut s), []);
    ask(&mut s, 1, xs::XS_SET_PERMS, b"hidden\0n1\0r2\0").unwrap();
    assert_eq!(events(&mut s), [(2, "/local/domain/1/hidden".into())]);
    ask(&mut s, 1, xs::XS_RM, b"hidden\0").unwrap();
    assert_eq!(events(&mut s), [(2, "/local/domain/1/hidden".into())], "who could read it learns that it went");
    ask(&mut s, 0, xs::XS_SET_PERMS, b"@releaseDomain\0n0\0r2\0").unwrap();
    events(&mut s);
    s.announce_end();
    assert_eq!(events(&mut s), [(2, "@releaseDomain".into())]);
}

#[test]
fn a_transaction_is_all_or_nothing() {
    let mut s = store();
    ask(&mut s, 1, xs::XS_WRITE, b"n\x000").unwrap();
    ask(&mut s, 0, xs::XS_WATCH, b"/local/domain/1/n\0t\0").unwrap();
    events(&mut s);
    let (a, b) = (s.start_transaction(1).unwrap(), s.start_transaction(1).unwrap());
    for tx in [a, b] {
        assert_eq!(ask_in(&mut s, 1, tx, xs::XS_READ, b"n\0"), Ok(b"0".to_vec()));
        ask_in(&mut s, 1, tx, xs::XS_WRITE, b"n\x001").unwrap();
        assert_eq!(ask_in(&mut s, 1, tx, xs::XS_READ, b"n\0"), Ok(b"1".to_vec()));
    }
    assert_eq!(ask(&mut s, 1, xs::XS_READ, b"n\0"), Ok(b"0".to_vec()));
    assert_eq!(events(&mut s), []);
    assert_eq!(ask_in(&mut s, 2, a, xs::XS_TRANSACTION_END, b"T\0"), Err("ENOENT".into()));
    assert_eq!(ask_in(&mut s, 1, a, xs::XS_TRANSACTION_END, b"T\0"), Ok(b"OK\0".to_vec()));
    assert_eq!(events(&mut s), [(0, "/local/domain/1/n".into())]);
    assert_eq!(ask_in(&mut s, 1, b, xs::XS_TRANSACTION_END, b"T\0"), Err("EAGAIN".into()));
    assert_eq!(ask_in(&mut s, 1, b, xs::XS_TRANSACTION_END, b"T\0"), Err("ENOENT".into()));
    assert_eq!(ask_in(&mut s, 1, 99, xs::XS_READ, b"n\0"), Err("ENOENT".into()));
    let c = s.start_transaction(1).unwrap();
    assert_eq!(ask_in(&mut s, 1, c, xs::XS_TRANSACTION_START, b"\0"), Err("EBUSY".into()));
    ask_in(&mut s, 1, c, xs::XS_RM, b"n\0").unwrap();
    ask_in(&mut s, 1, c, xs::XS_TRANSACTION_END, b"F\0").unwrap();
    assert_eq!(ask(&mut s, 1, xs::XS_READ, b"n\0"), Ok(b"1".to_vec()));
}

#[test]
fn absence_is_part_of_what_a_transaction_saw() {
    let mut s = store();
    let tx = s.start_transaction(1).unwrap();
    assert_eq!(ask_in(&mut s, 1, tx, xs::XS_READ, b"later\0"), Err("ENOENT".into()));
    ask_in(&mut s, 1, tx, xs::XS_WRITE, b"other\0x").unwrap();
    ask(&mut s, 1, xs::XS_WRITE, b"later\0x").unwrap();
    assert_eq!(ask_in(&mut s, 1, tx, xs::XS_TRANSACTION_END, b"T\0"), Err("EAGAIN".into()));
    assert_eq!(ask(&mut s, 1, xs::XS_READ, b"other\0"), Err("ENOENT".into()));
}

#[test]
fn quotas_hold_inside_and_outside_transactions() {
    let mut s = store();
    for i in 0..999 {
        ask(&mut s, 1, xs::XS_WRITE, format!("d{}/n{i}\0", i % 40).as_bytes()).map_err(|e| (i, e)).ok();
    }
    assert!(s.tree().iter().filter(|(_, n)| n.permissions.owner == 1).count() == 1000);
    assert_eq!(ask(&mut s, 1, xs::XS_WRITE, b"more\0"), Err("ENOSPC".into()));
    let tx = s.start_transaction(1).unwrap();
    assert_eq!(ask_in(&mut s, 1, tx, xs::XS_MKDIR, b"more\0"), Err("ENOSPC".into()));
    assert_eq!(ask(&mut s, 2, xs::XS_WRITE, &[b"v\0".as_slice(), &[1; 2048]].concat()), Err("ENOSPC".into()));
    for i in 0..128 {
        ask(&mut s, 2, xs::XS_WATCH, format!("w\0{i}\0").as_bytes()).unwrap();
    }
    assert_eq!(ask(&mut s, 2, xs::XS_WATCH, b"w\0again\0"), Err("E2BIG".into()));
    (0..10).for_each(|_| _ = s.start_transaction(3).unwrap());
    assert_eq!(s.start_transaction(3), Err(Error::NoSpace));
    assert_eq!(ask(&mut s, 3, xs::XS_MKDIR, "a/".repeat(600).trim_end_matches('/').as_bytes()), Err("EINVAL".into()));
    assert_eq!(ask(&mut s, 3, xs::XS_SET_PERMS, b"\0r3\0"), Err("EINVAL".into()));
    assert_eq!(ask(&mut s, 3, xs::XS_SET_PERMS, b"/local/domain/3\0r3\0r4\0r5\0r6\0r7\0r8\0"), Err("ENOSPC".into()));
    s.tree().audit().unwrap();
}

#[test]
fn two_transactions_cannot_pass_a_quota_together() {
    let mut s = Store::new(Limits { nodes: 3, ..Limits::default() }, Purses::new());
    s.introduce(1);
    for name in ["/a", "/b"] {
        let path = Path::resolve(name, 0).unwrap();
        s.make(0, 0, &path).unwrap();
        s.set_permissions(0, 0, &path, Permissions::private(1)).unwrap();
    }
    let (x, y) = (s.start_transaction(1).unwrap(), s.start_transaction(1).unwrap());
    ask_in(&mut s, 1, x, xs::XS_MKDIR, b"/a/x\0").unwrap();
    ask_in(&mut s, 1, y, xs::XS_MKDIR, b"/b/y\0").unwrap();
    assert_eq!(s.end_transaction(1, x, true), Ok(()));
    assert_eq!(s.end_transaction(1, y, true), Err(Error::NoSpace));
}

#[test]
fn a_long_directory_comes_in_parts() {
    let mut s = store();
    for i in 0..1500 {
        ask(&mut s, 0, xs::XS_MKDIR, format!("/big/n{i}\0").as_bytes()).unwrap();
    }
    assert_eq!(ask(&mut s, 0, xs::XS_DIRECTORY, b"/big\0"), Err("E2BIG".into()));
    let (mut names, mut rounds) = (Vec::new(), 0);
    loop {
        let part = ask(&mut s, 0, xs::XS_DIRECTORY_PART, format!("/big\0{}\0", names.len()).as_bytes()).unwrap();
        let start = part.iter().position(|&b| b == 0).unwrap() + 1;
        assert!(part.len() <= 4096);
        rounds += 1;
        if part.ends_with(b"\0\0") {
            names.extend_from_slice(&part[start..part.len() - 1]);
            break;
        }
        names.extend_from_slice(&part[start..]);
    }
    assert!(rounds > 1);
    assert_eq!(names.split(|&b| b == 0).filter(|n| !n.is_empty()).count(), 1500);
    assert_eq!(ask(&mut s, 0, xs::XS_DIRECTORY_PART, b"/big\099999\0"), Err("EINVAL".into()));
}

#[test]
fn a_domain_number_that_comes_back_inherits_nothing() {
    let mut s = store();
    ask(&mut s, 0, xs::XS_WRITE, b"/shared\0x").unwrap();
    ask(&mut s, 0, xs::XS_SET_PERMS, b"/shared\0n0\0b1\0").unwrap();
    ask(&mut s, 1, xs::XS_WATCH, b"/shared\0t\0").unwrap();
    s.start_transaction(1).unwrap();
    s.release(1).unwrap();
    s.introduce(1);
    events(&mut s);
    assert_eq!(ask(&mut s, 1, xs::XS_READ, b"/shared\0"), Err("EACCES".into()));
    assert_eq!(ask(&mut s, 1, xs::XS_READ, b"/local/domain/1\0"), Err("EACCES".into()));
    ask(&mut s, 0, xs::XS_WRITE, b"/shared\0y").unwrap();
    assert_eq!(events(&mut s), []);
    s.tree().audit().unwrap();
}

#[test]
fn removing_is_idempotent_below_an_existing_node() {
    let mut s = store();
    assert_eq!(ask(&mut s, 1, xs::XS_RM, b"absent\0"), Ok(b"OK\0".to_vec()));
    assert_eq!(ask(&mut s, 1, xs::XS_RM, b"absent/deep\0"), Err("ENOENT".into()));
    assert_eq!(ask(&mut s, 0, xs::XS_RM, b"/\0"), Err("EINVAL".into()));
    assert_eq!(ask(&mut s, 0, xs::XS_RM, b"@releaseDomain\0"), Err("EINVAL".into()));
    assert_eq!(ask(&mut s, 0, xs::XS_WRITE, b"@releaseDomain\0x"), Err("EINVAL".into()));
}

#[test]
fn a_deep_tree_goes_without_recursion() {
    let mut s = store();
    let path = "/a".repeat(1500);
    ask(&mut s, 0, xs::XS_WRITE, format!("{path}\0").as_bytes()).unwrap();
    s.tree().audit().unwrap();
    ask(&mut s, 0, xs::XS_RM, b"/a\0").unwrap();
    assert!(s.tree().get(&Path::resolve("/a", 0).unwrap()).is_none());
}

fn payloads() -> impl Strategy<Value = Vec<u8>> {
    let name = prop_oneof![
        Just("a"),
        Just("a/b"),
        Just("a/b/c"),
        Just("/local/domain/1/a"),
        Just("/local/domain/2/a/b"),
        Just("/"),
        Just("@releaseDomain"),
        Just("/local/domain/0/backend/x"),
        Just("a//")
    ];
    let tail = prop_oneof![
        Just(b"T\0".to_vec()),
        Just(b"F\0".to_vec()),
        Just(b"token\0".to_vec()),
        Just(b"n1\0r2\0".to_vec()),
        Just(b"b2\0".to_vec()),
        Just(b"1\x002\x003\0".to_vec()),
        proptest::collection::vec(any::<u8>(), 0..8)
    ];
    prop_oneof![
        4 => (name, tail.clone()).prop_map(|(n, t)| [n.as_bytes(), b"\0", &t].concat()),
        1 => tail
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn whatever_is_asked_the_store_stays_whole_and_refusals_change_nothing(
        requests in proptest::collection::vec((0u16..4, 0u32..22, 0u32..4, payloads()), 1..60)
    ) {
        let mut s = store();
        for (domain, kind, tx, payload) in requests {
            let before = snapshot(&s);
            s.take_events();
            let spent: Vec<usize> = (1..4).map(|d| s.purses().of(d).heap.used()).collect();
            let message = Message { kind, request: 1, transaction: tx, payload };
            let outcome = s.request(domain, &message);
            prop_assert!(s.tree().audit().is_ok());
            if outcome.reply.kind == xs::XS_ERROR {
                prop_assert_eq!(snapshot(&s), before);
            }
            let owned = |d| s.tree().iter().filter(|(_, n)| n.permissions.owner == d).count();
            prop_assert!((1..4).all(|d| owned(d) <= s.limits().nodes));
            // Inside a transaction, that there is nothing has been seen, and is paid for.
            if outcome.reply.kind == xs::XS_ERROR && tx == 0 {
                prop_assert_eq!((1..4).map(|d| s.purses().of(d).heap.used()).collect::<Vec<_>>(), spent);
            }
        }
    }

    #[test]
    fn transactions_that_commit_could_have_run_alone(
        steps in proptest::collection::vec((0usize..3, 0u8..3, 0u8..3), 1..40)
    ) {
        // Counters: each step adds one to a node inside a transaction. Lost updates would show in the sums.
        let mut s = store();
        let mut open: [Option<(u32, [u32; 3])>; 3] = [None; 3];
        let mut committed = [0u32; 3];
        for (client, node, action) in steps {
            let name = format!("c{node}\0");
            match (open[client], action) {
                (None, _) => open[client] = Some((s.start_transaction(1).unwrap(), [0; 3])),
                (Some((tx, adds)), 0) => {
                    if s.end_transaction(1, tx, true).is_ok() {
                        (0..3).for_each(|i| committed[i] += adds[i]);
                    }
                    open[client] = None;
                }
                (Some((tx, mut adds)), _) => {
                    let old = ask_in(&mut s, 1, tx, xs::XS_READ, name.as_bytes()).unwrap_or_default();
                    let old: u32 = core::str::from_utf8(&old).unwrap().parse().unwrap_or(0);
                    ask_in(&mut s, 1, tx, xs::XS_WRITE, format!("{name}{}", old + 1).as_bytes()).unwrap();
                    adds[usize::from(node)] += 1;
                    open[client] = Some((tx, adds));
                }
            }
        }
        for (node, sum) in committed.iter().enumerate() {
            let value = ask(&mut s, 1, xs::XS_READ, format!("c{node}\0").as_bytes()).unwrap_or_default();
            let value: u32 = core::str::from_utf8(&value).unwrap().parse().unwrap_or(0);
            prop_assert_eq!(value, *sum);
        }
    }
}
