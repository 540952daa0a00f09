//! The prompt.

pub mod editor;
