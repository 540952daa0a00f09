//! Xen's public paravirtual interface for x86-64, as of Xen 4.17.
#![no_std]
#![forbid(unsafe_code)]
