//! Scenarios that boot QEMU and judge what comes out.
