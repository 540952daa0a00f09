//! Event channels: the two-level ABI (`event_channel.h`).

/// A domain's event channels.
#[derive(Debug, Default)]
pub struct Events {}
