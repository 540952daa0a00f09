//! Trace buffers (`XEN_SYSCTL_tbuf_op`): their size, once, and what goes into them.

use crate::{
    Hypervisor,
    caller::Caller,
    hypercall::number,
    machine::Machine,
    mem::{RamFrame, frame_type::Owner},
    per_cpu::Work,
    reply::Control,
    trace,
};
use oxen_abi::{
    errno::Errno,
    sysctl::{Sysctl, SysctlTbufOp},
    trace::{
        XEN_SYSCTL_TBUFOP_DISABLE, XEN_SYSCTL_TBUFOP_ENABLE, XEN_SYSCTL_TBUFOP_GET_INFO,
        XEN_SYSCTL_TBUFOP_SET_CPU_MASK, XEN_SYSCTL_TBUFOP_SET_EVT_MASK, XEN_SYSCTL_TBUFOP_SET_SIZE,
    },
};

impl<M: Machine> Caller<'_, M> {
    /// Whatever there is to do with the trace buffers.
    ///
    /// # Errors
    /// `Inval` for a size where there are buffers, for one that is 0 or too large, and where tracing is to begin
    /// without buffers.
    pub(super) fn trace_buffer_op(&self, _: Control, op: &mut Sysctl) -> Result<(), Errno> {
        let request: SysctlTbufOp = op.get();
        let trace = &self.hv.trace;
        match request.cmd {
            XEN_SYSCTL_TBUFOP_GET_INFO => {
                let trace::Info { mask, frame, bytes } = trace.info();
                op.set(&SysctlTbufOp { evt_mask: mask, buffer_mfn: frame, size: bytes, ..request });
            }
            XEN_SYSCTL_TBUFOP_SET_CPU_MASK => trace.set_cpus(self.read_cpu_bitmap(&request.cpu_mask)?),
            XEN_SYSCTL_TBUFOP_SET_EVT_MASK => {
                trace.set_mask(request.evt_mask);
                self.hv.spread_tracing();
            }
            XEN_SYSCTL_TBUFOP_SET_SIZE => self.hv.make_trace_buffers(number::index(request.size))?,
            XEN_SYSCTL_TBUFOP_ENABLE | XEN_SYSCTL_TBUFOP_DISABLE => {
                trace.switch(request.cmd == XEN_SYSCTL_TBUFOP_ENABLE)?;
                self.hv.spread_tracing();
            }
            _ => return Err(Errno::Inval),
        }
        Ok(())
    }
}

impl<M: Machine> Hypervisor<M> {
    /// Makes a buffer of so many pages for each CPU that is up. They stay.
    ///
    /// # Errors
    /// `Inval` if there are some, and for no page or more than can be named; `NoMem` without memory for them.
    pub fn make_trace_buffers(&self, pages: usize) -> Result<(), Errno> {
        let cpus = self.online_cpus().count();
        if pages == 0 || pages > trace::max_pages(cpus) || self.trace.info().frame != 0 {
            return Err(Errno::Inval);
        }
        let mut taken = heapless::Vec::<RamFrame, { trace::MAX_FRAMES }>::new();
        let count = cpus.saturating_mul(pages).saturating_add(1);
        let made =
            (0..count).try_for_each(|_| taken.push(self.memory.take_shared(Owner::XEN)?).map_err(|_| Errno::Inval));
        let made = made.and_then(|()| {
            let frames = taken.iter().map(|&frame| (frame.mfn().raw(), self.machine().halves(frame)));
            self.trace.set_up(self.machine(), self.online_cpus(), pages, frames)
        });
        if made.is_err() {
            taken.iter().for_each(|&frame| self.memory.give_back_shared(frame));
        }
        made
    }

    /// Has every CPU look whether hypercalls are traced.
    pub fn spread_tracing(&self) {
        self.online_cpus().for_each(|cpu| self.raise_work(cpu, Work::RESCHEDULE));
    }
}
