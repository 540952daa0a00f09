//! Saved domains as they lie on a disk.

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use anyhow::{Result, bail};
use oxen_dom0::saved::record::{self, RecordHeader};
use oxen_dom0::saved::stream::read_one;
use oxen_dom0::saved::{config, envelope};

/// A whole stream, as far as it is one: each record's body is read, and the pages' numbers and kinds.
pub(crate) fn stream(input: &[u8]) {
    let read = pin!(read(input)).poll(&mut Context::from_waker(Waker::noop()));
    assert!(matches!(read, Poll::Ready(_)), "bytes in memory are waited for");
}

async fn read(mut input: &[u8]) -> Result<()> {
    let source = &mut input;
    let text = envelope::open(source).await?;
    if let Ok(config) = config::from_json(&text) {
        let again = config::to_json(&config, &config.name, &config.uuid.unwrap_or_default())?;
        assert_eq!(config::from_json(&again)?.disks, config.disks);
    }
    record::read_heads(source).await?;
    loop {
        let header: RecordHeader = read_one(source).await?;
        match header.kind {
            record::END => break,
            record::PAGE_DATA => {
                for (number, kind) in record::read_pages(source, &header).await? {
                    assert!(number < 1 << record::KIND_SHIFT);
                    if record::has_contents(kind)? {
                        let _: [u64; 512] = read_one(source).await?;
                    }
                }
            }
            record::VERIFY | record::CHECKPOINT => bail!("checkpoints"),
            _ => assert_eq!(record::read_body(source, &header).await?.len(), header.length as usize),
        }
    }
    envelope::close(source).await
}
