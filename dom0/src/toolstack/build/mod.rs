//! Building a guest: its memory laid out, filled, and started.

pub mod layout;
