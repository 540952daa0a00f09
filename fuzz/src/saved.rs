//! Saved domains as they lie on a disk.

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use anyhow::Result;
use oxen_dom0::saved::walk::Judge;
use oxen_dom0::saved::{config, record};

/// A whole stream, as far as it is one: each record's body is read, and the pages' numbers and kinds.
pub(crate) fn stream(mut input: &[u8]) {
    let mut judge = Judge::default();
    let read = pin!(judge.read(&mut input)).poll(&mut Context::from_waker(Waker::noop()));
    assert!(matches!(read, Poll::Ready(_)), "bytes in memory are waited for");
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
