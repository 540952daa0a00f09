//! Saved domains as they lie on a disk, and as they come over the network.

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use anyhow::{Context as _, Result};
use oxen_dom0::saved::sealed::{Key, Messages, Sealed};
use oxen_dom0::saved::stream::{Sink, Source};
use oxen_dom0::saved::talk::{Fate, Giver, Taker};
use oxen_dom0::saved::walk::Judge;
use oxen_dom0::saved::{config, record};

/// A whole stream, as far as it is one: each record's body is read, and the pages' numbers and kinds.
pub(crate) fn stream(mut input: &[u8]) {
    let mut judge = Judge::default();
    // That it is none is an answer, too.
    let _ = now(judge.read(&mut input));
    let _ = config_comes_back(&judge.config);
    assert!(judge.pages.iter().all(|(page, _)| page.raw() < 1 << record::KIND_SHIFT));
    assert!(judge.records.iter().all(|(header, length)| *length == header.length as usize));
}

fn config_comes_back(text: &str) -> Result<()> {
    let config = config::from_json(text)?;
    let again = config::to_json(&config, &config.name, &config.uuid.unwrap_or_default())?;
    assert_eq!(config::from_json(&again)?.disks, config.disks);
    Ok(())
}

/// Messages of another machine's dom0, as they are when their seals are off: a length of 16 bits before each.
struct Line<'a>(&'a [u8]);

impl Messages for Line<'_> {
    async fn send(&mut self, _message: &[u8]) -> Result<()> {
        Ok(())
    }

    async fn receive(&mut self) -> Result<&[u8]> {
        let (length, rest) = self.0.split_first_chunk().context("the line ends")?;
        let (message, rest) = rest.split_at_checked(u16::from_le_bytes(*length).into()).context("the line ends")?;
        self.0 = rest;
        Ok(message)
    }
}

/// What comes over the network where guests move: to who takes one, to who gives one, and from who has no key.
pub(crate) fn moved(input: &[u8]) {
    let taken = now(async {
        let mut taker = Taker::begin(Line(input)).await?;
        let mut judge = Judge::default();
        judge.read(&mut taker).await?;
        taker.hold().await
    });
    let given = now(async {
        let mut giver = Giver::begin(Line(input)).await?;
        giver.ready().await?;
        giver.whole().await?;
        anyhow::Ok(giver.give().await)
    });
    let is_there = matches!(given, Some((Fate::There, None)));
    // One word each, of which the last says that it runs there.
    assert_eq!(is_there, input.starts_with(&[1, 0, 2, 1, 0, 3]) && input.get(8) == Some(&5) && is_told(input));
    assert!(taken.is_none() || given.is_none(), "one and the same is a giver and a taker");
    if let Ok(key) = Key::parse(&"5a".repeat(32)) {
        assert!(now(Sealed::answer(Stranger(input), &key, |bytes| !bytes.is_empty())).is_none());
    }
}

/// Whether the third message is whole.
fn is_told(input: &[u8]) -> bool {
    let Some([low, high]) = input.get(6..8) else { return false };
    let length = u16::from_le_bytes([*low, *high]);
    length != 0 && input.len() >= 8 + usize::from(length)
}

/// A line on which somebody says something, and hears nothing.
struct Stranger<'a>(&'a [u8]);

impl Source for Stranger<'_> {
    async fn read(&mut self, bytes: &mut [u8]) -> Result<()> {
        self.0.read(bytes).await
    }
}

impl Sink for Stranger<'_> {
    async fn write(&mut self, _bytes: &[u8]) -> Result<()> {
        Ok(())
    }
}

/// What has no reason to wait: what comes of it.
fn now<T>(future: impl Future<Output = Result<T>>) -> Option<T> {
    let polled = pin!(future).poll(&mut Context::from_waker(Waker::noop()));
    assert!(polled.is_ready(), "bytes in memory are waited for");
    match polled {
        Poll::Ready(outcome) => outcome.ok(),
        Poll::Pending => None,
    }
}
