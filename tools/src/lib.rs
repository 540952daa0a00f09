//! What `cargo xtask` and the QEMU tests share: building images, running QEMU.
