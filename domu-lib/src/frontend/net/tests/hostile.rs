//! Both halves against a backend that says anything at all.

use std::sync::atomic::Ordering;

use oxen_abi::io::netif::{NetifRxResponse, NetifTxResponse};
use proptest::prelude::{Strategy, any, prop_assert, proptest};

use super::{Frame, Receiving, Sending, data};

/// One thing that a backend does.
#[derive(Clone, Copy, Debug)]
enum Deed {
    /// Answers with these bytes, as many times.
    Answer([u8; 8], u8),
    /// Answers a receive request so that it could be true.
    Fill { flags: u16, length: u16 },
    /// Writes any index into the ring.
    Index(u8, u32),
}

fn deed() -> impl Strategy<Value = Deed> {
    let index = (0..4u8, proptest::prelude::prop_oneof![any::<u32>(), 0..600u32]);
    proptest::prop_oneof![
        8 => (0..16u16, 0..4097u16).prop_map(|(flags, length)| Deed::Fill { flags, length }),
        2 => (any::<[u8; 8]>(), 1..20u8).prop_map(|(bytes, times)| Deed::Answer(bytes, times)),
        1 => index.prop_map(|(word, value)| Deed::Index(word, value)),
    ]
}

proptest! {
    #[test]
    fn no_backend_breaks_the_receiver(deeds in proptest::collection::vec(deed(), 0..200)) {
        let mut receiving = Receiving::new(64);
        for deed in deeds {
            match deed {
                Deed::Index(word, value) => receiving.page[usize::from(word)].store(value, Ordering::Relaxed),
                Deed::Fill { flags, length } => {
                    let Ok(Some(request)) = receiving.back.pop() else { continue };
                    let answer = NetifRxResponse { id: request.id, offset: 0, flags, status: length as i16 };
                    let _ = receiving.back.push(&answer);
                }
                Deed::Answer(bytes, times) => for _ in 0..times {
                    let _ = receiving.back.pop();
                    let _ = receiving.back.push_as(&bytes);
                },
            }
            let _ = receiving.back.publish();
            loop {
                match receiving.half.receive() {
                    Ok(Some(frame)) => prop_assert!((14..=65_554).contains(&frame.bytes.len())),
                    Ok(None) => break,
                    // The device closes.
                    Err(_) => return Ok(()),
                }
            }
            let _ = receiving.half.post();
            prop_assert!(receiving.granted.borrow().len() <= 64);
        }
    }

    #[test]
    fn no_backend_breaks_the_transmitter(deeds in proptest::collection::vec((deed(), 0..9000usize), 0..200)) {
        let mut sending = Sending::new(64);
        let mut last = std::vec![];
        for (deed, length) in deeds {
            match deed {
                Deed::Index(word, value) => sending.page[usize::from(word)].store(value, Ordering::Relaxed),
                Deed::Fill { flags, .. } => for id in last.drain(..) {
                    let _ = sending.back.push(&NetifTxResponse { id, status: flags as i16 & 1 });
                },
                Deed::Answer(bytes, times) => for _ in 0..times {
                    let _ = sending.back.push_as(&<[u8; 4]>::try_from(&bytes[..4]).unwrap());
                },
            }
            let _ = sending.back.publish();
            if sending.half.reap().is_err() {
                return Ok(());
            }
            let frame = Frame { segment: (length % 3 == 0).then_some(1000), ..Frame::new(data(length)) };
            let _ = sending.half.send(&frame);
            let _ = sending.half.publish();
            while let Ok(Some(request)) = sending.back.pop() {
                last.push(request.id);
            }
            prop_assert!(sending.granted.borrow().len() <= 64);
        }
    }
}
