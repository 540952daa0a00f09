//! The way through libxc's stream, record by record.

use alloc::{string::String, vec::Vec};
use core::future::Future;

use anyhow::{Result, bail};
use oxen_domu_lib::memory::Pfn;

use super::envelope;
use super::record::{self, RecordHeader};
use super::stream::{Source, read_one};
use super::tables::Table;

/// Takes what a stream says of a domain.
pub trait Taker {
    /// Reads the pages of a record of pages, and takes them.
    ///
    /// # Errors
    /// The record breaks the format, names a page that the domain cannot have, or as [`Source::read`].
    fn take_pages(&mut self, source: &mut impl Source, header: &RecordHeader) -> impl Future<Output = Result<()>>;

    /// Takes any other record.
    ///
    /// # Errors
    /// The record breaks the format, or is one that is not known and not optional.
    fn take_record(&mut self, header: &RecordHeader, body: &[u8]) -> Result<()>;
}

/// Reads a stream from its heads to its last record.
///
/// # Errors
/// It is no stream of a paravirtual guest, or one of checkpoints; what the taker refuses; as [`Source::read`].
pub async fn read(source: &mut impl Source, taker: &mut impl Taker) -> Result<()> {
    record::read_heads(source).await?;
    loop {
        let header: RecordHeader = read_one(source).await?;
        match header.kind {
            record::END => return Ok(()),
            record::PAGE_DATA => taker.take_pages(source, &header).await?,
            record::VERIFY | record::CHECKPOINT => bail!("it is a stream of checkpoints, which are not read here"),
            _ => {
                let body = record::read_body(source, &header).await?;
                taker.take_record(&header, &body)?;
            }
        }
    }
}

/// Judges a saved domain as far as that needs no domain: whether the formats hold. Notes what it saw.
#[derive(Debug, Default)]
pub struct Judge {
    /// The guest's configuration, in JSON.
    pub config: String,
    /// Each page's number and kind.
    pub pages: Vec<(Pfn, u8)>,
    /// Pages that have contents.
    pub full: usize,
    /// Each other record's header, with the bytes of its body.
    pub records: Vec<(RecordHeader, usize)>,
}

impl Judge {
    /// Reads a saved domain from its first byte to its last.
    ///
    /// # Errors
    /// It breaks a format; as [`Source::read`].
    pub async fn read(&mut self, source: &mut impl Source) -> Result<()> {
        self.config = envelope::open(source).await?;
        read(source, self).await?;
        envelope::close(source).await
    }
}

impl Taker for Judge {
    async fn take_pages(&mut self, source: &mut impl Source, header: &RecordHeader) -> Result<()> {
        for (page, kind) in record::read_pages(source, header).await? {
            self.pages.push((page, kind));
            if record::has_contents(kind)? {
                let _: Table = read_one(source).await?;
                self.full += 1;
            }
        }
        Ok(())
    }

    fn take_record(&mut self, header: &RecordHeader, body: &[u8]) -> Result<()> {
        self.records.push((*header, body.len()));
        Ok(())
    }
}
