//! The hypervisor's trace buffers (`trace.h`).

use super::sysctl;
use oxen_abi::{
    domctl::XenctlBitmap,
    errno::Errno,
    sysctl::{SysctlTbufOp, XEN_SYSCTL_TBUF_OP},
    trace::{
        XEN_SYSCTL_TBUFOP_DISABLE, XEN_SYSCTL_TBUFOP_ENABLE, XEN_SYSCTL_TBUFOP_GET_INFO,
        XEN_SYSCTL_TBUFOP_SET_EVT_MASK, XEN_SYSCTL_TBUFOP_SET_SIZE,
    },
};

fn trace_op(cmd: u32, evt_mask: u32, size: u32) -> Result<SysctlTbufOp, Errno> {
    let cpu_mask = XenctlBitmap { bitmap: 0, nr_bits: 0, _pad0: 0 };
    let request = SysctlTbufOp { cmd, _pad0: 0, cpu_mask, evt_mask, _pad1: 0, buffer_mfn: 0, size, _pad2: 0 };
    sysctl(XEN_SYSCTL_TBUF_OP, &request)
}

/// What the trace buffers are: the frame of their description (`t_info`), its bytes, the events that are traced. The
/// frame is 0 while there are none.
///
/// # Errors
/// `EPERM` for all but the control domain, `ENOSYS` where the hypervisor was built without.
pub fn trace_info() -> Result<SysctlTbufOp, Errno> {
    trace_op(XEN_SYSCTL_TBUFOP_GET_INFO, 0, 0)
}

/// Makes a trace buffer of so many pages for each processor. They stay as long as the machine runs.
///
/// # Errors
/// `EINVAL` if there are some of another size, `ENOMEM`; as [`trace_info`].
pub fn make_trace_buffers(pages: u32) -> Result<(), Errno> {
    trace_op(XEN_SYSCTL_TBUFOP_SET_SIZE, 0, pages).map(|_| ())
}

/// Begins to trace these events (`TRC_*`), or ends it.
///
/// # Errors
/// `EINVAL` without buffers; as [`trace_info`].
pub fn trace(events: Option<u32>) -> Result<(), Errno> {
    match events {
        Some(mask) => {
            trace_op(XEN_SYSCTL_TBUFOP_SET_EVT_MASK, mask, 0)?;
            trace_op(XEN_SYSCTL_TBUFOP_ENABLE, 0, 0).map(|_| ())
        }
        None => trace_op(XEN_SYSCTL_TBUFOP_DISABLE, 0, 0).map(|_| ()),
    }
}
