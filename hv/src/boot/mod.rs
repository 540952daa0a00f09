//! From the boot loader's hand-over to the first instruction of dom0.
