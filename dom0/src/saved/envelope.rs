//! The outer formats: xl's file header with the guest's configuration, and libxl's stream of version 2
//! (`docs/specs/libxl-migration-stream.pandoc`).

use alloc::{string::String, vec, vec::Vec};

use anyhow::{Context, Result, bail, ensure};
use zerocopy::big_endian;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::record::{self, RecordHeader};
use super::stream::{Sink, Source, read_one};

const MAGIC: [u8; 32] = *b"Xen saved domain, xl format\n \0 \r";
const BYTE_ORDER: u32 = 0x0102_0304;
/// Mandatory: the configuration is JSON, and libxl's stream is of version 2.
const JSON_AND_VERSION_2: u32 = 0b11;
/// The longest configuration that is read.
const MAX_CONFIG: u32 = 64 << 10;

/// xl's header.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct FileHeader {
    magic: [u8; 32],
    byte_order: u32,
    mandatory: u32,
    optional: u32,
    /// Bytes that follow: the configuration's length in 32 bits, then the configuration.
    optional_bytes: u32,
}

/// libxl's header.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct StreamHeader {
    ident: big_endian::U64,
    version: big_endian::U32,
    options: big_endian::U32,
}

const IDENT: u64 = 0x4c69_6278_6c46_6d74;
const VERSION: u32 = 2;

const LIBXC_CONTEXT: u32 = 1;
const END: u32 = 0;

/// Puts down what stands before libxc's stream.
///
/// # Errors
/// As [`Sink::write`].
pub async fn begin(sink: &mut impl Sink, config: &str) -> Result<()> {
    let length = u32::try_from(config.len() + 1)?;
    let header = FileHeader {
        magic: MAGIC,
        byte_order: BYTE_ORDER,
        mandatory: JSON_AND_VERSION_2,
        optional: 0,
        optional_bytes: length + 4,
    };
    let stream = StreamHeader { ident: IDENT.into(), version: VERSION.into(), options: 0.into() };
    sink.write(header.as_bytes()).await?;
    sink.write(length.as_bytes()).await?;
    sink.write(config.as_bytes()).await?;
    sink.write(&[0]).await?;
    sink.write(stream.as_bytes()).await?;
    record::write(sink, LIBXC_CONTEXT, &[]).await
}

/// Puts down what stands behind libxc's stream.
///
/// # Errors
/// As [`Sink::write`].
pub async fn end(sink: &mut impl Sink) -> Result<()> {
    record::write(sink, END, &[]).await
}

/// Reads what stands before libxc's stream, and returns the configuration.
///
/// # Errors
/// It is no saved domain, or one of a format that is not known.
pub async fn open(source: &mut impl Source) -> Result<String> {
    let header: FileHeader = read_one(source).await?;
    ensure!(header.magic == MAGIC, "there is no saved domain");
    ensure!(header.byte_order == BYTE_ORDER, "it was saved by a machine of another byte order");
    let unknown = header.mandatory & !JSON_AND_VERSION_2;
    ensure!(unknown == 0, "it is of a later format (mandatory flags {unknown:#x})");
    ensure!(header.mandatory == JSON_AND_VERSION_2, "it is of a format of before Xen 4.6");
    let told: u32 = read_one(source).await?;
    ensure!(told <= MAX_CONFIG && header.optional_bytes.checked_sub(4) == Some(told), "its configuration is damaged");
    let mut config = vec![0; told as usize];
    source.read(&mut config).await?;
    config.retain(|byte| *byte != 0);
    let config = String::from_utf8(config).ok().context("its configuration is damaged")?;
    let stream: StreamHeader = read_one(source).await?;
    ensure!(stream.ident.get() == IDENT, "there is no stream of libxl's behind its configuration");
    let version = stream.version.get();
    ensure!(version == VERSION, "its stream is of version {version}, and {VERSION} is known");
    ensure!(stream.options.get() == 0, "its stream is of a legacy format, or of another byte order");
    let first: RecordHeader = read_one(source).await?;
    ensure!(first.kind == LIBXC_CONTEXT && first.length == 0, "its first record is not libxc's");
    Ok(config)
}

/// Reads what stands behind libxc's stream.
///
/// # Errors
/// There is a record that a paravirtual guest does not have.
pub async fn close(source: &mut impl Source) -> Result<()> {
    loop {
        let header: RecordHeader = read_one(source).await?;
        if header.kind == END {
            return Ok(());
        }
        // What an emulator had: a paravirtual guest's is empty.
        let body: Vec<u8> = record::read_body(source, &header).await?;
        if !header.is_optional() && !body.is_empty() {
            bail!("it has a record of type {:#x}, which no paravirtual guest has", header.kind);
        }
    }
}
