//! Grant tables, version 1 (`grant_table.h`).

/// What a domain granted and what it maps of others.
#[derive(Debug, Default)]
pub struct Grants {}
