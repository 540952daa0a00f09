//! Scenarios that boot QEMU and judge what comes out: one function per guarantee, its name a sentence.
//!
//! `burn` keeps the machine busy meanwhile, `compiler` makes programs for Linux guests, `core` says which scenarios run
//! on other machines than the installed QEMU, `lab` boots machines and asks questions of their transcripts, `runner`
//! runs scenarios side by side under deadlines, `scenarios` holds them by subject.
#![forbid(unsafe_code)]

mod browser;
pub mod burn;
pub mod compiler;
pub mod core;
pub mod journal;
pub mod lab;
pub mod qmp;
pub mod runner;
pub mod scenarios;
