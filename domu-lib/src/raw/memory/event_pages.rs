//! Pages that the hypervisor writes events to in the FIFO ABI. They are atomics, and never given back.

use super::page::Page;
use crate::raw::hypercall::call::event_op;
use oxen_abi::errno::Errno;

/// Makes a page of zeros vcpu 0's control block, and with it goes over to the FIFO ABI.
///
/// # Errors
/// What the hypervisor answers.
pub(crate) fn give_control(page: &'static Page) -> Result<(), Errno> {
    event_op::init_control(page.mfn().raw())
}

/// Makes a page the event words of the next 1024 ports.
///
/// # Errors
/// What the hypervisor answers.
pub(crate) fn give_words(page: &'static Page) -> Result<(), Errno> {
    event_op::expand_array(page.mfn().raw())
}
