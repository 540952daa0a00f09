//! Shared-memory rings between frontends and backends.
#![no_std]
#![forbid(unsafe_code)]
