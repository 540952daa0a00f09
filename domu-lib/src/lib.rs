//! Runtime and frontends for paravirtual guests on Xen and Oxen.
#![no_std]
