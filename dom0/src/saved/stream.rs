//! Bytes one after the other, to wherever they are put down and from there.

use core::future::Future;

use anyhow::{Result, bail};
use zerocopy::{FromBytes, IntoBytes};

/// Takes bytes.
pub trait Sink {
    /// Puts all of these down behind what was put down before.
    ///
    /// # Errors
    /// There is no room, or the place failed.
    fn write(&mut self, bytes: &[u8]) -> impl Future<Output = Result<()>>;
}

/// Gives bytes.
pub trait Source {
    /// Fills `bytes` with those that follow.
    ///
    /// # Errors
    /// There are fewer, or the place failed.
    fn read(&mut self, bytes: &mut [u8]) -> impl Future<Output = Result<()>>;
}

/// Reads a structure.
///
/// # Errors
/// As [`Source::read`].
pub async fn read_one<T: FromBytes + IntoBytes>(source: &mut impl Source) -> Result<T> {
    let mut value = T::new_zeroed();
    source.read(value.as_mut_bytes()).await?;
    Ok(value)
}

impl Sink for alloc::vec::Vec<u8> {
    async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.extend_from_slice(bytes);
        Ok(())
    }
}

impl Source for &[u8] {
    async fn read(&mut self, bytes: &mut [u8]) -> Result<()> {
        let Some((now, rest)) = self.split_at_checked(bytes.len()) else { bail!("it ends too early") };
        bytes.copy_from_slice(now);
        *self = rest;
        Ok(())
    }
}
